// Which files to move so that the pools of a cluster are filled alike. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "fs/namespace/inode.h"

namespace btd::cluster {

struct PoolShare {
  std::uint64_t size = 0, used = 0;  // bytes

  [[nodiscard]] double share() const {
    return size == 0 ? 1 : static_cast<double>(used) / static_cast<double>(size);
  }
};

struct FileSize {
  InodeId id = 0;
  std::uint64_t bytes = 0;
};

struct PlannedMove {
  InodeId id = 0;
  std::uint64_t bytes = 0;
  NodeId from = 0, to = 0;

  bool operator==(const PlannedMove&) const = default;
};

// Pools within this of the mean are left alone.
inline constexpr double kEvenEnough = 0.02;

// Moves from the fullest pool to the emptiest, the largest file that overshoots on neither side
// first, until no pool is further from the mean than kEvenEnough or no file fits. Each file moves
// at most once.
std::vector<PlannedMove> plan_rebalance(std::map<NodeId, PoolShare> pools,
                                        std::map<NodeId, std::vector<FileSize>> files);

}  // namespace btd::cluster
