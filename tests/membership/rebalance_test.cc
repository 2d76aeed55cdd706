// Which files a rebalance moves.
#include "fs/cluster/rebalance.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace btd::cluster {
namespace {

constexpr std::uint64_t kPool = 1'000'000;

std::vector<FileSize> files_of(NodeId node, int count, std::uint64_t bytes) {
  std::vector<FileSize> files;
  for (int i = 0; i < count; ++i)
    files.push_back({.id = first_id_of(node) + static_cast<InodeId>(i), .bytes = bytes});
  return files;
}

TEST(Rebalance, LeavesAnEvenClusterAlone) {
  EXPECT_TRUE(plan_rebalance({{0, {kPool, 500'000}}, {1, {kPool, 510'000}}},
                             {{0, files_of(0, 10, 50'000)}, {1, files_of(1, 10, 51'000)}})
                  .empty());
  EXPECT_TRUE(plan_rebalance({}, {}).empty());
  EXPECT_TRUE(plan_rebalance({{0, {kPool, 900'000}}}, {{0, files_of(0, 9, 100'000)}}).empty());
}

TEST(Rebalance, FillsAnEmptyPool) {
  const auto moves = plan_rebalance({{0, {kPool, 900'000}}, {1, {kPool, 0}}, {2, {kPool, 0}}},
                                    {{0, files_of(0, 90, 10'000)}});
  std::map<NodeId, std::uint64_t> got;
  for (const PlannedMove& move : moves) {
    EXPECT_EQ(move.from, 0);
    got[move.to] += move.bytes;
  }
  EXPECT_NEAR(static_cast<double>(got[1]), 300'000, 20'000);
  EXPECT_NEAR(static_cast<double>(got[2]), 300'000, 20'000);
}

TEST(Rebalance, MovesNoFileThatIsTooLarge) {
  EXPECT_TRUE(
      plan_rebalance({{0, {kPool, 900'000}}, {1, {kPool, 0}}}, {{0, files_of(0, 1, 900'000)}})
          .empty());
}

// Whatever it is given: shares come closer, none changes sides, and each file moves once.
TEST(Rebalance, NeverMakesItWorse) {
  std::mt19937_64 chance(5);
  for (int round = 0; round < 300; ++round) {
    std::map<NodeId, PoolShare> pools;
    std::map<NodeId, std::vector<FileSize>> files;
    const auto nodes = static_cast<NodeId>(1 + chance() % 6);
    for (NodeId node = 0; node < nodes; ++node) {
      const std::uint64_t count = chance() % 40;
      PoolShare& pool = pools[node];
      pool.size = kPool + chance() % kPool;
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t bytes = chance() % 40'000;
        files[node].push_back({first_id_of(node) + i, bytes});
        pool.used += bytes;
      }
    }
    const auto spread = [&] {
      double least = 2, most = -1;
      for (const auto& [node, pool] : pools) {
        least = std::min(least, pool.share());
        most = std::max(most, pool.share());
      }
      return most - least;
    };
    const double before = spread();
    std::set<InodeId> moved;
    for (const PlannedMove& move : plan_rebalance(pools, files)) {
      EXPECT_TRUE(moved.insert(move.id).second);
      pools[move.from].used -= move.bytes;
      pools[move.to].used += move.bytes;
    }
    EXPECT_LE(spread(), before + 1e-9);
  }
}

}  // namespace
}  // namespace btd::cluster
