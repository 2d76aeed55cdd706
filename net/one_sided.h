// OneSided: what a link does without the peer's processor, beside the stream of its Connection.
//
// Only queue pairs can. The connection asks for each operation how it leaves. The link keeps the
// contract of net/types.h: it holds an operation back (may_leave()) until those that it could
// overtake are answered.
#pragma once

#include "net/requester.h"

namespace btd::net {

class OneSided {
 public:
  enum class Way : std::uint8_t {
    kStream,  // as a frame with its payload
    kPlaced,  // its bytes are on the way; a frame asks to make them durable
    kTaken,   // the link does it, and says when it is answered
  };

  virtual ~OneSided() = default;
  // Whether the requester's next operation may leave now. If not, the owner pumps again later.
  [[nodiscard]] virtual bool may_leave(const Requester::Next& next) = 0;
  // It leaves. Of another way than kStream the link unpins it, if it has a payload.
  virtual Way leave(const Requester::Frame& frame) = 0;
};

}  // namespace btd::net
