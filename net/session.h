// Session: what two nodes know of each other's operations, longer than a connection lives.
//
// The connecting side chooses its id. When a connection breaks, that side connects anew and says
// the id; the other, which kept the state for a while, goes on where they were. The attempts are
// numbered, and an older one is refused, so that bytes of an old connection never take effect late.
// Pure state; the engine's thread only.
#pragma once

#include <utility>

#include "net/requester.h"
#include "net/responder.h"
#include "net/wire.h"

namespace btd::net {

struct LocalNode {
  NodeId id = 0;
  std::uint32_t capabilities = 0;
  Epoch epoch = 0;
};

class Session {
 public:
  Session(wire::SessionId id, RegionTable& regions, const Limits& limits);

  // The connecting side's: a new attempt's first frame, and what to do with the answer.
  // Errors: EPROTONOSUPPORT, EBUSY, ESTALE, EACCES as the peer refused; EPROTO.
  [[nodiscard]] wire::Hello begin_attempt(const LocalNode& node);
  Status answered(const wire::Hello& answer);

  // Whether it is the same peer's newer attempt: only then its older connection is to end.
  [[nodiscard]] bool is_next(const wire::Hello& hello) const {
    return hello.node == peer_ && hello.attempt > attempt_;
  }
  // The accepting side's; `new_state`, not 0, names the state of a session that was not here
  // before; 0 if it was. The connection of an older attempt must have ended: nothing of it may
  // still be on the way into memory. Errors: ESTALE an old attempt.
  Result<wire::Hello> accept(const wire::Hello& hello, const LocalNode& node,
                             std::uint64_t new_state);

  void down() { requester_.down(); }
  // Once after the peer forgot the session.
  bool take_forgotten() { return std::exchange(is_forgotten_, false); }

  [[nodiscard]] const wire::SessionId& id() const { return id_; }
  [[nodiscard]] NodeId peer() const { return peer_; }
  [[nodiscard]] std::uint32_t peer_capabilities() const { return peer_capabilities_; }
  [[nodiscard]] const Limits& limits() const { return limits_; }
  [[nodiscard]] Requester& requester() { return requester_; }
  [[nodiscard]] const Requester& requester() const { return requester_; }
  [[nodiscard]] Responder& responder() { return responder_; }

 private:
  [[nodiscard]] wire::Hello hello(const LocalNode& node) const;
  void up(const wire::Hello& peers, bool is_known);

  const wire::SessionId id_;
  const Limits limits_;
  std::uint32_t attempt_ = 0;
  bool was_up_ = false, is_forgotten_ = false;
  std::uint64_t state_ = 0;  // of the accepting side, as it was when they last spoke
  NodeId peer_ = 0;
  std::uint32_t peer_capabilities_ = 0;
  Requester requester_;
  Responder responder_;
};

// The version that both sides speak. Errors: EPROTONOSUPPORT; EPROTO it is no hello at all.
Result<std::uint16_t> common_version(const wire::Hello& hello);
// The sentence for a refusal that the peer sent.
Error refused(const wire::Refuse& refuse);

}  // namespace btd::net
