// Entering a cluster, leaving it, and rows that nobody understands.
#include "fs/cluster/members.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "alloc/memory_store.h"

namespace btd::cluster {
namespace {

Member node(const std::string& name, const std::string& pool, const std::string& address) {
  return {.name = name, .pool = pool, .address = address, .domain = "d", .capacity = 5};
}

TEST(Members, GetIdsInTurnAndKeepThem) {
  MemoryStore store;
  const auto a = enter(store, node("a", "pa", "h:1"), Entry::kNewMount),
             b = enter(store, node("b", "pb", "h:2"), Entry::kNewMount);
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->id, 0);
  EXPECT_EQ(b->id, 1);
  ASSERT_TRUE(leave(store, 0));
  const auto c = enter(store, node("c", "pc", "h:3"), Entry::kNewMount);
  ASSERT_TRUE(c);
  EXPECT_EQ(c->id, 2) << "an id was given out again";
  const auto again = enter(store, node("a", "pa", "h:1"), Entry::kNewMount);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->id, 0);
  EXPECT_TRUE(again->is_mounted);
}

TEST(Members, EachMountHasAHigherNumberAndItsWorkersShareIt) {
  MemoryStore store;
  const auto first = enter(store, node("a", "pa", "h:1"), Entry::kNewMount);
  const auto worker = enter(store, node("a", "pa", "h:1"), Entry::kAgain);
  ASSERT_TRUE(first && worker);
  EXPECT_EQ(worker->mounts, first->mounts);
  ASSERT_TRUE(leave(store, 0));
  EXPECT_EQ((*member(store, 0))->mounts, first->mounts);
  const auto second = enter(store, node("a", "pa", "h:1"), Entry::kNewMount);
  ASSERT_TRUE(second);
  EXPECT_GT(second->mounts, first->mounts);
}

TEST(Members, TheEpochMovesOnWithNewNodesAndAddressesOnly) {
  MemoryStore store;
  EXPECT_EQ(*epoch(store), 0U);
  ASSERT_TRUE(enter(store, node("a", "pa", "h:1"), Entry::kNewMount));
  EXPECT_EQ(*epoch(store), 1U);
  ASSERT_TRUE(leave(store, 0));
  ASSERT_TRUE(enter(store, node("a", "pa", "h:1"), Entry::kNewMount));
  EXPECT_EQ(*epoch(store), 1U);
  ASSERT_TRUE(enter(store, node("a", "pa", "h:9"), Entry::kNewMount));
  EXPECT_EQ(*epoch(store), 2U);
}

TEST(Members, NamesAndAddressesAreTheirOwn) {
  MemoryStore store;
  ASSERT_TRUE(enter(store, node("a", "pa", "h:1"), Entry::kNewMount));
  const auto name = enter(store, node("a", "pb", "h:2"), Entry::kNewMount);
  ASSERT_FALSE(name);
  EXPECT_EQ(name.error().code, EEXIST);
  EXPECT_NE(name.error().message.find("[node] name"), std::string::npos);
  const auto address = enter(store, node("b", "pb", "h:1"), Entry::kNewMount);
  ASSERT_FALSE(address);
  EXPECT_EQ(address.error().code, EEXIST);
  ASSERT_TRUE(leave(store, 0));
  EXPECT_TRUE(enter(store, node("b", "pb", "h:1"), Entry::kNewMount))
      << "the one that had it is away";
}

TEST(Members, EnteringAtOnceGivesEachAnIdOfItsOwn) {
  MemoryStore store;
  constexpr int kNodes = 16;
  std::vector<std::thread> threads;
  for (int i = 0; i < kNodes; ++i)
    threads.emplace_back([&store, i] {
      const std::string n = std::to_string(i);
      EXPECT_TRUE(enter(store, node("n" + n, "p" + n, "h:" + n), Entry::kNewMount));
    });
  for (std::thread& thread : threads) thread.join();
  const auto all = members(store);
  ASSERT_TRUE(all);
  std::set<std::string> names;
  for (const Member& member : *all) names.insert(member.name);
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kNodes));
  EXPECT_EQ(*epoch(store), static_cast<std::uint64_t>(kNodes));
}

TEST(Members, RowsOfAnotherVersionAreNotGuessedAt) {
  for (const char* row :
       {"", "{}", "[]", "nonsense", R"({"version":2,"name":"a"})", R"({"version":1,"name":1})"}) {
    MemoryStore store;
    Batch batch;
    batch.put(member_key(3), row);
    batch.put(cluster_key(), row);
    batch.put(epoch_key(), "-1");
    ASSERT_TRUE(store.commit(batch));
    for (const int code : {members(store) ? 0 : members(store).error().code,
                           member(store, 3) ? 0 : member(store, 3).error().code,
                           identity(store) ? 0 : identity(store).error().code,
                           epoch(store) ? 0 : epoch(store).error().code})
      EXPECT_EQ(code, EPROTO) << row;
  }
}

}  // namespace
}  // namespace btd::cluster
