#include "net/tcp/tcp_engine.h"

#include <immintrin.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace btd::net {

namespace {

// The destructor's patience with the kernel, which answers a cancellation at once.
constexpr Time kLastPatience = std::chrono::seconds(2);
// Connections that are asked for bytes while the engine spins; the ring waits for those of others.
constexpr std::size_t kAsked = 4;
// Looks at the clock after which another thread may have the core: it may be the peer's, which the
// scheduler likes to put next to who woke it.
constexpr unsigned kYield = 8;
// Nobody spins for so long once others had the core for longer than a spin.
constexpr Time kCrowded = std::chrono::milliseconds(20);
// Looks at the ring between two looks at the clock.
constexpr int kSpins = 32;

}  // namespace

Result<std::unique_ptr<Engine>> make_tcp_engine(const TcpOptions& options) {
  BTD_ASSIGN(std::unique_ptr<Engine> engine, TcpEngine::make(options));
  return engine;
}

Result<std::unique_ptr<TcpEngine>> TcpEngine::make(const TcpOptions& options) {
  BTD_TRY(judge(options.engine));
  BTD_ASSIGN(GuardMaker guards, make_guards(options.security));
  BTD_ASSIGN(std::unique_ptr<Ring> ring, Ring::make());
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  if (!event)
    return btd::fail(errno, std::string("No eventfd can be made: ") + std::strerror(errno));
  UniqueFd alarm(options.engine.is_lent ? ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC) : -1);
  if (options.engine.is_lent && !alarm)
    return btd::fail(errno, std::string("No timerfd can be made: ") + std::strerror(errno));
  BTD_ASSIGN(Random random, system_random());
  return std::unique_ptr<TcpEngine>(new TcpEngine(options, std::move(random), std::move(ring),
                                                  std::move(guards), std::move(event),
                                                  std::move(alarm)));
}

TcpEngine::TcpEngine(const TcpOptions& options, Random random, std::unique_ptr<Ring> ring,
                     GuardMaker guards, UniqueFd event, UniqueFd alarm)
    : SessionEngine(options.engine, std::move(random),
                    kWritesOnce | (std::holds_alternative<TlsSecurity>(options.security)
                                       ? static_cast<std::uint32_t>(kEncrypted)
                                       : 0U)),
      security_(options.security),
      max_handshakes_(std::max(options.max_handshakes, 1U)),
      zero_copy_bytes_(std::max(options.zero_copy_bytes, 1U)),
      is_zero_copy_forced_(options.is_zero_copy_forced),
      multishot_after_(options.multishot_after),
      counts_(options.counts != nullptr ? *options.counts : unasked_),
      guards_(std::move(guards)),
      event_(std::move(event)),
      alarm_(std::move(alarm)),
      ring_(std::move(ring)) {}

// No byte may come into a region any more when the engine is gone.
TcpEngine::~TcpEngine() {
  while (!handshakes_.empty()) end(handshakes_.front(), {});
  while (!links_.empty()) {
    TcpEndpoint* endpoint = std::exchange(links_.front().endpoint, nullptr);
    if (endpoint != nullptr) endpoint->link = nullptr;
    end(links_.front(), {});
  }
  for (Listener& listener : listeners_) cancel_all(listener.socket.get());
  const auto is_busy = [this] {
    return !ended_.empty() || std::ranges::any_of(listeners_, &Listener::is_accepting);
  };
  const Time until = now() + kLastPatience;
  while (is_busy() && now() < until) {
    if (!ring_->sleep(until - now())) break;
    ring_->reap([this](const io_uring_cqe& completion) { take(completion); });
  }
}

