// LockCalls: the locks that this node's programs have on files of any home (lock_service.h).
//
// Nobody blocks in it: what is asked is told by a function, at once for files that lie here, else
// from a thread of its own, which has one connection to each home and sleeps between answers. A
// home that can't be reached is waited for until the deadline. What was granted is kept here too,
// so that it can be said again to a home that restarted; where that fails, or where home had given
// it to others meanwhile, it is lost: is_lost() says so until its owner gives it up, which is EIO.
// Thread-safety: any thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "fs/remote/caller.h"
#include "fs/remote/lock_memory.h"
#include "fs/remote/lock_service.h"
#include "fs/remote/lock_table.h"

namespace btd::remote {

class LockCalls final : public net::Handler {
 public:
  // `service` is this node's own; it and `memory` outlive this. `names`: what this node's programs
  // made of the namespace.
  LockCalls(
      NodeId own, LockService& service, LockMemory& memory, EngineFactory engines, Locate locate,
      net::Time deadline, HomeOf home_of = node_of, NameRevision names = [] { return 0; });
  LockCalls(const LockCalls&) = delete;
  LockCalls& operator=(const LockCalls&) = delete;
  // What was not answered stays so: another process is asked again.
  ~LockCalls() override;

  // What an earlier process had, before all else: it is said again to its homes.
  Status restore(const std::vector<KeptLock>& locks);

  // `names` of the result: the revision of the namespace that the program is to find.
  using Told = std::function<void(Result<wire::LockFound>)>;
  // `request.wait`: not 0, its number for cancel(); `handle`: of the open file by which it is
  // asked. `request` of the others: what of it they need. Errors: those of LockTable::lock();
  // EINTR; EIO an earlier lock of the owner was lost; EHOSTUNREACH home can't be reached.
  void lock(const wire::LockRequest& request, std::uint64_t handle, Told told);
  void test(const wire::LockRequest& request, Told told);
  void unlock(const wire::LockRequest& request, Told told);
  // Ends a wait: its Told gets EINTR, unless it is granted first.
  void cancel(InodeId id, std::uint64_t wait);

  // The program finds what had been done to names up to that revision of a result; so is whoever
  // gets a lock after it to.
  void learn(std::uint64_t names);
  // The owner is not to have what it locked in the file: is_lost() until it closes it.
  void lose(InodeId id, std::uint64_t owner);

  // A program closed the file: what it had locked by any descriptor. False: nothing, and `told` is
  // not called.
  bool closed(InodeId id, std::uint64_t owner, const Told& told);
  // The open file is gone: all that was locked by it.
  void released(InodeId id, std::uint64_t handle);
  [[nodiscard]] bool is_lost(InodeId id) const;
  // How many so far.
  [[nodiscard]] std::uint64_t lost() const { return losses_.load(std::memory_order_relaxed); }

  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_up(net::Endpoint& endpoint) override;
  void on_down(net::Endpoint& endpoint, const Error& why) override;
  void on_closed(net::Endpoint& endpoint, const Error& why) override;

 private:
  enum class Kind : std::uint8_t { kLock, kUnlock, kTest };
  enum class State : std::uint8_t { kIdle, kSent, kQueued };
  struct Asked {
    Kind kind = Kind::kLock;
    wire::LockRequest request;
    Told told;
    net::Time deadline{};
    State state = State::kIdle;
    bool may_wait = false;
    bool is_cancelled = false;
  };
  // Of a file that lies here.
  struct OwnAsked {
    Kind kind = Kind::kLock;
    wire::LockRequest request;
    Told told;
    Deadline until;
    std::atomic<bool> is_retrying{false};
  };
  struct Home {
    net::Endpoint* endpoint = nullptr;
    bool is_ready = false;     // welcomed
    bool is_in_doubt = false;  // home may have granted what nobody here knows of
    bool is_retrying = false;
    std::uint64_t client = 0;    // of this endpoint
    std::uint64_t previous = 0;  // whose locks are to be taken over
    std::vector<LockTable::Held> to_reclaim;
    net::Time backoff{};
    std::string why;
    LockTable granted;  // of the one client {}
  };
  struct Use {
    std::uint64_t owner = 0, handle = 0;
  };

  void ask(Kind kind, wire::LockRequest request, Told told);
  Result<wire::LockAnswer> ask_own(Kind kind, const wire::LockRequest& request,
                                   wire::LockFound& found);
  void begin_own(Kind kind, const wire::LockRequest& request, Told told);
  void try_own(const std::shared_ptr<OwnAsked>& asked);
  void try_own_again(const std::shared_ptr<OwnAsked>& asked);
  std::shared_ptr<OwnAsked> take_own(std::uint64_t wait);
  void own_granted(std::uint64_t wait);
  void cancel_own(std::uint64_t wait);
  void lose(const LockTable::Held& held);
  void keep_lost(InodeId id, std::uint64_t owner);
  void remember_own(InodeId id, std::uint64_t owner);
  // That whoever gets a lock after this node's programs is to see.
  [[nodiscard]] std::uint64_t names() const { return std::max(names_(), learned_.load()); }
  void remember(const Home& home, InodeId id, std::uint64_t owner);
  void keep(InodeId id, std::uint64_t owner, std::uint64_t client,
            const std::vector<LockTable::Held>& held);
  std::uint64_t handle_of(InodeId id, std::uint64_t owner) const;
  [[nodiscard]] bool is_lost(InodeId id, std::uint64_t owner) const;
  bool give_up_lost(InodeId id, std::uint64_t owner);

  [[nodiscard]] NodeId home_of_kept(const KeptLock& kept) const;
  Status start();
  void post(const std::function<void()>& task);
  // The thread's.
  void run();
  void begin(Asked asked);
  void connect(NodeId node);
  void retry(NodeId node);
  void welcomed(NodeId node, const wire::LockWelcome& welcome);
  void reclaim_next(NodeId node);
  void reclaimed(NodeId node, const LockTable::Held& held, int error);
  void give_up(Home& home, const LockTable::Held& held);
  void ready(NodeId node);
  void send(std::uint64_t number);
  void answered(std::uint64_t number, const wire::LockAnswer& answer);
  void failed(std::uint64_t number, const Error& error);
  void granted(const wire::LockWait& wait);
  void send_cancel(std::uint64_t number);
  void finish(std::uint64_t number, Result<wire::LockFound> result);
  void interrupt(NodeId node);

  const NodeId own_;
  const HomeOf home_of_;  // a file stays where it is while it is open
  LockService& service_;
  LockMemory& memory_;
  const EngineFactory engines_;
  const Locate locate_;
  const net::Time patience_;
  const NameRevision names_;
  std::atomic<std::uint64_t> learned_{0};  // with locks
  std::atomic<std::uint64_t> lost_count_{0}, losses_{0};

  mutable std::mutex mutex_;  // of the next lines; nobody is called under it
  std::unordered_map<InodeId, std::vector<Use>> uses_;
  std::set<std::pair<InodeId, std::uint64_t>> lost_;  // owners
  std::unordered_map<std::uint64_t, std::shared_ptr<OwnAsked>> own_waits_;

  std::mutex remember_mutex_;  // so that what is kept last is the latest; outside of all others
  std::mutex start_mutex_;
  std::unique_ptr<net::Engine> engine_;
  std::thread thread_;
  std::atomic<bool> is_stopping_{false};
  // The thread's.
  std::optional<net::Rpc> rpc_;
  std::map<NodeId, Home> homes_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, Asked> asked_;                      // in the order of their arrival
  std::unordered_map<std::uint64_t, std::uint64_t> by_wait_;  // the caller's numbers of waits
};

}  // namespace btd::remote
