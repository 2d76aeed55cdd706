// SessionEndpoint: an endpoint whose operations travel in frames; what the tcp and sim engines
// share.
//
// It decides when to connect anew, when a peer has been silent too long and when to give up; the
// engine's shell owns the socket (a Link) and does what it says. Times are given, never asked for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/connection.h"
#include "net/engine.h"
#include "net/session.h"

namespace btd::net {

class SessionEngine;

class SessionEndpoint : public Endpoint, public MessageSink {
 public:
  enum class Role : std::uint8_t { kConnecting, kAccepting };
  enum class Phase : std::uint8_t {
    kAttempt,  // the shell connects
    kUp,
    kBreaking,  // the shell ends the link; no I/O on our memory is left when it says so
    kDown,      // kConnecting: until the next attempt; kAccepting: until the peer comes back
    kClosed,    // to be destroyed
  };

  SessionEndpoint(SessionEngine& engine, Role role, wire::SessionId id, std::string peer_name);

  Status post(const Operation& operation) override;
  void close() override;
  [[nodiscard]] bool is_up() const override { return phase_ == Phase::kUp; }
  [[nodiscard]] NodeId peer() const override { return session_.peer(); }
  [[nodiscard]] std::uint32_t capabilities() const override;
  [[nodiscard]] std::string peer_name() const override { return peer_name_; }
  int on_message(std::span<const std::byte> message) override;

  // For the shell.
  [[nodiscard]] Role role() const { return role_; }
  [[nodiscard]] Phase phase() const { return phase_; }
  [[nodiscard]] bool is_closing() const { return is_closing_; }
  [[nodiscard]] Session& session() { return session_; }
  // Of a link that is up; null otherwise.
  [[nodiscard]] Connection* connection() { return connection_ ? &*connection_ : nullptr; }
  void set_handler(Handler& handler) { handler_ = &handler; }
  void set_peer_name(std::string name) { peer_name_ = std::move(name); }

 private:
  friend class SessionEngine;

  enum class Act : std::uint8_t { kNothing, kAttempt, kBreak, kClose };
  // What is due now; `why_` says why it breaks or closes.
  [[nodiscard]] Act act(Time now);
  [[nodiscard]] Act act_when_up(Time now);
  [[nodiscard]] Act act_when_down(Time now) const;
  [[nodiscard]] Time next_time() const;

  void begin_attempt(Time now);
  void up(Time now);
  // Whether the peer owes answers, and since when.
  void await(Time now);
  // A peer that still takes bytes is not silent: it may owe nothing before it has them all.
  void note_taken(Time now);
  // The link has ended, or the attempt failed.
  void down(Error why, Time now);
  // When it is tried anew, and until when.
  void plan_attempts(bool was_connected, Time now);
  void break_for(Error why);
  void received(Time now) { silent_since_ = now; }
  void tell_up();
  void deliver();
  void closed();

  SessionEngine& engine_;
  const Role role_;
  std::string peer_name_;
  Session session_;
  Handler* handler_ = nullptr;
  std::optional<Connection> connection_;

  Phase phase_ = Phase::kDown;
  bool is_closing_ = false;  // close() was called, or the peer said bye
  bool has_said_bye_ = false;
  bool was_up_ = false;        // since the session began
  bool must_break_ = false;    // for why_
  bool must_tell_up_ = false;  // on_up() is owed
  bool is_dirty_ = false;      // in the engine's list
  Error why_;
  Time bye_until_{};  // the last frame may take so long
  Time attempt_until_{};
  Time next_attempt_{};  // of kDown
  Time give_up_{};       // of kDown
  Time backoff_{};       // before the next attempt
  Time up_since_{};
  std::uint64_t answers_before_ = 0;    // of the session, when the link came up
  Time silent_since_ = kNever;          // of a peer that owes answers
  std::optional<std::uint64_t> taken_;  // bytes it had taken when more waited for it
  Time late_until_ = kNever;            // of answers that wait for something to go with
  Time scheduled_ = kNever;             // its place among the engine's timers
  std::vector<Completion> completions_;
};

}  // namespace btd::net