Time TcpEngine::now() const {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

io_uring_sqe* TcpEngine::entry() {
  io_uring_sqe* entry = ring_->entry();
  if (entry == nullptr && broken_)
    broken_ = btd::fail(EIO, "io_uring takes no more work; the engine is broken.");
  return entry;
}

// --- Rounds ---

Result<std::size_t> TcpEngine::poll() {
  const std::scoped_lock turn(turn_);
  if (ring_->must_enter() || !is_wake_armed_) BTD_TRY(ring_->enter());
  return round();
}

// Gives the core up for a moment. False: others want it for longer than a spin. Who sleeps then is
// woken at once, and who spins has to wait for its turn.
bool TcpEngine::yield() {
  const Time before = now();
  ::sched_yield();
  const Time after = now();
  if (after - before <= options().spin) return true;
  crowded_until_ = after + kCrowded;
  return false;
}

Result<std::size_t> TcpEngine::wait(Time deadline) {
  const std::scoped_lock turn(turn_);
  // What only waits to be submitted goes with the sleep, in one system call.
  if (ring_->is_asked() || (options().spin > Time{} && ring_->has_entries()))
    BTD_TRY(ring_->enter());
  BTD_ASSIGN(std::size_t events, round());
  if (events > 0) return events;
  Time due = std::min(deadline, next_due());
  const Time began = now();
  const Time spin_until = std::min(due, began < crowded_until_ ? began : began + options().spin);
  for (unsigned i = 1; !ring_->has_events() && now() < spin_until; ++i) {
    if (events = receive_at_once(); events > 0) return end_round(events);
    const bool has_time = queued_.empty();
    const Lent lent(*this, Time{});  // it looks at the time again before it sleeps
    if (has_time)
      for (int j = 0; j < kSpins && !ring_->has_events(); ++j) _mm_pause();
    if (i % kYield == 0 && !yield()) break;
  }
  if (options().is_lent) due = std::min(deadline, next_due());
  const Time left = due == kNever ? kNever : due - now();
  if (!ring_->has_events() && left > Time{}) {
    arm(true);
    if (options().before_sleep) options().before_sleep();
    BTD_TRY(options().is_lent ? sleep_lent(due) : ring_->sleep(left));
  } else if (ring_->must_enter()) {
    BTD_TRY(ring_->enter());
  }
  return round();
}

Result<std::size_t> TcpEngine::round() {
  BTD_TRY(broken_);
  const std::size_t events =
      ring_->reap([this](const io_uring_cqe& completion) { take(completion); });
  return end_round(events + receive_at_once());
}

Result<std::size_t> TcpEngine::end_round(std::size_t events) {
  if (!handshakes_.empty()) end_overdue();
  events += step();
  arm(false);
  return events;
}

Time TcpEngine::next_due() {
  Time due = next_time();
  if (!handshakes_.empty()) due = std::min(due, handshakes_.front().until);
  for (const Listener& listener : listeners_)
    if (!listener.is_accepting) due = std::min(due, listener.next);
  return due;
}

void TcpEngine::take(const io_uring_cqe& completion) {
  if (completion.user_data == 0) return;  // of a cancellation
  switch (static_cast<Io>(completion.user_data & kIoMask)) {
    case Io::kReceive:
      return received(*object_of<Link>(completion.user_data), completion);
    case Io::kSend:
      return sent(*object_of<Link>(completion.user_data), completion.res);
    case Io::kZeroCopy:
      return zero_copied(*object_of<HeldSend>(completion.user_data), completion);
    case Io::kConnect:
      return connected(*object_of<Link>(completion.user_data), completion.res);
    case Io::kAccept:
      return accepted(*object_of<Listener>(completion.user_data), completion);
    case Io::kWake:
      is_wake_armed_ = false;
      is_woken_.store(false, std::memory_order_release);
      return;
    case Io::kAlarm:
      is_alarm_armed_ = false;
      return;
  }
}

// What was put off to the end of the round.
void TcpEngine::arm(bool is_to_sleep) {
  if (!is_wake_armed_) is_wake_armed_ = arm_read(event_.get(), event_value_, Io::kWake);
  for (Listener& listener : listeners_)
    if (!listener.is_accepting && (listener.next == Time{} || now() >= listener.next))
      arm_accept(listener);
  std::size_t kept = 0;
  for (Link* link : queued_) {
    if (link == nullptr) continue;
    const bool is_asked =
        !is_to_sleep && options().spin > Time{} && kept < kAsked && link->state == Link::State::kUp;
    if (is_asked) {
      queued_[kept++] = link;
    } else {
      arm_receive(*link, !is_to_sleep || options().spin == Time{});
    }
  }
  queued_.resize(kept);
}

// False: the ring is broken.
bool TcpEngine::arm_read(int from, std::uint64_t& into, Io what) {
  io_uring_sqe* read = entry();
  if (read == nullptr) return false;
  io_uring_prep_read(read, from, &into, sizeof(into), 0);
  io_uring_sqe_set_data64(read, user_data(this, what));
  return true;
}

void TcpEngine::wake() {
  if (is_woken_.exchange(true, std::memory_order_acq_rel)) return;
  const std::uint64_t one = 1;
  // It can't be full: at most one write comes between two reads.
  static_cast<void>(::write(event_.get(), &one, sizeof(one)));
}

// --- Ends ---

void TcpEngine::fail(Link& link, Error why) {
  if (link.state == Link::State::kUp) {
    fail_link(*link.endpoint, std::move(why));
  } else if (link.state != Link::State::kEnding) {
    end(link, std::move(why));
  }
}

void TcpEngine::end(Link& link, Error why) {
  if (link.state == Link::State::kEnding) return;
  if (link.state == Link::State::kWaiting) --waiting_;
  link.why = std::move(why);
  std::list<Link>& from =
      link.listener != nullptr && link.state != Link::State::kUp ? handshakes_ : links_;
  ended_.splice(ended_.end(), from, link.self);
  // What the peer has not read of an orderly end is still sent; else it is dropped, since it would
  // keep memory for a peer that may be dead.
  Connection* connection = link.endpoint != nullptr ? link.endpoint->connection() : nullptr;
  if (link.state == Link::State::kUp && (connection == nullptr || !connection->is_drained())) {
    const linger reset{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(link.socket.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  }
  link.state = Link::State::kEnding;
  if (link.is_busy()) {
    cancel_all(link.socket.get());
  } else {
    finish(link);
  }
}

void TcpEngine::cancel_all(int socket) {
  io_uring_sqe* cancel = entry();
  if (cancel == nullptr) return;
  io_uring_prep_cancel_fd(cancel, socket, IORING_ASYNC_CANCEL_ALL);
  io_uring_sqe_set_data64(cancel, 0);
}

void TcpEngine::finish(Link& link) {
  if (link.is_busy()) return;
  if (link.notices_due > 0) {
    // The peer may never take what the kernel still refers to: a socket that is reset forgets it.
    link.socket.reset();
    return;
  }
  if (link.is_queued) {
    std::ranges::replace(queued_, &link, nullptr);
    std::ranges::replace(asked_, &link, nullptr);
  }
  TcpEndpoint* endpoint = link.endpoint;
  Error why = std::move(link.why);
  ended_.erase(link.self);
  if (endpoint == nullptr) return;
  endpoint->link = nullptr;
  if (endpoint->phase() == SessionEndpoint::Phase::kAttempt && why.code != ECANCELED &&
      endpoint->tried < endpoint->addresses.size())
    return try_address(*endpoint, std::move(why));
  link_ended(*endpoint, std::move(why));
  accept_waiting();
}

void TcpEngine::break_link(SessionEndpoint& endpoint) {
  auto& mine = static_cast<TcpEndpoint&>(endpoint);
  mine.tried = mine.addresses.size();
  Error why{ECANCELED, "The connection to " + endpoint.peer_name() + " was ended here."};
  if (mine.link == nullptr) return link_ended(endpoint, std::move(why));
  end(*mine.link, std::move(why));
}

}  // namespace btd::net
