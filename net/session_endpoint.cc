#include "net/session_endpoint.h"

#include <algorithm>
#include <cerrno>

#include "net/session_engine.h"

namespace btd::net {

namespace {

constexpr Time kFirstBackoff = std::chrono::milliseconds(10);
constexpr Time kLastBackoff = std::chrono::seconds(1);
// A link that lasted as long was none that breaks at once.
constexpr Time kLasting = kLastBackoff;
constexpr Time kByePatience = std::chrono::milliseconds(200);

// Trying again would not help.
bool is_final(int error) {
  return error == EPROTONOSUPPORT || error == EACCES || error == EKEYREJECTED;
}

}  // namespace

SessionEndpoint::SessionEndpoint(SessionEngine& engine, Role role, wire::SessionId id,
                                 std::string peer_name)
    : engine_(engine),
      role_(role),
      peer_name_(std::move(peer_name)),
      session_(id, engine.regions(), engine.options().limits) {}

Status SessionEndpoint::post(const Operation& operation) {
  if (is_closing_ || phase_ == Phase::kClosed)
    return fail(ENOTCONN, "The endpoint to " + peer_name_ + " is closed.");
  BTD_TRY(session_.requester().post(operation, engine_.epoch()));
  engine_.posted(*this);
  return {};
}

void SessionEndpoint::close() {
  if (is_closing_ || phase_ == Phase::kClosed) return;
  is_closing_ = true;
  why_ = {ECANCELED, "The endpoint was closed here."};
  engine_.mark(*this);
}

std::uint32_t SessionEndpoint::capabilities() const {
  return engine_.node().capabilities & session_.peer_capabilities();
}

int SessionEndpoint::on_message(std::span<const std::byte> message) {
  tell_up();
  if (is_closing_ || handler_ == nullptr) return EBUSY;
  return handler_->on_message(*this, message);
}

SessionEndpoint::Act SessionEndpoint::act(Time now) {
  switch (phase_) {
    case Phase::kAttempt:
      static_cast<void>(session_.requester().expire(now));
      if (is_closing_) return Act::kBreak;
      if (now < attempt_until_) return Act::kNothing;
      why_ = {ETIMEDOUT,
              peer_name_ + " did not answer; is its daemon running, and can it be reached?"};
      return Act::kBreak;
    case Phase::kUp:
      return act_when_up(now);
    case Phase::kDown:
      static_cast<void>(session_.requester().expire(now));
      return act_when_down(now);
    default:
      return Act::kNothing;
  }
}

SessionEndpoint::Act SessionEndpoint::act_when_up(Time now) {
  if (must_break_) return Act::kBreak;
  Requester& requester = session_.requester();
  if (!requester.expire(now)) {
    why_ = {ETIMEDOUT, peer_name_ + " took too long to take or give an operation's bytes."};
    return Act::kBreak;
  }
  if (is_closing_) {
    if (!has_said_bye_) {
      has_said_bye_ = true;
      bye_until_ = after(now, kByePatience);
      requester.down();  // asks for nothing more
      connection_->say_bye();
    }
    return connection_->is_drained() || now >= bye_until_ ? Act::kBreak : Act::kNothing;
  }
  if (engine_.options().late == Time{} || now >= late_until_) connection_->hurry();
  note_taken(now);
  if (requester.unanswered() > 0 && silent_since_ != kNever &&
      now - silent_since_ >= engine_.options().patience.silence) {
    why_ = {ETIMEDOUT, peer_name_ + " has been silent for too long."};
    return Act::kBreak;
  }
  return Act::kNothing;
}

void SessionEndpoint::note_taken(Time now) {
  const auto before = std::exchange(taken_, std::nullopt);
  if (!connection_) return;
  const std::uint64_t sent = connection_->sent_bytes();
  if (before && *before != sent && silent_since_ != kNever) silent_since_ = now;
  // The kernel takes bytes of which none wait, whatever became of the peer.
  if (!connection_->is_taken()) taken_ = sent;
}

void SessionEndpoint::await(Time now) {
  note_taken(now);
  const bool has_late = connection_ && connection_->has_late();
  late_until_ = has_late ? std::min(late_until_, after(now, engine_.options().late)) : kNever;
  if (session_.requester().unanswered() == 0) {
    silent_since_ = kNever;
  } else if (silent_since_ == kNever) {
    silent_since_ = now;
  }
}

SessionEndpoint::Act SessionEndpoint::act_when_down(Time now) const {
  if (is_closing_ || now >= give_up_) return Act::kClose;
  return role_ == Role::kConnecting && now >= next_attempt_ ? Act::kAttempt : Act::kNothing;
}

Time SessionEndpoint::next_time() const {
  const Requester& requester = session_.requester();
  Time next = requester.next_deadline();
  switch (phase_) {
    case Phase::kAttempt:
      return std::min(next, attempt_until_);
    case Phase::kUp:
      if (is_closing_) next = std::min(next, bye_until_);
      next = std::min(next, late_until_);
      if (silent_since_ != kNever && requester.unanswered() > 0)
        next = std::min(next, after(silent_since_, engine_.options().patience.silence));
      return next;
    case Phase::kDown:
      next = std::min(next, give_up_);
      return role_ == Role::kConnecting ? std::min(next, next_attempt_) : next;
    default:
      return kNever;
  }
}

void SessionEndpoint::begin_attempt(Time now) {
  phase_ = Phase::kAttempt;
  attempt_until_ = after(now, engine_.options().patience.connect);
}

void SessionEndpoint::up(Time now) {
  phase_ = Phase::kUp;
  was_up_ = true;
  must_break_ = false;
  must_tell_up_ = true;
  up_since_ = now;
  answers_before_ = session_.requester().answers();
  silent_since_ = kNever;
  connection_.emplace(session_, *this, engine_.may_lose(), engine_.one_sided(*this));
}

void SessionEndpoint::break_for(Error why) {
  if (phase_ != Phase::kUp || must_break_) return;
  must_break_ = true;
  why_ = std::move(why);
}

void SessionEndpoint::down(Error why, Time now) {
  const bool was_connected = connection_.has_value();
  const bool is_ours = phase_ == Phase::kBreaking;  // broken for why_, which knows better
  connection_.reset();
  late_until_ = kNever;
  session_.down();
  phase_ = Phase::kDown;
  must_break_ = false;
  plan_attempts(was_connected, now);
  if (!is_closing_ && !is_ours) why_ = std::move(why);
  const bool is_hopeless = role_ == Role::kConnecting && (!was_up_ || is_final(why_.code));
  const Error told = why_;  // the handler may close it
  if (was_connected && !is_closing_ && !must_tell_up_ && handler_ != nullptr)
    handler_->on_down(*this, told);
  must_tell_up_ = false;
  if (is_hopeless) is_closing_ = true;
}

// Links that come up and break at once, for what is said over them, would else follow each other as
// fast as the network can: only an answer, or a link that lasted, makes the next attempt immediate.
void SessionEndpoint::plan_attempts(bool was_connected, Time now) {
  const Patience& patience = engine_.options().patience;
  const bool was_of_use = was_connected && (session_.requester().answers() != answers_before_ ||
                                            now - up_since_ >= kLasting);
  if (was_connected)
    give_up_ = after(now, role_ == Role::kConnecting ? patience.reconnect : patience.linger);
  backoff_ = was_of_use ? Time{} : std::clamp(2 * backoff_, kFirstBackoff, kLastBackoff);
  next_attempt_ = after(now, backoff_);
}

void SessionEndpoint::tell_up() {
  if (!must_tell_up_ || handler_ == nullptr) return;
  must_tell_up_ = false;
  handler_->on_up(*this);
}

void SessionEndpoint::deliver() {
  tell_up();
  while (session_.requester().has_completions()) {
    session_.requester().take_completions(completions_);
    for (const Completion& completion : completions_)
      if (handler_ != nullptr) handler_->on_completion(*this, completion);
  }
  if (session_.take_forgotten() && handler_ != nullptr) handler_->on_forgotten(*this);
}

void SessionEndpoint::closed() {
  session_.requester().fail_all(ECONNRESET);
  must_tell_up_ = false;
  phase_ = Phase::kClosed;
  deliver();
  if (handler_ != nullptr) handler_->on_closed(*this, why_);
}

}  // namespace btd::net
