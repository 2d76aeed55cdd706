// Placement: where the files lie that were moved, and what a move commits.
//
// A file's data lie at the node of its id, unless a row 'p' names another. A row 'v' (file, node)
// says that this node may have bytes of the file that are not the file: it is written before a copy
// begins, and the commit that moves the file takes it from the new home and gives one to the old.
// So at any time the file is at its home, whole, and whatever else lies anywhere has a row by which
// its node finds and removes it. The row's value names the attempt; who changes the value has
// fenced that attempt: it can't commit any more.
// Thread-safety: Placement: any thread; the functions: that of the store.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/namespace/inode.h"

namespace btd::cluster {

// Follows the store. A file that was never moved costs one load.
class Placement {
 public:
  explicit Placement(MetaStore& store);  // which outlives it
  [[nodiscard]] NodeId home(InodeId id) const {
    return moved_.load(std::memory_order_acquire) == 0 ? node_of(id) : find(id);
  }
  // Whether any file was moved to it.
  [[nodiscard]] bool is_home(NodeId node) const;

 private:
  void heard(const WatchEvent& event);
  [[nodiscard]] NodeId find(InodeId id) const;

  mutable std::shared_mutex mutex_;
  std::unordered_map<InodeId, NodeId> homes_;
  bool is_loaded_ = false;
  std::atomic<std::size_t> moved_{0};
  std::unique_ptr<WatchHandle> watch_;
};

// One attempt to bring a file to `to`. `number` is drawn for it, and is never 0.
struct Attempt {
  InodeId id = 0;
  NodeId from = 0, to = 0;
  std::uint64_t number = 0;
};

// Has this node see where the file is by now: what others changed may not have come to it yet.
// Errors: those of commit().
Status catch_up(MetaStore& store, InodeId id);

// Before the copy begins. Errors of both: ENOENT the file is gone or has no name; ESTALE its home
// is not `from`; EBUSY (commit_move) another attempt took its place; those of commit().
Status note_copy(MetaStore& store, const Attempt& attempt);
Status commit_move(MetaStore& store, const Attempt& attempt);
// Moves a file that is empty, with nothing noted or copied, for a home takes a missing file for an
// empty one. Errors besides: EBUSY the new home may have bytes of it.
Status commit_gift(MetaStore& store, const Attempt& attempt);

// Whether what `node` has of the file is the file. If it is not, no attempt to make it so can
// succeed any more, and it may be removed; then forget_copy(). After an error it may still become
// the file. Errors: those of commit().
Result<bool> settle_copy(MetaStore& store, InodeId id, NodeId node);
Status forget_copy(MetaStore& store, InodeId id, NodeId node);

struct Copy {
  InodeId id = 0;
  NodeId node = 0;
  bool is_fenced = false;  // no attempt can make it the file any more
};
// Of all files and nodes.
Result<std::vector<Copy>> copies(const MetaStore& store);
// The files of which `node` may have such bytes.
Result<std::vector<InodeId>> copies_at(const MetaStore& store, NodeId node);

}  // namespace btd::cluster
