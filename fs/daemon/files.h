// FileTable: the data side of known inodes. Decides when a backing file is registered with the
// kernel, when its id is closed, and when the data of a nameless file goes.
//
// Rules it keeps (why: docs/design/daemon.md):
//  - one backing id for each inode, from its first open until the kernel forgets it;
//  - a closed file's id stays, since mappings outlive the close; only their number is bounded, and
//    the kernel is asked to forget the longest unused;
//  - the data of an orphan goes at the last close, or at once where nobody has it open. Without
//    passthrough it waits for FORGET, since a mapping reads through the daemon.
//
// Thread-safety: any thread. Lock order: a stripe, then StateTable's or cache_mutex_ or
// idle_mutex_.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
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
  FileTable(StateTable& state, Namespace& names, const BackingStore& backing, unsigned idle_limit);
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
  // passthrough. `fd`: the backing file if the caller has it open, else -1.
  // Errors: ESTALE the data is gone; those of the backing store.
  Result<int> open(std::uint32_t slot, InodeId id, int dlookup, int fd);
  void release(std::uint32_t slot, InodeId id);
  void forget(InodeId id, std::uint64_t n);
  // The last name of `id` went, or it never had one.
  void orphaned(InodeId id);

  // The backing file, open for reading and writing, for calls that come to the daemon.
  Result<SharedFd> descriptor(InodeId id);

  // A descriptor of its own for a program that has `id` open. Errors: ESTALE nobody has; EOPNOTSUPP
  // without passthrough, since the kernel's pages are not the backing file's then.
  Result<UniqueFd> descriptor_to_pass(InodeId id, int flags);

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

  std::mutex& stripe(InodeId id) { return stripes_[id % kStripes]; }
  Result<int> register_backing(int fd) const;
  void close_backing_locked(const StateEntry& entry);
  void drop_data_locked(const StateEntry& entry);
  void drop_if_idle_locked(const StateEntry& entry);
  void note_idle(InodeId id);
  void drop_descriptor(InodeId id);
  void prune_loop();

  StateTable& state_;
  Namespace& names_;
  const BackingStore& backing_;
  Erasure erasure_;
  int fuse_fd_ = -1;
  bool prune_ = false;
  const std::size_t idle_limit_;

  std::mutex stripes_[kStripes];

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
