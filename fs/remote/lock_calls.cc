#include "fs/remote/lock_calls.h"

#include <algorithm>
#include <cerrno>
#include <future>
#include <utility>

#include "alloc/raise_to.h"

namespace btd::remote {

namespace {

constexpr net::Time kFirstBackoff = std::chrono::milliseconds(50);
constexpr net::Time kLastBackoff = std::chrono::seconds(1);
// A home in its grace is asked so often, and longer than that lasts.
constexpr net::Time kAskAgain = std::chrono::milliseconds(200);
constexpr net::Time kGracePatience = std::chrono::seconds(20);

const Error kLost{EIO, "A lock on the file was lost; close the file and begin anew."};

wire::LockRequest said_of(const LockTable::Held& held) {
  return {.id = held.id,
          .owner = held.lock.owner.number,
          .start = held.lock.start,
          .end = held.lock.end,
          .pid = held.lock.pid,
          .flags = wire::kLockReclaim | (held.lock.is_exclusive ? wire::kLockExclusive : 0U) |
                   (held.kind == LockKind::kFile ? wire::kLockFile : 0U)};
}

LockTable::Held held_of(const KeptLock& kept) {
  return {.id = kept.id,
          .kind = kept.kind,
          .lock = {.owner = {{}, kept.owner},
                   .start = kept.start,
                   .end = kept.end,
                   .is_exclusive = kept.is_exclusive,
                   .pid = kept.pid}};
}

}  // namespace

LockCalls::LockCalls(NodeId own, LockService& service, LockMemory& memory, EngineFactory engines,
                     Locate locate, net::Time deadline, HomeOf home_of, NameRevision names)
    : own_(own),
      home_of_(std::move(home_of)),
      service_(service),
      memory_(memory),
      engines_(std::move(engines)),
      locate_(std::move(locate)),
      patience_(deadline),
      names_(std::move(names)) {
  service_.serve_own([this](std::uint64_t wait) { own_granted(wait); });
  service_.note_peers([&memory] { memory.note_peers(); });
}

NodeId LockCalls::home_of_kept(const KeptLock& kept) const {
  return kept.id == 0 ? static_cast<NodeId>(kept.owner) : home_of_(kept.id);
}

LockCalls::~LockCalls() {
  service_.serve_own({});
  service_.note_peers({});
  is_stopping_.store(true);
  if (!thread_.joinable()) return;
  engine_->wake();
  thread_.join();
}

// --- What is asked ---

void LockCalls::lock(const wire::LockRequest& request, std::uint64_t handle, Told told) {
  if (!memory_.has_room())
    return told(fail(ENOLCK, "The programs of this node have too many locks; release some."));
  bool is_lost = false;
  {
    const std::scoped_lock lock(mutex_);
    is_lost = lost_.contains({request.id, request.owner});
    if (!is_lost) {
      auto& uses = uses_[request.id];
      const auto is_known = [&](const Use& use) {
        return use.owner == request.owner && use.handle == handle;
      };
      if (std::ranges::none_of(uses, is_known)) uses.push_back({request.owner, handle});
    }
  }
  if (is_lost) return told(std::unexpected(kLost));
  ask(Kind::kLock, request, std::move(told));
}

// --- What outlives this process ---

Status LockCalls::restore(const std::vector<KeptLock>& locks) {
  std::vector<KeptLock> away;
  for (const KeptLock& lock : locks) {
    if (lock.id == 0) {
      away.push_back(lock);
      continue;
    }
    const std::scoped_lock guard(mutex_);
    uses_[lock.id].push_back({lock.owner, lock.handle});
    if (lock.is_lost) {
      lost_.insert({lock.id, lock.owner});
    } else if (home_of_(lock.id) != own_) {
      away.push_back(lock);
    } else {
      // Nobody else has anything here yet: it can't fail.
      static_cast<void>(service_.lock({own_, kOwnClient}, said_of(held_of(lock))));
    }
    lost_count_.store(lost_.size());
  }
  if (away.empty()) return {};
  BTD_TRY(start());
  post([this, away] {
    for (const KeptLock& lock : away) {
      Home& home = homes_[home_of_kept(lock)];
      home.previous = lock.client;
      if (lock.id == 0) continue;
      const LockTable::Held held = held_of(lock);
      static_cast<void>(home.granted.lock({.id = held.id, .kind = held.kind, .lock = held.lock}));
    }
    for (const KeptLock& lock : away) connect(home_of_kept(lock));
  });
  return {};
}

std::uint64_t LockCalls::handle_of(InodeId id, std::uint64_t owner) const {
  const std::scoped_lock lock(mutex_);
  const auto found = uses_.find(id);
  if (found == uses_.end()) return 0;
  const auto use = std::ranges::find(found->second, owner, &Use::owner);
  return use == found->second.end() ? 0 : use->handle;
}

void LockCalls::keep(InodeId id, std::uint64_t owner, std::uint64_t client,
                     const std::vector<LockTable::Held>& held) {
  std::vector<KeptLock> kept;
  const std::uint64_t handle = held.empty() ? 0 : handle_of(id, owner);
  for (const LockTable::Held& one : held)
    kept.push_back({.id = id,
                    .owner = owner,
                    .handle = handle,
                    .client = client,
                    .start = one.lock.start,
                    .end = one.lock.end,
                    .pid = one.lock.pid,
                    .kind = one.kind,
                    .is_exclusive = one.lock.is_exclusive});
  memory_.keep(id, owner, kept);
}

void LockCalls::remember_own(InodeId id, std::uint64_t owner) {
  const std::scoped_lock lock(remember_mutex_);
  if (is_lost(id, owner)) return;
  keep(id, owner, kOwnClient, service_.held(id, {{own_, kOwnClient}, owner}));
}

void LockCalls::remember(const Home& home, InodeId id, std::uint64_t owner) {
  keep(id, owner, home.previous, home.granted.held_by(id, {{}, owner}));
}

void LockCalls::test(const wire::LockRequest& request, Told told) {
  ask(Kind::kTest, request, std::move(told));
}

void LockCalls::unlock(const wire::LockRequest& request, Told told) {
  if (lost_count_.load() != 0 && give_up_lost(request.id, request.owner))
    told = [told = std::move(told)](const auto&) { told(std::unexpected(kLost)); };
  ask(Kind::kUnlock, request, std::move(told));
}

void LockCalls::learn(std::uint64_t names) {
  if (names <= kLastRevision) raise_to(learned_, names);
}

// One that closed the file meanwhile has nothing to give up.
void LockCalls::lose(InodeId id, std::uint64_t owner) {
  bool is_used = false;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = uses_.find(id);
    is_used = found != uses_.end() && std::ranges::count(found->second, owner, &Use::owner) != 0;
    if (is_used) lost_.insert({id, owner});
    lost_count_.store(lost_.size());
  }
  if (is_used) keep_lost(id, owner);
  ask(Kind::kUnlock, {.id = id, .owner = owner, .flags = wire::kLockAll}, [](const auto&) {});
}

