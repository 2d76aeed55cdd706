// LockRequests: the kernel's requests about locks, in a cluster (ops_lock.cc), while they wait.
//
// A request that waits occupies no thread: it is answered by whoever hears of the end. Before a
// lock on a file of another node is answered, the kernel drops what it has cached of the file; so
// who has the lock sees what was written under it elsewhere. The kernel may have to wait for reads
// of the same file then, and to write back what a mapping changed, so the notifier says it. It is
// not answered either before the kernel was told of the names that were changed under earlier
// locks. Thread-safety: any thread.
#pragma once

#include <fuse_lowlevel.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>

#include "fs/daemon/kernel_cache.h"
#include "fs/daemon/notifier_client.h"
#include "fs/daemon/request.h"
#include "fs/remote/lock_calls.h"
#include "fs/remote/remote_files.h"

namespace btd {

class LockRequests {
 public:
  // `is_passthrough`: files that lie here are not in this kernel's page cache. All outlive this,
  // but `calls` ends before it does.
  LockRequests(remote::LockCalls& calls, remote::RemoteFiles& files, KernelCache& kernel,
               fuse_session* session, NotifierClient& notifier, NodeId own, bool is_passthrough,
               HomeOf home_of);
  LockRequests(const LockRequests&) = delete;
  LockRequests& operator=(const LockRequests&) = delete;

  // Each answers `req` in time. `handle`: of the open file. What the kernel has of a coherent file
  // is never old, and stays.
  void lock(fuse_req_t req, remote::wire::LockRequest request, std::uint64_t handle, bool may_wait);
  void unlock(fuse_req_t req, const remote::wire::LockRequest& request, std::uint64_t handle);
  void test(fuse_req_t req, const remote::wire::LockRequest& request);
  // A program closed the file. False: it had no locks, and `req` is the caller's to answer; else it
  // is answered with `code` if nothing worse happens.
  bool closed(fuse_req_t req, InodeId id, std::uint64_t owner, int code);
  void released(InodeId id, std::uint64_t handle) { calls_.released(id, handle); }
  [[nodiscard]] bool is_lost(InodeId id) const { return calls_.is_lost(id); }
  // The kernel says that a signal came for the program that waits with this request.
  void interrupt(std::uint64_t unique);

 private:
  // Whether the kernel here caches data of the file that may be old.
  [[nodiscard]] bool must_drop(InodeId id, std::uint64_t handle) const;
  // The kernel writes back and forgets what it has of the file; then goes on.
  void drop(InodeId id, std::function<void()> then);
  void when_told(std::uint64_t names, std::function<void(bool is_told)> then);
  void granted(fuse_req_t req, const remote::wire::LockRequest& request, std::uint64_t handle,
               std::uint64_t names);

  remote::LockCalls& calls_;
  remote::RemoteFiles& files_;
  KernelCache& kernel_;
  fuse_session* const session_;
  NotifierClient& notifier_;
  const NodeId own_;
  const HomeOf home_of_;
  const bool is_passthrough_;
  std::mutex mutex_;                                    // of the next lines
  std::unordered_map<std::uint64_t, InodeId> waiting_;  // by the kernel's numbers of the requests
  // A signal may be told before its request is noted: the latest of those that were of no request.
  std::deque<std::uint64_t> interrupted_;
};

}  // namespace btd
