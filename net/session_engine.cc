#include "net/session_engine.h"

#include <algorithm>
#include <cerrno>

namespace btd::net {

namespace {

// Handlers that answer from a completion get their next round at once, but not for ever.
constexpr int kRounds = 4;

wire::Refuse refuse(int error) {
  wire::Refuse frame;
  frame.error = static_cast<std::uint16_t>(error);
  return wire::sealed(frame);
}

}  // namespace

SessionEngine::SessionEngine(const EngineOptions& options, Random random,
                             std::uint32_t capabilities)
    : options_(options),
      node_{.id = options.node, .capabilities = capabilities, .epoch = options.epoch},
      random_(std::move(random)),
      regions_(random_) {}

SessionEngine::~SessionEngine() = default;

Result<RegionDescriptor> SessionEngine::register_region(std::span<std::byte> memory,
                                                        std::uint32_t access, Persist* persist) {
  return regions_.add(memory, access, persist);
}

Status SessionEngine::deregister_region(std::uint64_t key) {
  Status removed = regions_.remove(key);
  const auto closing = closing_.find(key);
  const bool is_used = !removed && removed.error().code == EBUSY;
  if (is_used && closing == closing_.end()) {
    const Time until = after(now(), options_.patience.silence);
    closing_.emplace(key, tasks_later_.add(until, [this, key] { end_users(key); }));
  } else if (!is_used && closing != closing_.end()) {
    tasks_later_.cancel(closing->second);
    closing_.erase(closing);
  }
  return removed;
}

void SessionEngine::end_users(std::uint64_t key) {
  for (const auto& [id, endpoint] : endpoints_) {
    const Connection* connection = endpoint->connection();
    if (connection != nullptr && connection->uses(key))
      fail_link(*endpoint, {ETIMEDOUT, endpoint->peer_name_ +
                                           " took too long over a transfer with a region that "
                                           "is closed here."});
  }
}

void SessionEngine::set_epoch(Epoch epoch) {
  if (epoch == node_.epoch) return;
  node_.epoch = epoch;
  for (const auto& [id, endpoint] : endpoints_)
    if (Connection* connection = endpoint->connection()) connection->fence(epoch);
}

Status SessionEngine::submit(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (tasks_.size() >= kMaxTasks)
      return fail(EAGAIN, "The engine has too many tasks; it is not polled, or overloaded.");
    tasks_.push_back(std::move(task));
  }
  wake();
  return {};
}

bool SessionEngine::has_tasks() {
  const std::lock_guard lock(mutex_);
  return !tasks_.empty();
}

void SessionEngine::run_tasks() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    if (tasks_.empty()) return;
    tasks = std::exchange(tasks_, {});
  }
  for (const auto& task : tasks) task();
}

Result<Endpoint*> SessionEngine::add_connecting(std::string peer_name, Handler& handler) {
  if (endpoints_.size() >= options_.max_endpoints)
    return fail(EMFILE, "The engine has " + std::to_string(options_.max_endpoints) +
                            " endpoints already; close some.");
  const wire::SessionId id{.high = random_(), .low = random_()};
  auto made = make_endpoint(SessionEndpoint::Role::kConnecting, id, std::move(peer_name));
  SessionEndpoint& endpoint = *made;
  endpoint.set_handler(handler);
  endpoint.give_up_ = kNever;
  endpoints_.emplace(id, std::move(made));
  mark(endpoint);
  return &endpoint;
}

SessionEngine::Acceptance SessionEngine::accept(const wire::Hello& hello, std::string peer_name,
                                                const Acceptor& acceptor) {
  if (auto version = common_version(hello); !version) return Refused{refuse(version.error().code)};
  const auto found = endpoints_.find(hello.session);
  const bool is_known = found != endpoints_.end();
  SessionEndpoint* endpoint = is_known ? found->second.get() : nullptr;
  std::unique_ptr<SessionEndpoint> made;
  if (is_known) {
    if (endpoint->role_ != SessionEndpoint::Role::kAccepting || endpoint->is_closing_ ||
        !endpoint->session_.is_next(hello))
      return Refused{refuse(ESTALE)};
    if (endpoint->phase_ != SessionEndpoint::Phase::kDown) return MustBreak{endpoint};
  } else {
    if (endpoints_.size() >= options_.max_endpoints) return Refused{refuse(EBUSY)};
    made = make_endpoint(SessionEndpoint::Role::kAccepting, hello.session, peer_name);
    endpoint = made.get();
  }
  auto answer = endpoint->session_.accept(hello, node_, is_known ? 0 : random_() | 1);
  if (!answer) return Refused{refuse(answer.error().code)};
  endpoint->set_peer_name(std::move(peer_name));
  if (!is_known) {
    Handler* handler = acceptor ? acceptor(*endpoint) : nullptr;
    if (handler == nullptr) {
      std::erase(dirty_, endpoint);  // the acceptor may have used it
      return Refused{refuse(EACCES)};
    }
    endpoint->set_handler(*handler);
    endpoints_.emplace(hello.session, std::move(made));
  }
  endpoint->up(now());
  mark(*endpoint);
  return Accepted{.endpoint = endpoint, .answer = *answer};
}

