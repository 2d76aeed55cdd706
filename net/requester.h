// Requester: the operations that one side posted, until each has completed. A pure state machine:
// no socket, no clock, no thread.
//
// Numbers (`seq`) are given at posting and have no gap. An operation is sent in its turn, within
// the window that the peer granted; what has no answer when a connection breaks is sent again over
// the next one, under its old number, so that the responder knows what it did already. One that was
// given up (its deadline passed) is sent as Verb::kNone, to keep the numbers whole.
//
// Pins: while a frame of the connection refers to an operation's buffers, the operation is pinned
// and does not complete, since its buffers would then be the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "alloc/result.h"
#include "net/types.h"
#include "net/wire.h"

namespace btd::net {

class Requester {
 public:
  explicit Requester(Limits limits);

  // Errors: EAGAIN too many are posted, wait for completions; EINVAL too many segments, a cas8
  // that is not of one, or what no verb is; EMSGSIZE more bytes than the limits allow.
  // `epoch`: what the operation was decided in. It keeps that, however late it is sent.
  Status post(const Operation& operation, Epoch epoch);

  // A connection is up. `window`, `message_bytes`, `transfer_bytes`: what the peer grants.
  // `is_known`: it still has what it answered; if not, operations that it may have executed
  // complete with ECONNRESET, except reads.
  struct Grant {
    std::uint32_t window = 0;
    std::uint32_t message_bytes = 0;
    std::uint64_t transfer_bytes = 0;
    bool is_known = false;
  };
  void up(const Grant& grant);
  void down();
  [[nodiscard]] bool is_up() const { return is_up_; }

  struct Frame {
    wire::RequestHeader header;      // not sealed
    std::span<const iovec> payload;  // the list until the next post(), the bytes while it is pinned
    wire::CasOperands operands;      // the payload of a cas8
  };
  // The next one to send, pinned once if it has a payload in the caller's buffers; nullopt: none
  // now.
  std::optional<Frame> next();
  [[nodiscard]] bool has_next() const;
  // What next() would give.
  struct Next {
    std::uint64_t seq = 0;
    Verb verb = Verb::kNone;
    std::uint32_t length = 0;
    Epoch epoch = 0;
    RemoteRange remote;
  };
  [[nodiscard]] std::optional<Next> peek() const;

  // The buffers of an operation that is not completed; the list until the next post().
  [[nodiscard]] std::span<const iovec> segments(std::uint64_t seq) const;
  // It left without the peer's processor (net/one_sided.h); one_sided() are not answered yet.
  void left_one_sided(std::uint64_t seq);
  [[nodiscard]] std::uint64_t one_sided() const { return one_sided_; }

  // An answer's header came. Where its payload goes (the list is valid until the next post());
  // nullopt if its operation is given up or answered, so that the payload is to be skipped. Errors:
  // EPROTO it answers nothing, or not with these bytes.
  Result<std::optional<std::span<const iovec>>> begin_response(
      const wire::ResponseHeader& header) const;
  // Its payload has come too.
  void end_response(const wire::ResponseHeader& header);
  // Whether the payload of an answer that is coming in still has a place to go.
  [[nodiscard]] bool is_wanted(std::uint64_t seq) const;

  void pin(std::uint64_t seq);
  void unpin(std::uint64_t seq);

  // When expire() has something to do, at the earliest.
  [[nodiscard]] Time next_deadline() const { return earliest_; }
  // Gives up what is due. False: something due is pinned; the connection must end to free it.
  [[nodiscard]] bool expire(Time now);
  // All that is not completed completes with `error`. The connection must be down.
  void fail_all(int error);

  // The number of the first operation that is not completed.
  [[nodiscard]] std::uint64_t oldest() const { return oldest_; }
  // Operations that were sent and not answered.
  [[nodiscard]] std::uint64_t unanswered() const { return unanswered_; }
  // Answers that came, ever.
  [[nodiscard]] std::uint64_t answers() const { return answers_; }
  [[nodiscard]] std::uint64_t posted() const { return next_post_ - oldest_; }
  // The number of the next one.
  [[nodiscard]] std::uint64_t posted_end() const { return next_post_; }

  // What completed since the last call, in order; empty afterwards.
  void take_completions(std::vector<Completion>& into);
  [[nodiscard]] bool has_completions() const { return !completions_.empty(); }

 private:
  enum class State : std::uint8_t { kPosted, kAnswered, kCompleted };
  struct Entry {
    Token token = 0;
    Time deadline = kNever;
    Epoch epoch = 0;
    RemoteRange remote;
    std::uint64_t expected = 0, desired = 0;
    std::uint64_t value = 0;
    std::uint32_t length = 0;
    std::uint16_t pins = 0;
    std::uint16_t error = 0;
    Verb verb = Verb::kNone;
    State state = State::kPosted;
    bool is_sent = false;       // on any connection
    bool is_awaited = false;    // sent on this connection and not answered
    bool is_one_sided = false;  // that, without the peer's processor
    std::uint8_t segments = 0;
    std::array<iovec, kMaxSegments> local{};
  };

  [[nodiscard]] Entry& at(std::uint64_t seq) { return ring_[seq & (ring_.size() - 1)]; }
  [[nodiscard]] const Entry& at(std::uint64_t seq) const { return ring_[seq & (ring_.size() - 1)]; }
  void grow();
  void complete(Entry& entry, int error, std::uint64_t value);
  void complete_answered();
  void retire();

  const Limits limits_;
  Grant grant_;
  bool is_up_ = false;
  std::vector<Entry> ring_;            // a power of two; grows up to limits_.queued
  std::uint64_t oldest_ = 0;           // <= next_send_, next_completion_ <= next_post_
  std::uint64_t next_completion_ = 0;  // what is before it has completed
  std::uint64_t next_send_ = 0;
  std::uint64_t next_post_ = 0;
  std::uint64_t unanswered_ = 0;
  std::uint64_t one_sided_ = 0;  // of those
  std::uint64_t answers_ = 0;
  Time earliest_ = kNever;  // no deadline is before it
  std::vector<Completion> completions_;
};

}  // namespace btd::net
