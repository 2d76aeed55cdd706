// Responder: what one peer's operations do here. A pure state machine over the memory of the
// regions: no socket, no clock, no thread.
//
// Each operation is executed in the order of its number, once. What was executed is remembered for
// a window, so that a number that comes again (its answer was lost with a connection) is answered
// and not executed, except a read, which changes nothing and runs again.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "alloc/result.h"
#include "net/region_table.h"
#include "net/types.h"
#include "net/wire.h"

namespace btd::net {

// Who gets the peer's messages. `message` is valid during the call. Returns 0, or the errno that
// the sender's completion has (EBUSY: not now).
class MessageSink {
 public:
  virtual ~MessageSink() = default;
  virtual int on_message(std::span<const std::byte> message) = 0;
};

class Responder {
 public:
  Responder(RegionTable& regions, const Limits& limits);

  // The peer's next number is `oldest`: a session begins.
  void start(std::uint64_t oldest);
  // Numbers before `seq` were of operations that need no processor here (net/one_sided.h).
  void skip_to(std::uint64_t seq);

  struct Request {
    wire::RequestHeader header;
    enum class Do : std::uint8_t { kExecute, kAnswerAgain, kIgnore } what = Do::kIgnore;
    int error = 0;  // of one to execute: it is refused with that
    std::uint64_t value = 0;
    RegionTable::Region* region = nullptr;  // that it uses; `users` is counted until release()
    std::byte* at = nullptr;
  };
  // A header came. A write's payload goes to `at`; a send's, up to the granted size, and a cas8's
  // to a buffer of the connection's; that of any other request is skipped. Errors: EPROTO, nothing
  // that an honest peer sends: a gap in the numbers is one unless `may_lose`, when the request is
  // ignored.
  Result<Request> begin(const wire::RequestHeader& header, Epoch epoch, bool may_lose);

  // What is to be answered; of a read, the payload is at `payload` and `region` is still in use
  // until release().
  struct Answer {
    wire::ResponseHeader header;  // not sealed
    std::span<const std::byte> payload;
    RegionTable::Region* region = nullptr;
  };
  // The payload of `request` has come: `payload` is a send's or cas8's. Executes it.
  std::optional<Answer> end(Request& request, std::span<const std::byte> payload,
                            MessageSink& sink);
  // The epoch is another now: a request that waits for its payload is refused, if it was to change
  // memory and is of another one; then it is true, and `at` must take no more bytes.
  static bool fence(Request& request, Epoch epoch);
  // It will not come: the connection ended.
  static void abandon(Request& request);
  static void release(RegionTable::Region* region);

  // The answers up to now left (`is_durable`), or what they say of writes is not true: EIO from
  // now.
  void settle(bool is_durable);

 private:
  struct Result8 {
    std::uint64_t value = 0;
    std::uint16_t error = 0;
    std::uint8_t verb = 0;
  };

  [[nodiscard]] Result8& remembered(std::uint64_t seq) { return ring_[seq % ring_.size()]; }
  static void refuse_epoch(Request& request, Epoch epoch);
  void judge(Request& request, Epoch epoch);
  void execute(Request& request, std::span<const std::byte> payload, MessageSink& sink);

  RegionTable& regions_;
  const Limits limits_;
  std::uint64_t next_ = 0;     // the first number that was not executed
  std::uint64_t settled_ = 0;  // answers below it have left
  std::vector<Result8> ring_;  // made at the first request: an idle peer has none
};

}  // namespace btd::net