bool LockCalls::closed(InodeId id, std::uint64_t owner, const Told& told) {
  {
    const std::scoped_lock lock(mutex_);
    const auto found = uses_.find(id);
    if (found == uses_.end()) return false;
    const auto gone = std::erase_if(found->second, [&](const Use& u) { return u.owner == owner; });
    if (found->second.empty()) uses_.erase(found);
    if (gone == 0) return false;
  }
  unlock({.id = id, .owner = owner, .flags = wire::kLockAll}, told);
  return true;
}

void LockCalls::released(InodeId id, std::uint64_t handle) {
  std::set<std::uint64_t> owners;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = uses_.find(id);
    if (found == uses_.end()) return;
    for (const Use& use : found->second)
      if (use.handle == handle) owners.insert(use.owner);
  }
  for (const std::uint64_t owner : owners) closed(id, owner, [](const auto&) {});
}

void LockCalls::ask(Kind kind, wire::LockRequest request, Told told) {
  request.names = names();
  if (home_of_(request.id) == own_) return begin_own(kind, request, std::move(told));
  if (auto started = start(); !started) return told(std::unexpected(std::move(started).error()));
  const Asked asked{
      .kind = kind, .request = request, .told = std::move(told), .may_wait = request.wait != 0};
  post([this, asked] { begin(asked); });
}

bool LockCalls::is_lost(InodeId id) const {
  if (lost_count_.load(std::memory_order_relaxed) == 0) return false;
  const std::scoped_lock lock(mutex_);
  const auto first = lost_.lower_bound({id, 0});
  return first != lost_.end() && first->first == id;
}

bool LockCalls::is_lost(InodeId id, std::uint64_t owner) const {
  const std::scoped_lock lock(mutex_);
  return lost_.contains({id, owner});
}

