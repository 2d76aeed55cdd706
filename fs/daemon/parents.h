// Parents: which directory a known directory lies in, for the ".." of its listing. The namespace
// has no such row; the kernel names a parent with every lookup. A new worker knows none and says
// the root until the directory is looked up again. Thread-safety: any thread. One entry for each
// directory that the kernel knows.
#pragma once

#include <mutex>
#include <unordered_map>

#include "fs/namespace/inode.h"

namespace btd {

class Parents {
 public:
  void note(const Inode& inode, InodeId parent) {
    if (!inode.is_dir()) return;
    std::lock_guard lock(mutex_);
    parents_[inode.id] = parent;
  }
  // `id`, if it is a known directory, lies in `parent` now.
  void moved(InodeId id, InodeId parent) {
    std::lock_guard lock(mutex_);
    if (auto found = parents_.find(id); found != parents_.end()) found->second = parent;
  }
  void forgotten(InodeId id) {
    std::lock_guard lock(mutex_);
    parents_.erase(id);
  }
  [[nodiscard]] InodeId of(InodeId id) const {
    std::lock_guard lock(mutex_);
    const auto found = parents_.find(id);
    return found == parents_.end() ? kRootId : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<InodeId, InodeId> parents_;
};

}  // namespace btd