void SessionEngine::attempt_done(SessionEndpoint& endpoint) {
  endpoint.up(now());
  mark(endpoint);
}

void SessionEngine::link_ended(SessionEndpoint& endpoint, Error why) {
  endpoint.down(std::move(why), now());
  mark(endpoint);
}

void SessionEngine::feed(SessionEndpoint& endpoint, std::span<const std::byte> bytes) {
  Connection* connection = endpoint.connection();
  if (connection == nullptr || endpoint.must_break_) return;
  endpoint.received(round_time());
  mark(endpoint);
  if (auto fed = connection->feed(bytes, node_.epoch); !fed) {
    fail_link(endpoint, {fed.error().code, endpoint.peer_name_ + ": " + fed.error().message});
  } else if (connection->has_bye()) {
    if (!endpoint.is_closing_) endpoint.why_ = {ECONNRESET, endpoint.peer_name_ + " closed."};
    endpoint.is_closing_ = endpoint.has_said_bye_ = true;
    endpoint.must_break_ = true;
  }
}

void SessionEngine::fed_direct(SessionEndpoint& endpoint, std::size_t count) {
  endpoint.received(now());
  endpoint.connection()->end_direct(count);
  mark(endpoint);
}

void SessionEngine::answered(SessionEndpoint& endpoint, const wire::ResponseHeader& header) {
  endpoint.received(round_time());
  endpoint.session_.requester().end_response(header);
  mark(endpoint);
}

void SessionEngine::fail_link(SessionEndpoint& endpoint, Error why) {
  endpoint.break_for(std::move(why));
  mark(endpoint);
}

void SessionEngine::mark(SessionEndpoint& endpoint) {
  if (endpoint.is_dirty_) return;
  endpoint.is_dirty_ = true;
  dirty_.push_back(&endpoint);
}

std::size_t SessionEngine::step() {
  run_tasks();
  const Time time = round_time();
  std::size_t served = tasks_later_.run(time);
  while (!timers_.empty() && timers_.begin()->first <= time) {
    SessionEndpoint& due = *timers_.begin()->second;
    timers_.erase(timers_.begin());
    due.scheduled_ = kNever;
    mark(due);
  }
  return served + serve_marked();
}

std::size_t SessionEngine::serve_marked() {
  const Time time = round_time();
  std::size_t served = 0;
  for (int i = 0; i < kRounds && !dirty_.empty(); ++i) {
    const bool is_durable = regions_.drain();
    round_.swap(dirty_);
    for (SessionEndpoint*& endpoint : round_) {
      SessionEndpoint* const mine = endpoint;
      if (mine == nullptr) continue;
      mine->is_dirty_ = false;
      serve(*mine, time, is_durable);
      ++served;
    }
    round_.clear();
  }
  return served;
}

void SessionEngine::serve(SessionEndpoint& endpoint, Time at, bool is_durable) {
  using Act = SessionEndpoint::Act;
  // Also of a link that has ended: what it executed is asked for again over the next one.
  endpoint.session_.responder().settle(is_durable);
  if (!is_durable) endpoint.break_for({EIO, "This node's NVRAM refused to make a write durable."});
  endpoint.deliver();
  switch (endpoint.act(at)) {
    case Act::kAttempt:
      endpoint.begin_attempt(at);
      start_attempt(endpoint);
      break;
    case Act::kBreak:
      endpoint.phase_ = SessionEndpoint::Phase::kBreaking;
      break_link(endpoint);
      break;
    case Act::kClose:
      return destroy(endpoint);
    case Act::kNothing:
      break;
  }
  endpoint.deliver();
  if (endpoint.phase_ == SessionEndpoint::Phase::kUp && endpoint.connection_->has_output())
    pump(endpoint);
  endpoint.await(at);
  schedule(endpoint);
}

void SessionEngine::schedule(SessionEndpoint& endpoint) {
  const Time next = endpoint.next_time();
  if (next == endpoint.scheduled_) return;
  if (endpoint.scheduled_ != kNever) timers_.erase({endpoint.scheduled_, &endpoint});
  endpoint.scheduled_ = next;
  if (next != kNever) timers_.emplace(next, &endpoint);
}

void SessionEngine::destroy(SessionEndpoint& endpoint) {
  endpoint.is_dirty_ = true;  // what its handler does to it marks nothing
  endpoint.closed();
  if (endpoint.scheduled_ != kNever) timers_.erase({endpoint.scheduled_, &endpoint});
  std::erase(dirty_, &endpoint);
  std::ranges::replace(round_, &endpoint, nullptr);
  endpoints_.erase(endpoint.session_.id());
}

Time SessionEngine::next_time() {
  if (!dirty_.empty() || has_tasks()) return Time{};
  return std::min(tasks_later_.next(), timers_.empty() ? kNever : timers_.begin()->first);
}

}  // namespace btd::net
