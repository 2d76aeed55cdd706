// Connection: one stream of bytes between two sessions, as a pure state machine: bytes go in,
// memory and sessions change, bytes come out. Whoever owns the stream (a socket, a simulation, a
// fuzzer) feeds it and sends what it gathers. It parses what a peer sent, so it trusts no length.
//
// Ownership: the session and the sink outlive it. When it is destroyed, no I/O on
// bytes that it gave out (gather(), direct()) may be under way; it then frees what it held.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <span>
#include <vector>

#include "net/one_sided.h"
#include "net/output_queue.h"
#include "net/session.h"

namespace btd::net {

class Connection {
 public:
  // `may_lose`: the stream loses, repeats and reorders whole frames, and the session bears it.
  // `one_sided` (outlives this) may be null; if not, the peer's stream lacks what its link did so.
  Connection(Session& session, MessageSink& sink, bool may_lose = false,
             OneSided* one_sided = nullptr);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // Takes bytes that came, cut anywhere. Errors: EPROTO; the connection must end, the session may
  // go on with another. `epoch` is looked at for each request: a receiver of a message may change
  // it.
  Status feed(std::span<const std::byte> bytes, const Epoch& epoch);
  // The epoch is another now: no byte that is fed from now on changes memory for a request of
  // another one. If a direct() place of such a request is held, its owner must end what puts bytes
  // there.
  void fence(Epoch epoch);
  [[nodiscard]] bool is_fenced_direct() const {
    return is_direct_ && state_ == State::kRequest && place_size_ == 0;
  }
  // Whether it waits for bytes to or from the region with this key.
  [[nodiscard]] bool uses(std::uint64_t key) const;

  // Where the next bytes that come may be put without a copy: empty if they are not a payload's.
  // The place is held from begin_direct() to end_direct(), which says how many came.
  [[nodiscard]] std::span<std::byte> direct() const;
  void begin_direct();
  void end_direct(std::size_t count);

  // The next bytes to send (net/output_queue.h). Takes answers and requests in turn as there is
  // room. Only when what was fed is durable: the answers say so.
  std::size_t gather(std::span<iovec> into, std::size_t most);
  // They have left, but whoever sends them refers to them until sent(): others may follow.
  void hold(std::size_t count) { held_ += count; }
  void sent(std::size_t count);
  [[nodiscard]] std::uint64_t sent_bytes() const { return sent_bytes_; }
  [[nodiscard]] bool has_output() const {
    return output_.waiting() > 0 || (!answers_.empty() && !has_late()) ||
           session_.requester().has_next();
  }
  [[nodiscard]] bool is_drained() const { return output_.bytes() == 0 && answers_.empty(); }
  // Answers that nobody waits for, those of messages, wait for something to go with: a frame of
  // their own would wake the peer for nothing. hurry(): they have waited long enough.
  [[nodiscard]] bool has_late() const { return !answers_.empty() && !is_urgent_; }
  void hurry() { is_urgent_ = !answers_.empty(); }
  // Whether all that was to leave has.
  [[nodiscard]] bool is_taken() const {
    return is_drained() || (output_.bytes() == 0 && has_late());
  }
  // Tells the peer that the session ends; nothing may follow.
  void say_bye();
  // The peer has said so: the connection ends, and the session with it.
  [[nodiscard]] bool has_bye() const { return has_bye_; }
  // The peer asks for more than its window and takes no answers: feed nothing until it is false
  // again. Never of an honest peer: two that both fed nothing would wait for each other.
  [[nodiscard]] bool is_full() const { return answers_.size() > session_.limits().window; }

 private:
  enum class State : std::uint8_t { kHeader, kRequest, kResponse };
  static constexpr std::size_t kMostLate = 16;

  Status take_header(const Epoch& epoch);
  Status begin_request(Epoch epoch);
  Status begin_response();
  Status take_bye();
  [[nodiscard]] std::size_t header_bytes() const;
  std::size_t take_payload(std::span<const std::byte> bytes);
  void end_payload();
  void fill();
  [[nodiscard]] std::size_t most_late() const;
  void put_answer();
  bool put_request();
  void put(const Responder::Answer& answer);
  void put(const Requester::Frame& frame);
  void release(const OutputQueue::Owner& owner);

  Session& session_;
  MessageSink& sink_;
  const bool may_lose_;
  OneSided* const one_sided_;

  State state_ = State::kHeader;
  std::array<std::byte, wire::kMaxHeaderBytes> header_{};
  std::size_t header_size_ = 0;  // bytes of it that came

  // Of the frame whose payload is coming in.
  Responder::Request request_;
  wire::ResponseHeader response_;
  std::array<iovec, kMaxSegments> place_{};  // where it goes; no segment: it is skipped
  std::size_t place_size_ = 0, place_at_ = 0, place_offset_ = 0;
  std::size_t remaining_ = 0;
  bool is_direct_ = false;
  bool has_bye_ = false;
  std::vector<std::byte> message_;  // of a send or cas8

  std::deque<Responder::Answer> answers_;  // that have no room in the output yet, or are late
  bool is_urgent_ = false;                 // one of them is
  OutputQueue output_;
  std::size_t held_ = 0;  // of its bytes: hold()
  std::uint64_t sent_bytes_ = 0;
};

}  // namespace btd::net
