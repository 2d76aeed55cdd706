// LockService: the locks on this node's files, for the programs of all nodes (lock_table.h).
//
// A call that must wait is answered at once, "queued"; home calls back when it is granted. So what
// waits occupies no thread and no place among the calls that are served, nobody asks again and
// again, and the order of arrival is kept. A client's locks are its connection's: they end when the
// endpoint does, which outlives a cut network as long as the engine's patience lasts.
// After its worker died a home has forgotten all: for a time it grants only what peers say they had
// (grace), and tells all others EBUSY, which they try again.
// Who unlocks says the revision of the namespace that it has seen, and who is granted a lock is
// told the latest of these: what was done to names under a lock is to be seen under the next one.
// Thread-safety: any thread, but those that say so.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "fs/remote/engine_thread.h"
#include "fs/remote/lock_table.h"
#include "fs/remote/wire.h"
#include "net/rpc.h"

namespace btd::remote {

// A revision of the namespace; 0 where there is none.
using NameRevision = std::function<std::uint64_t()>;
inline constexpr std::uint64_t kLastRevision = std::numeric_limits<std::int64_t>::max();

// What a client asks of the table.
LockTable::Request request_of(const LockClient& client, const wire::LockRequest& request);

class LockService {
 public:
  using Judge = std::function<Status(InodeId)>;  // whether the file is this home's
  // On the engine's thread. `grace`: how long peers may say again what they had; 0: nothing is
  // forgotten. `names`: the revision that is known here, for what peers that died have seen.
  LockService(net::Engine& engine, net::Rpc& rpc, EngineThread& thread, Judge judge,
              net::Time grace, NameRevision names);
  LockService(const LockService&) = delete;
  LockService& operator=(const LockService&) = delete;

  // The engine's thread only.
  void closed(const net::Endpoint& endpoint);
  void refuse_all(const Error& why);

  // For programs of this node. `granted` is called with the number of a wait that was granted, on
  // any thread.
  void serve_own(std::function<void(std::uint64_t wait)> granted);
  // Called once, when a peer first asks for a lock; on the engine's thread.
  void note_peers(std::function<void()> note);
  Result<wire::LockAnswer> lock(const LockClient& client, const wire::LockRequest& request);
  Status unlock(const LockClient& client, const wire::LockRequest& request);
  Result<wire::LockFound> test(const LockClient& client, const wire::LockRequest& request);
  wire::LockAnswer cancel(const LockClient& client, std::uint64_t wait);
  // That whoever is granted a lock is to see.
  [[nodiscard]] std::uint64_t names() const { return names_.load(std::memory_order_acquire); }

  // What the owner has in the file, of either kind.
  [[nodiscard]] std::vector<LockTable::Held> held(InodeId id, const LockOwner& owner) const;
  [[nodiscard]] LockTable::Counts counts() const;
  [[nodiscard]] bool is_used(InodeId id) const;

 private:
  template <class Request, class Response, class Run>
  void serve(const net::Method<Request, Response>& method, Run run);
  void serve_greeting();
  wire::LockWelcome greet(net::Endpoint& endpoint, const wire::LockGreeting& greeting);
  [[nodiscard]] bool is_grace() const { return Clock::now() < grace_until_; }
  void learn(std::uint64_t names);
  // Tells of what was granted by the change that was just made.
  void tell_granted();
  void tell(const LockTable::Wait& wait);

  net::Engine& engine_;
  net::Rpc& rpc_;
  EngineThread& thread_;
  const Judge judge_;
  const Deadline grace_until_;
  const NameRevision latest_names_;
  std::atomic<std::uint64_t> names_;
  // The engine's thread only.
  std::unordered_map<const net::Endpoint*, LockClient> clients_;
  std::map<LockClient, net::Endpoint*> endpoints_;

  mutable std::mutex mutex_;  // of the rest; nobody is called under it
  LockTable table_;
  std::function<void(std::uint64_t)> own_granted_;
  std::function<void()> note_peers_;
};

// The client of this node's own programs at their own home.
inline constexpr std::uint64_t kOwnClient = 0;

}  // namespace btd::remote