bool LockCalls::give_up_lost(InodeId id, std::uint64_t owner) {
  {
    const std::scoped_lock lock(mutex_);
    if (lost_.erase({id, owner}) == 0) return false;
    lost_count_.store(lost_.size());
  }
  memory_.keep(id, owner, {});
  return true;
}

void LockCalls::lose(const LockTable::Held& held) {
  {
    const std::scoped_lock lock(mutex_);
    lost_.insert({held.id, held.lock.owner.number});
    lost_count_.store(lost_.size());
  }
  keep_lost(held.id, held.lock.owner.number);
}

void LockCalls::keep_lost(InodeId id, std::uint64_t owner) {
  losses_.fetch_add(1, std::memory_order_relaxed);
  memory_.keep(id, owner,
               {{.id = id, .owner = owner, .handle = handle_of(id, owner), .is_lost = true}});
  if (!is_lost(id, owner)) memory_.keep(id, owner, {});  // it was closed meanwhile
}

// --- Files that lie here ---

Result<wire::LockAnswer> LockCalls::ask_own(Kind kind, const wire::LockRequest& request,
                                            wire::LockFound& found) {
  const LockClient client{own_, kOwnClient};
  if (kind == Kind::kLock) {
    auto answer = service_.lock(client, request);
    if (answer) found.names = answer->names;
    return answer;
  }
  if (kind == Kind::kTest) {
    BTD_ASSIGN(found, service_.test(client, request));
  } else {
    BTD_TRY(service_.unlock(client, request));
  }
  return wire::LockAnswer{.state = wire::kLockGranted};
}

void LockCalls::begin_own(Kind kind, const wire::LockRequest& request, Told told) {
  const auto asked = std::make_shared<OwnAsked>();
  asked->kind = kind;
  asked->request = request;
  asked->told = std::move(told);
  asked->until = Clock::now() + kGracePatience;
  if (request.wait != 0) {
    // Before it is asked for: it may be granted at once.
    const std::scoped_lock lock(mutex_);
    own_waits_[request.wait] = asked;
  }
  try_own(asked);
}

void LockCalls::try_own(const std::shared_ptr<OwnAsked>& asked) {
  wire::LockFound found;
  const auto answer = ask_own(asked->kind, asked->request, found);
  if (answer && answer->state == wire::kLockQueued) return;
  if (!answer && answer.error().code == EBUSY && Clock::now() < asked->until && start()) {
    asked->is_retrying.store(true);
    return post([this, asked] {
      engine_->at(engine_->now() + kAskAgain, [this, asked] { try_own_again(asked); });
    });
  }
  if (asked->request.wait != 0 && !take_own(asked->request.wait)) return;
  if (answer && asked->kind != Kind::kTest) remember_own(asked->request.id, asked->request.owner);
  if (!answer) return asked->told(std::unexpected(answer.error()));
  asked->told(found);
}

void LockCalls::try_own_again(const std::shared_ptr<OwnAsked>& asked) {
  if (asked->request.wait != 0) {
    const std::scoped_lock lock(mutex_);
    if (!own_waits_.contains(asked->request.wait)) return;  // cancelled
  }
  asked->is_retrying.store(false);
  try_own(asked);
}

std::shared_ptr<LockCalls::OwnAsked> LockCalls::take_own(std::uint64_t wait) {
  const std::scoped_lock lock(mutex_);
  auto taken = own_waits_.extract(wait);
  return taken.empty() ? nullptr : std::move(taken.mapped());
}

void LockCalls::own_granted(std::uint64_t wait) {
  const auto asked = take_own(wait);
  if (!asked) return;
  remember_own(asked->request.id, asked->request.owner);
  asked->told(wire::LockFound{.names = service_.names()});
}

void LockCalls::cancel_own(std::uint64_t wait) {
  if (service_.cancel({own_, kOwnClient}, wait).state != wire::kLockCancelled) {
    const std::scoped_lock lock(mutex_);
    const auto found = own_waits_.find(wait);
    if (found == own_waits_.end() || !found->second->is_retrying.load()) return;
  }
  if (const auto asked = take_own(wait)) asked->told(fail(EINTR));
}

// --- The thread ---

Status LockCalls::start() {
  const std::scoped_lock lock(start_mutex_);
  if (thread_.joinable()) return {};
  BTD_ASSIGN(engine_, engines_());
  thread_ = std::thread([this] { run(); });
  return {};
}

