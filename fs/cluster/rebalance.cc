#include "fs/cluster/rebalance.h"

#include <algorithm>
#include <optional>

namespace btd::cluster {
namespace {

using Pools = std::map<NodeId, PoolShare>;
using Pool = Pools::value_type;

double mean_share(const Pools& pools) {
  PoolShare all;
  for (const auto& [node, pool] : pools) {
    all.size += pool.size;
    all.used += pool.used;
  }
  return all.share();
}

// Bytes above the mean; negative below.
double excess(const PoolShare& pool, double mean) {
  return static_cast<double>(pool.used) - mean * static_cast<double>(pool.size);
}

// `files` are sorted, the smallest first.
std::optional<FileSize> take_largest(std::vector<FileSize>& files, double most) {
  const auto after = std::ranges::find_if(
      files, [&](const FileSize& file) { return static_cast<double>(file.bytes) > most; });
  if (after == files.begin() || std::prev(after)->bytes == 0) return std::nullopt;
  const FileSize taken = *std::prev(after);
  files.erase(std::prev(after));
  return taken;
}

}  // namespace

std::vector<PlannedMove> plan_rebalance(Pools pools,
                                        std::map<NodeId, std::vector<FileSize>> files) {
  std::vector<PlannedMove> moves;
  for (auto& [node, list] : files) std::ranges::sort(list, {}, &FileSize::bytes);
  const double mean = mean_share(pools);
  Pools sources = pools;  // those that may still have something to give
  while (!sources.empty()) {
    const auto by_share = [&](const Pool& pool) { return pools.at(pool.first).share(); };
    const NodeId from = std::ranges::max_element(sources, {}, by_share)->first;
    const auto to = std::ranges::min_element(pools, {}, by_share);
    PoolShare& source = pools.at(from);
    const bool is_uneven = source.share() > mean + kEvenEnough ||
                           (source.share() > mean && to->second.share() < mean - kEvenEnough);
    if (!is_uneven) break;
    const double most = std::min(excess(source, mean), -excess(to->second, mean));
    const auto file = take_largest(files[from], most);
    if (!file) {
      sources.erase(from);
      continue;
    }
    source.used -= file->bytes;
    to->second.used += file->bytes;
    moves.push_back({.id = file->id, .bytes = file->bytes, .from = from, .to = to->first});
  }
  return moves;
}

}  // namespace btd::cluster
