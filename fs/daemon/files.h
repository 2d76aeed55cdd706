// FileTable: the data side of known inodes. Decides when a backing file is registered with the
// kernel, when its id is closed, and when the data of a nameless file goes.
//
// Rules it keeps (why: docs/design/daemon.md):
//  - one backing id for each inode, from its first open until the kernel forgets it;
//  - a closed file's id stays, since mappings outlive the close; only their number is bounded, and
//    the kernel is asked to forget the longest unused;
//  - the data of an orphan goes at the last close, or at once where nobody has it open, here or at
//    another node. Without passthrough it waits for FORGET, since a mapping reads through the
//    daemon;
//  - of a file whose home is another node only the counts are kept;
//  - a file that moves to another node is used by nobody while that is committed: who would use it
//    waits. Who uses it before makes the move fail.
//
// Thread-safety: any thread. Lock order: a stripe, then StateTable's or cache_mutex_ or
// idle_mutex_.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "alloc/unique_fd.h"
#include "fs/daemon/erasure.h"
#include "fs/daemon/state_table.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"

namespace btd {

using SharedFd = std::shared_ptr<UniqueFd>;

class FileTable {
 public:
  // `node`: this one of a cluster.
  FileTable(StateTable& state, Namespace& names, const BackingStore& backing, unsigned idle_limit,
            std::optional<NodeId> node = std::nullopt, HomeOf home_of = node_of);
  ~FileTable();
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  // Finds out by trying on `probe_fd`, a file of the pool, whether the kernel takes backing files.
  // Returns the empty string, or why not.
  std::string enable_passthrough(int fuse_fd, int probe_fd);
  [[nodiscard]] bool passthrough() const { return fuse_fd_ >= 0; }
  // The kernel understands being asked to forget inodes; without it idle ids are not bounded.
  void enable_prune() { prune_ = true; }

  // Counts an open (and `dlookup` lookups) and returns the backing id to answer, 0 without
  // passthrough or where `passes_through` is false, of all opens of an inode or of none. `fd`: the
  // backing file if the caller has it open, else -1. `at_home`: is_home() when the caller began.
  // Errors: ESTALE the data is gone, or elsewhere than that; those of the backing store.
  Result<int> open(std::uint32_t slot, InodeId id, int dlookup, int fd, bool at_home,
                   bool passes_through = true);
  void release(std::uint32_t slot, InodeId id);
  // An open file has got privilege bits: a write past the daemon is to be noticed.
  Status watch_writes(InodeId id);
  // The inode, which lost its privilege bits, if there was one; `backing`: of now.
  Result<std::optional<Inode>> notice_writes(InodeId id, const struct stat& backing);
  void forget(InodeId id, std::uint64_t n);
  [[nodiscard]] bool is_home(InodeId id) const { return home_of_(id) == node_; }
  [[nodiscard]] NodeId home(InodeId id) const { return home_of_(id); }
  // The last name of `id` went, or it never had one.
  void orphaned(InodeId id);
  // An inode without a name got one, at another node.
  void named(InodeId id);

  // `gone` is called when the data of a file went, under locks of this table: it must not call it.
  void tell_gone(std::function<void(InodeId)> gone) { gone_ = std::move(gone); }

  // Another node has it open, until as many unhold(). Errors: ESTALE the data are gone.
  Status hold(InodeId id);
  void unhold(InodeId id);
  // The backing file, for another node's use. Errors: ESTALE; those of the backing store.
  Result<UniqueFd> descriptor_for_peers(InodeId id);

  // The backing file, open for reading and writing, for calls that come to the daemon. As long as
  // it is open the file stays here. Errors: ESTALE it lies elsewhere now.
  Result<SharedFd> descriptor(InodeId id);

  // A descriptor of its own for a program that has `id` open. Errors: ESTALE nobody has; EOPNOTSUPP
  // without passthrough, since the kernel's pages are not the backing file's then.
  Result<UniqueFd> descriptor_to_pass(InodeId id, int flags);

  // A move to another node that holds the file and does not use it. reserve(): nobody else uses or
  // maps it. begin_leaving(): and nobody has since; from now on who would waits, until
  // end_leaving(). Errors: ETXTBSY somebody does; ECONNABORTED somebody did; EOPNOTSUPP that can't
  // be seen here; ESTALE it lies elsewhere. is_open(): by a program of this node. used(): a peer
  // opened it that had not before, which ends what was reserved, as an open here does.
  [[nodiscard]] bool is_open(InodeId id) const;
  // `holds`: how often who moves it holds it.
  Status reserve(InodeId id, std::uint64_t number, std::size_t holds = 1);
  void used(InodeId id);
  Status begin_leaving(InodeId id, std::uint64_t number);
  void end_leaving(InodeId id);
  // What lies here of a file that lies elsewhere.
  Status remove_copy(InodeId id);

  // After a restart: finishes what the earlier worker had begun to drop, and drops those of
  // `orphans` (as they were before this worker served) that the kernel does not know.
  void recover(const std::vector<InodeId>& orphans);

  struct Counts {
    std::uint64_t known = 0, open = 0, registered = 0, pruned = 0;
  };
  [[nodiscard]] Counts counts() const;

 private:
  static constexpr std::size_t kStripes = 64;
  static constexpr std::size_t kCachedDescriptors = 128;

  struct Leaving {
    std::uint64_t number = 0;  // of the attempt
    bool is_committing = false;
    struct stat reserved{};
    std::size_t holds = 1;
  };
  using Lock = std::unique_lock<std::mutex>;

  std::mutex& stripe(InodeId id) { return stripes_[id % kStripes]; }
  Status stays_locked(Lock& lock, InodeId id);
  void used_locked(InodeId id);
  void notice_at_close(InodeId id);
  Result<struct stat> unused_locked(InodeId id, std::size_t holds);
  Result<int> register_backing(int fd) const;
  void close_backing_locked(const StateEntry& entry);
  Status remove_data(InodeId id) const;
  void drop_data_locked(const StateEntry& entry);
  void drop_if_idle_locked(const StateEntry& entry);
  void orphaned_locked(InodeId id);
  [[nodiscard]] bool is_held_locked(InodeId id) const;
  [[nodiscard]] bool is_gone_locked(InodeId id) const;
  [[nodiscard]] bool is_nameless(InodeId id) const;
  void note_idle(InodeId id);
  void drop_descriptor(InodeId id);
  void prune_loop();

  StateTable& state_;
  Namespace& names_;
  const BackingStore& backing_;
  Erasure erasure_;
  std::function<void(InodeId)> gone_;
  int fuse_fd_ = -1;
  bool prune_ = false;
  const std::size_t idle_limit_;
  const NodeId node_;
  const HomeOf home_of_;

  std::mutex stripes_[kStripes];
  std::condition_variable left_[kStripes];                     // a move was committed, or failed
  std::unordered_map<InodeId, Leaving> leaving_[kStripes];     // under its stripe
  std::unordered_map<InodeId, std::uint32_t> held_[kStripes];  // by other nodes; under its stripe

  std::mutex cache_mutex_;
  std::list<std::pair<InodeId, SharedFd>> cache_;  // latest use first
  std::unordered_map<InodeId, decltype(cache_)::iterator> cache_index_;

  mutable std::mutex idle_mutex_;
  std::condition_variable idle_changed_;
  std::deque<InodeId> idle_;  // closed files with a registered id, in order of closing
  bool stopping_ = false;
  std::uint64_t pruned_ = 0;
  std::thread pruner_;
};

}  // namespace btd
