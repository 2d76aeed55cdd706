#include "fs/remote/lock_service.h"

#include <cerrno>
#include <utility>

#include "alloc/raise_to.h"

namespace btd::remote {

namespace {

constexpr net::Time kTellAgain = std::chrono::milliseconds(10);

wire::LockFound found(const std::optional<Lock>& lock) {
  if (!lock) return {};
  return {.start = lock->start,
          .end = lock->end,
          .pid = lock->pid,
          .flags = lock->is_exclusive ? wire::kLockExclusive : 0U,
          .is_found = 1,
          .node = lock->owner.client.node};
}

}  // namespace

LockTable::Request request_of(const LockClient& client, const wire::LockRequest& request) {
  return {.id = request.id,
          .kind = (request.flags & wire::kLockFile) != 0 ? LockKind::kFile : LockKind::kRecord,
          .lock = {.owner = {client, request.owner},
                   .start = request.start,
                   .end = request.end,
                   .is_exclusive = (request.flags & wire::kLockExclusive) != 0,
                   .pid = request.pid},
          .wait = request.wait};
}

LockService::LockService(net::Engine& engine, net::Rpc& rpc, EngineThread& thread, Judge judge,
                         net::Time grace, NameRevision names)
    : engine_(engine),
      rpc_(rpc),
      thread_(thread),
      judge_(std::move(judge)),
      grace_until_(Clock::now() + grace),
      latest_names_(std::move(names)),
      names_(latest_names_()) {
  serve_greeting();
  serve(wire::kLock, [this](const LockClient& client, const wire::LockRequest& request) {
    return lock(client, request);
  });
  serve(wire::kUnlock,
        [this](const LockClient& client, const wire::LockRequest& request) -> Result<wire::Done> {
          BTD_TRY(unlock(client, request));
          return wire::Done{};
        });
  serve(wire::kTestLock, [this](const LockClient& client, const wire::LockRequest& request) {
    return test(client, request);
  });
  serve(wire::kCancelLock,
        [this](const LockClient& client, const wire::LockWait& wait) -> Result<wire::LockAnswer> {
          return cancel(client, wait.wait);
        });
}

// --- Connections ---

template <class Request, class Response, class Run>
void LockService::serve(const net::Method<Request, Response>& method, Run run) {
  rpc_.serve<Request, Response>(
      method, [this, run = std::move(run)](const net::Rpc::Caller& caller, const Request& request,
                                           net::Rpc::Bytes, net::Rpc::Reply reply) {
        const auto client = clients_.find(&caller.endpoint);
        if (client == clients_.end())
          return reply.fail({ENOTCONN, "A connection that locks files greets first."});
        auto result = run(client->second, request);
        if (!result) return reply.fail(result.error());
        reply.answer(*result);
      });
}

void LockService::serve_greeting() {
  rpc_.serve<wire::LockGreeting, wire::LockWelcome>(
      wire::kLockGreet, [this](const net::Rpc::Caller& caller, const wire::LockGreeting& greeting,
                               net::Rpc::Bytes, net::Rpc::Reply reply) {
        const LockClient client{caller.endpoint.peer(), greeting.client};
        const auto known = clients_.find(&caller.endpoint);
        const bool is_again = known != clients_.end() && known->second == client;
        if (is_again)
          return reply.answer(wire::LockWelcome{.flags = wire::kLocksKept | wire::kLockWaitsKept});
        if (greeting.client == kOwnClient || known != clients_.end() || endpoints_.contains(client))
          return reply.fail({EINVAL, "A connection that locks files has a client of its own."});
        reply.answer(greet(caller.endpoint, greeting));
      });
}

wire::LockWelcome LockService::greet(net::Endpoint& endpoint, const wire::LockGreeting& greeting) {
  const LockClient client{endpoint.peer(), greeting.client};
  std::function<void()> note;
  {
    const std::scoped_lock lock(mutex_);
    note = std::exchange(note_peers_, {});
  }
  if (note) note();
  wire::LockWelcome welcome;
  // By the number that only it knows, a client proves that the locks are its own.
  const LockClient previous{endpoint.peer(), greeting.previous};
  if (const auto found = endpoints_.find(previous); found != endpoints_.end()) {
    {
      const std::scoped_lock lock(mutex_);
      table_.inherit(previous, client);
    }
    clients_.erase(found->second);
    endpoints_.erase(found);
    welcome.flags |= wire::kLocksKept;
    tell_granted();
  }
  clients_.emplace(&endpoint, client);
  endpoints_.emplace(client, &endpoint);
  if (is_grace()) welcome.flags |= wire::kLocksReclaim;
  return welcome;
}

void LockService::closed(const net::Endpoint& endpoint) {
  const auto found = clients_.find(&endpoint);
  if (found == clients_.end()) return;
  raise_to(names_, latest_names_());
  {
    const std::scoped_lock lock(mutex_);
    table_.end(found->second);
  }
  endpoints_.erase(found->second);
  clients_.erase(found);
  tell_granted();
}

void LockService::refuse_all(const Error& why) {
  const auto refuse =
      [&]<class Request, class Response>(const net::Method<Request, Response>& method) {
        rpc_.serve<Request, Response>(
            method, [why](const net::Rpc::Caller&, const Request&, net::Rpc::Bytes,
                          net::Rpc::Reply reply) { reply.fail(why); });
      };
  refuse(wire::kLockGreet);
  refuse(wire::kLock);
  refuse(wire::kUnlock);
  refuse(wire::kTestLock);
  refuse(wire::kCancelLock);
}

// --- Locks ---

void LockService::learn(std::uint64_t names) {
  if (names <= kLastRevision) raise_to(names_, names);
}

void LockService::serve_own(std::function<void(std::uint64_t)> granted) {
  const std::scoped_lock lock(mutex_);
  own_granted_ = std::move(granted);
}

void LockService::note_peers(std::function<void()> note) {
  const std::scoped_lock lock(mutex_);
  note_peers_ = std::move(note);
}

Result<wire::LockAnswer> LockService::lock(const LockClient& client,
                                           const wire::LockRequest& request) {
  BTD_TRY(judge_(request.id));
  if (is_grace() && (request.flags & wire::kLockReclaim) == 0)
    return fail(EBUSY, "The home of the file waits for those who had locks before it restarted.");
  bool is_granted = false;
  learn(request.names);  // an exclusive lock may become a shared one
  {
    const std::scoped_lock lock(mutex_);
    BTD_ASSIGN(is_granted, table_.lock(request_of(client, request)));
  }
  tell_granted();
  return wire::LockAnswer{.state = is_granted ? wire::kLockGranted : wire::kLockQueued,
                          .names = names()};
}

Status LockService::unlock(const LockClient& client, const wire::LockRequest& request) {
  const LockTable::Request what = request_of(client, request);
  learn(request.names);
  {
    const std::scoped_lock lock(mutex_);
    if ((request.flags & wire::kLockAll) != 0) {
      table_.release(what.id, what.lock.owner);
    } else {
      BTD_TRY(table_.unlock(what.id, what.kind, what.lock.owner, what.lock.start, what.lock.end));
    }
  }
  tell_granted();
  return {};
}

Result<wire::LockFound> LockService::test(const LockClient& client,
                                          const wire::LockRequest& request) {
  BTD_TRY(judge_(request.id));
  const LockTable::Request what = request_of(client, request);
  wire::LockFound answer;
  {
    const std::scoped_lock lock(mutex_);
    answer = found(table_.conflict(what.id, what.kind, what.lock));
  }
  answer.names = names();
  return answer;
}

wire::LockAnswer LockService::cancel(const LockClient& client, std::uint64_t wait) {
  bool is_cancelled = false;
  {
    const std::scoped_lock lock(mutex_);
    is_cancelled = table_.cancel({client, wait});
  }
  tell_granted();
  return {.state = is_cancelled ? wire::kLockCancelled : wire::kLockGranted};
}

void LockService::tell_granted() {
  std::vector<LockTable::Wait> granted;
  std::function<void(std::uint64_t)> own;
  {
    const std::scoped_lock lock(mutex_);
    granted = table_.take_granted();
    if (granted.empty()) return;
    own = own_granted_;
  }
  for (const LockTable::Wait& wait : granted) {
    if (wait.client.number != kOwnClient) {
      thread_.post([this, wait] { tell(wait); });
    } else if (own) {
      own(wait.number);
    }
  }
}

// It arrives, or the endpoint ends and the lock with it.
void LockService::tell(const LockTable::Wait& wait) {
  const auto found = endpoints_.find(wait.client);
  if (found == endpoints_.end()) return;
  const auto again = [this, wait] {
    engine_.at(engine_.now() + kTellAgain, [this, wait] { tell(wait); });
  };
  const Status told = rpc_.call<wire::LockWait, wire::Done>(
      *found->second, wire::kGranted, {.wait = wait.number, .names = names()}, {}, net::kNever,
      [again](const Result<wire::Done>& done, net::Rpc::Bytes) {
        if (!done && done.error().code == EBUSY) again();
      });
  if (!told && told.error().code == EAGAIN) again();
}

std::vector<LockTable::Held> LockService::held(InodeId id, const LockOwner& owner) const {
  const std::scoped_lock lock(mutex_);
  return table_.held_by(id, owner);
}

bool LockService::is_used(InodeId id) const {
  const std::scoped_lock lock(mutex_);
  return table_.is_used(id);
}

LockTable::Counts LockService::counts() const {
  const std::scoped_lock lock(mutex_);
  return table_.counts();
}

}  // namespace btd::remote
