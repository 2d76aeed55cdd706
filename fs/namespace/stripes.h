// Stripes: locks for the inodes that a change begins with.
//
// They make nothing correct, since every change requires what it read; they spare threads of one
// node the retries that changes of one directory would cost them, and let those of different
// directories be under way at once: a commit may take a network's round trip.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>
#include <utility>

#include "fs/namespace/inode.h"

namespace btd {

class Stripes {
 public:
  using Lock = std::unique_lock<std::mutex>;
  using Locks = std::pair<Lock, Lock>;

  [[nodiscard]] Lock of(InodeId id) { return Lock(mutexes_[index(id)]); }
  // In one order, so that two who take two never wait for each other.
  [[nodiscard]] Locks of(InodeId a, InodeId b) {
    const std::size_t low = std::min(index(a), index(b)), high = std::max(index(a), index(b));
    Lock first(mutexes_[low]);
    return {std::move(first), low != high ? Lock(mutexes_[high]) : Lock()};
  }

 private:
  static constexpr std::size_t kStripes = 64;
  static std::size_t index(InodeId id) { return id % kStripes; }
  std::array<std::mutex, kStripes> mutexes_;
};

}  // namespace btd