void LockCalls::post(const std::function<void()>& task) {
  while (!engine_->submit(task)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void LockCalls::run() {
  rpc_.emplace(*engine_, *this);
  rpc_->serve<wire::LockWait, wire::Done>(
      wire::kGranted, [this](const net::Rpc::Caller&, const wire::LockWait& wait, net::Rpc::Bytes,
                             net::Rpc::Reply reply) {
        reply.answer(wire::Done{});
        granted(wait);
      });
  while (!is_stopping_.load())
    if (!engine_->wait(net::kNever)) break;
  // Nothing is closed: another process may take the locks over. Who unmounts has none left.
  rpc_.reset();
}

void LockCalls::begin(Asked asked) {
  const std::uint64_t number = next_++;
  asked.deadline = net::after(engine_->now(), patience_);
  const NodeId node = home_of_(asked.request.id);
  if (asked.may_wait) by_wait_[asked.request.wait] = number;
  if (asked.may_wait) asked.request.wait = number;
  asked_.emplace(number, std::move(asked));
  Home& home = homes_[node];
  if (home.is_ready) {
    send(number);
  } else {
    connect(node);
  }
}

void LockCalls::connect(NodeId node) {
  Home& home = homes_[node];
  if (home.endpoint != nullptr || home.is_retrying) return;
  const auto address = locate_(node);
  if (!address) {
    home.why = address.error().message;
    return retry(node);
  }
  const auto endpoint = engine_->connect(*address, *rpc_);
  if (!endpoint) {
    home.why = endpoint.error().message;
    return retry(node);
  }
  home.endpoint = *endpoint;
  home.is_ready = false;
}

// Tries again as long as somebody waits for the home, or has locks there.
void LockCalls::retry(NodeId node) {
  Home& home = homes_[node];
  std::vector<std::uint64_t> late;
  bool is_wanted = home.granted.counts().locks != 0;
  for (const auto& [number, asked] : asked_) {
    if (home_of_(asked.request.id) != node) continue;
    if (engine_->now() >= asked.deadline) late.push_back(number);
    is_wanted = true;
  }
  const std::string why =
      "Node " + std::to_string(node) + ", the home of the file, can't be reached: " + home.why;
  for (const std::uint64_t number : late) finish(number, fail(EHOSTUNREACH, why));
  if (!is_wanted || home.is_retrying) return;
  home.is_retrying = true;
  home.backoff = std::clamp(2 * home.backoff, kFirstBackoff, kLastBackoff);
  engine_->at(engine_->now() + home.backoff, [this, node] {
    homes_[node].is_retrying = false;
    connect(node);
  });
}

void LockCalls::on_up(net::Endpoint& endpoint) {
  for (auto& [node, home] : homes_) {
    if (home.endpoint != &endpoint) continue;
    // Each time: home may have started anew, and the endpoint with it, unseen.
    home.is_ready = false;
    if (home.client == 0) home.client = random_number();
    const Status greeted = rpc_->call<wire::LockGreeting, wire::LockWelcome>(
        endpoint, wire::kLockGreet, {.client = home.client, .previous = home.previous}, {},
        net::kNever,
        [this, node, &endpoint](const Result<wire::LockWelcome>& welcome, net::Rpc::Bytes) {
          if (welcome) return welcomed(node, *welcome);
          homes_[node].why = welcome.error().message;
          endpoint.close();
        });
    if (!greeted) endpoint.close();
  }
}

void LockCalls::on_down(net::Endpoint& endpoint, const Error& why) {
  for (auto& [node, home] : homes_) {
    if (home.endpoint != &endpoint) continue;
    home.is_ready = false;
    home.why = why.message;
  }
}

void LockCalls::welcomed(NodeId node, const wire::LockWelcome& welcome) {
  Home& home = homes_[node];
  if ((welcome.flags & wire::kLockWaitsKept) == 0) interrupt(node);
  home.backoff = {};
  const bool is_kept = (welcome.flags & wire::kLocksKept) != 0;
  const auto held = home.granted.held_by(LockClient{});
  home.is_in_doubt = false;
  if (is_kept || held.empty()) return ready(node);
  if ((welcome.flags & wire::kLocksReclaim) != 0) {
    home.to_reclaim = held;
    return reclaim_next(node);
  }
  for (const LockTable::Held& one : held) lose(one);
  home.granted = {};
  ready(node);
}

// One after the other: home takes so many calls at once, and there may be more locks.
void LockCalls::reclaim_next(NodeId node) {
  Home& home = homes_[node];
  if (home.endpoint == nullptr) return;
  if (home.to_reclaim.empty()) return ready(node);
  const LockTable::Held held = home.to_reclaim.back();
  home.to_reclaim.pop_back();
  const Status asked = rpc_->call<wire::LockRequest, wire::LockAnswer>(
      *home.endpoint, wire::kLock, said_of(held), {}, net::kNever,
      [this, node, held](const Result<wire::LockAnswer>& answer, net::Rpc::Bytes) {
        reclaimed(node, held, answer ? 0 : answer.error().code);
      });
  if (!asked) home.endpoint->close();  // the next connection begins again
}

// A connection that breaks meanwhile begins again, with all that is still granted.
void LockCalls::reclaimed(NodeId node, const LockTable::Held& held, int error) {
  Home& home = homes_[node];
  if (error == EAGAIN || (error != 0 && !is_passing(error))) {
    give_up(home, held);
  } else if (error != 0) {
    if (home.endpoint != nullptr) home.endpoint->close();
    return;
  }
  reclaim_next(node);
}

void LockCalls::give_up(Home& home, const LockTable::Held& held) {
  lose(held);
  home.granted.release(held.id, held.lock.owner);
}

void LockCalls::ready(NodeId node) {
  Home& home = homes_[node];
  home.is_ready = true;
  home.previous = home.client;
  memory_.keep(0, node, {{.owner = node, .client = home.client}});
  std::set<std::pair<InodeId, std::uint64_t>> owners;
  for (const LockTable::Held& held : home.granted.held_by(LockClient{}))
    owners.insert({held.id, held.lock.owner.number});
  for (const auto& [id, owner] : owners) remember(home, id, owner);
  std::vector<std::uint64_t> numbers;
  for (const auto& [number, asked] : asked_)
    if (home_of_(asked.request.id) == node && asked.state == State::kIdle)
      numbers.push_back(number);
  for (const std::uint64_t number : numbers) send(number);
}

// --- One request ---

void LockCalls::send(std::uint64_t number) {
  const auto found = asked_.find(number);
  if (found == asked_.end() || found->second.state != State::kIdle) return;
  Asked& asked = found->second;
  Home& home = homes_[home_of_(asked.request.id)];
  if (!home.is_ready) return connect(home_of_(asked.request.id));
  asked.state = State::kSent;
  // Without a deadline: home answers, or the endpoint ends when its patience does.
  Status sent;
  if (asked.kind == Kind::kLock) {
    sent = rpc_->call<wire::LockRequest, wire::LockAnswer>(
        *home.endpoint, wire::kLock, asked.request, {}, net::kNever,
        [this, number](const Result<wire::LockAnswer>& answer, net::Rpc::Bytes) {
          answer ? answered(number, *answer) : failed(number, answer.error());
        });
  } else if (asked.kind == Kind::kUnlock) {
    sent = rpc_->call<wire::LockRequest, wire::Done>(
        *home.endpoint, wire::kUnlock, asked.request, {}, net::kNever,
        [this, number](const Result<wire::Done>& done, net::Rpc::Bytes) {
          done ? finish(number, wire::LockFound{}) : failed(number, done.error());
        });
  } else {
    sent = rpc_->call<wire::LockRequest, wire::LockFound>(
        *home.endpoint, wire::kTestLock, asked.request, {}, net::kNever,
        [this, number](const Result<wire::LockFound>& answer, net::Rpc::Bytes) {
          answer ? finish(number, *answer) : failed(number, answer.error());
        });
  }
  if (!sent) failed(number, sent.error());
}

void LockCalls::answered(std::uint64_t number, const wire::LockAnswer& answer) {
  const auto found = asked_.find(number);
  if (found == asked_.end()) return;  // its grant was faster
  if (answer.state == wire::kLockGranted)
    return finish(number, wire::LockFound{.names = answer.names});
  found->second.state = State::kQueued;
  if (found->second.is_cancelled) send_cancel(number);
}

void LockCalls::failed(std::uint64_t number, const Error& error) {
  const auto found = asked_.find(number);
  if (found == asked_.end()) return;
  Asked& asked = found->second;
  if (error.code == EAGAIN && asked.kind == Kind::kLock && asked.request.wait == 0)
    return finish(number, std::unexpected(error));
  if (!is_passing(error.code)) return finish(number, std::unexpected(error));
  asked.state = State::kIdle;
  // A home in its grace takes longer.
  const net::Time extra = error.code == EBUSY ? kGracePatience - patience_ : net::Time{};
  const bool is_late = engine_->now() >= asked.deadline + extra;
  if (asked.is_cancelled || is_late) {
    if (asked.kind != Kind::kTest) homes_[home_of_(asked.request.id)].is_in_doubt = true;
    return finish(number, asked.is_cancelled ? fail(EINTR) : std::unexpected(error));
  }
  engine_->at(engine_->now() + kAskAgain, [this, number] { send(number); });
}

void LockCalls::granted(const wire::LockWait& wait) {
  const auto found = asked_.find(wait.wait);
  if (found != asked_.end() && found->second.kind == Kind::kLock)
    finish(wait.wait, wire::LockFound{.names = wait.names});
}

void LockCalls::cancel(InodeId id, std::uint64_t wait) {
  if (home_of_(id) == own_) return cancel_own(wait);
  if (!start()) return;
  post([this, wait] {
    const auto number = by_wait_.find(wait);
    if (number == by_wait_.end()) return;
    const auto found = asked_.find(number->second);
    if (found == asked_.end() || std::exchange(found->second.is_cancelled, true)) return;
    if (found->second.state == State::kIdle) return finish(found->first, fail(EINTR));
    if (found->second.state == State::kQueued) send_cancel(found->first);
  });
}

void LockCalls::send_cancel(std::uint64_t number) {
  Home& home = homes_[home_of_(asked_.at(number).request.id)];
  const Status sent = rpc_->call<wire::LockWait, wire::LockAnswer>(
      *home.endpoint, wire::kCancelLock, {.wait = number}, {}, net::kNever,
      [this, number](const Result<wire::LockAnswer>& answer, net::Rpc::Bytes) {
        // Where it was granted first, the program has it: kGranted is on the way, or was here.
        if (answer && answer->state == wire::kLockCancelled) finish(number, fail(EINTR));
      });
  if (!sent && sent.error().code == EAGAIN)
    engine_->at(engine_->now() + kAskAgain, [this, number] {
      const auto found = asked_.find(number);
      if (found != asked_.end() && found->second.state == State::kQueued) send_cancel(number);
    });
}

void LockCalls::finish(std::uint64_t number, Result<wire::LockFound> result) {
  auto taken = asked_.extract(number);
  if (taken.empty()) return;
  Asked& asked = taken.mapped();
  if (asked.may_wait) std::erase_if(by_wait_, [&](const auto& at) { return at.second == number; });
  Home& home = homes_[home_of_(asked.request.id)];
  LockTable::Request what = request_of({}, asked.request);
  what.wait = 0;  // it is granted
  if (result && asked.kind == Kind::kLock) static_cast<void>(home.granted.lock(what));
  if (asked.kind == Kind::kUnlock) {
    // Also after an error: the program takes it for unlocked.
    if ((asked.request.flags & wire::kLockAll) != 0) {
      home.granted.release(what.id, what.lock.owner);
    } else {
      static_cast<void>(
          home.granted.unlock(what.id, what.kind, what.lock.owner, what.lock.start, what.lock.end));
    }
  }
  const bool is_changed = asked.kind == Kind::kUnlock || (result && asked.kind == Kind::kLock);
  if (is_changed && !is_lost(what.id, what.lock.owner.number))
    remember(home, what.id, what.lock.owner.number);
  asked.told(std::move(result));
}

// --- Ends of connections ---

void LockCalls::on_closed(net::Endpoint& endpoint, const Error& why) {
  for (auto& [node, home] : homes_) {
    if (home.endpoint != &endpoint) continue;
    home.endpoint = nullptr;
    home.is_ready = false;
    home.to_reclaim.clear();
    home.client = 0;
    home.why = why.message;
    interrupt(node);
    // What home made of an unanswered request that is given up is unknown: then it is to forget
    // all of the earlier connection, rather than keep what nobody knows to unlock.
    if (home.is_in_doubt) home.previous = 0;
    return retry(node);
  }
}

// What was queued is to be asked for anew, what was cancelled is not.
void LockCalls::interrupt(NodeId node) {
  std::vector<std::uint64_t> queued;
  for (auto& [number, asked] : asked_)
    if (home_of_(asked.request.id) == node && asked.state == State::kQueued)
      queued.push_back(number);
  for (const std::uint64_t number : queued) {
    asked_.at(number).deadline = net::after(engine_->now(), patience_);
    failed(number, {ECONNRESET, "The home of the file forgot that a program waits."});
  }
}

}  // namespace btd::remote
