// One store, several nodes: what is each node's own stays its own.
#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <set>
#include <utility>
#include <vector>

#include "alloc/forwarding_store.h"
#include "alloc/memory_store.h"
#include "fs/namespace/layout.h"
#include "fs/namespace/namespace.h"

namespace btd {
namespace {

// A store to which something happens before the first commit.
class MeddledStore : public ForwardingStore {
 public:
  MeddledStore(MetaStore& store, std::function<void()> before)
      : ForwardingStore(store), before_(std::move(before)) {}
  Status commit(const Batch& batch) override {
    if (const auto before = std::exchange(before_, nullptr)) before();
    return ForwardingStore::commit(batch);
  }

 private:
  std::function<void()> before_;
};

class NamespaceNodes : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(Namespace::format(store_, 0755)); }
  std::unique_ptr<Namespace> open(NodeId node) {
    auto opened = Namespace::open(store_, node);
    EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
    return opened ? *std::move(opened) : nullptr;
  }
  static InodeId make(Namespace& ns, std::string_view name, const RequestTag& tag = {},
                      std::uint32_t type = S_IFREG, InodeId dir = kRootId) {
    const InodeId id = ns.allocate_id().value_or(0);
    EXPECT_TRUE(ns.create(dir, name, id, {.mode = type | 0755}, tag));
    ns.id_settled(id);
    return id;
  }

  MemoryStore store_;
};

TEST_F(NamespaceNodes, AnIdNamesTheNodeThatMadeIt) {
  for (const NodeId node : std::initializer_list<NodeId>{0, 1, 7, 65535}) {
    const auto ns = open(node);
    for (std::uint64_t i = 0; i < 2 * Namespace::kIdBlock; ++i) {
      const InodeId id = *ns->allocate_id();
      ASSERT_EQ(node_of(id), node);
      ASSERT_LT(id, kFirstVirtualId);
    }
  }
}

TEST_F(NamespaceNodes, ANodeThatComesBackHandsOutNewIds) {
  std::set<InodeId> seen;
  for (int life = 0; life < 3; ++life) {
    const auto ns = open(5);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(seen.insert(*ns->allocate_id()).second);
  }
}

// Two workers of one node: the old one that was not told to go, and the new one. The other reserves
// ids after this one has looked and before it commits.
TEST_F(NamespaceNodes, TwoProcessesOfOneNodeNeverHandOutOneIdTwice) {
  const auto other = open(3);
  InodeId others = 0;
  MeddledStore meddled(store_, [&] { others = other->allocate_id().value_or(0); });
  const auto opened = Namespace::open(meddled, 3);
  ASSERT_TRUE(opened);
  const InodeId mine = (*opened)->allocate_id().value_or(0);
  EXPECT_NE(others, 0U);
  EXPECT_EQ(mine, others + Namespace::kIdBlock);
}

// Each node's kernel finds the move all right: neither sees the other's.
TEST_F(NamespaceNodes, TwoMovesAtOnceMakeNoLoop) {
  const auto other = open(1);
  const auto mkdir = [&](InodeId dir, const char* name) {
    return make(*other, name, {}, S_IFDIR, dir);
  };
  // No row is in both moves: only what they say of each other's ways up is.
  const InodeId left = mkdir(kRootId, "left"), right = mkdir(kRootId, "right");
  const InodeId a = mkdir(left, "a"), b = mkdir(right, "b");
  const InodeId below_a = mkdir(a, "below"), below_b = mkdir(b, "below");
  MeddledStore meddled(store_,
                       [&] { EXPECT_TRUE(other->rename(right, "b", below_a, "b", 0, {})); });
  const auto opened = Namespace::open(meddled, 2);
  ASSERT_TRUE(opened);
  const auto moved = (*opened)->rename(left, "a", below_b, "a", 0, {});
  ASSERT_FALSE(moved);
  EXPECT_EQ(moved.error().code, EINVAL);
  EXPECT_EQ(other->get(below_b)->parent, b);
  EXPECT_EQ(other->get(b)->parent, below_a);
  EXPECT_EQ(other->get(a)->parent, left);
}

TEST_F(NamespaceNodes, TheLastIdOfANodeIsFollowedByAnError) {
  const rows::IdsRow row{.limit = first_id_of(9) - Namespace::kIdBlock,
                         .suspicious = first_id_of(9) - Namespace::kIdBlock};
  Batch batch;
  batch.put(rows::ids_key(8), rows::bytes_of(row));
  ASSERT_TRUE(store_.commit(batch));
  const auto ns = open(8);
  for (std::uint64_t i = 0; i < Namespace::kIdBlock; ++i) ASSERT_EQ(node_of(*ns->allocate_id()), 8);
  const auto next = ns->allocate_id();
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().code, ENOSPC);
}

TEST_F(NamespaceNodes, IdsOfAnotherNodeInTheRowAreDamage) {
  const rows::IdsRow row{.limit = first_id_of(4) + 1, .suspicious = first_id_of(4)};
  Batch batch;
  batch.put(rows::ids_key(2), rows::bytes_of(row));
  ASSERT_TRUE(store_.commit(batch));
  const auto opened = Namespace::open(store_, 2);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, EIO);
}

TEST_F(NamespaceNodes, ResultsOfTheSameSlotAreKeptApart) {
  const RequestTag tag{.session = 1, .unique = 2, .slot = 3};
  const InodeId a = make(*open(0), "a", tag);
  const InodeId b = make(*open(1), "b", tag);
  EXPECT_EQ(open(0)->committed(tag)->id, a);
  EXPECT_EQ(open(1)->committed(tag)->id, b);
  EXPECT_FALSE(open(2)->committed(tag));
}

TEST_F(NamespaceNodes, OrphansAndWhatACrashLeftAreTheirNodesToCollect) {
  const auto first = open(1), second = open(2);
  const InodeId a = make(*first, "a"), b = make(*second, "b");
  ASSERT_TRUE(second->unlink(kRootId, "a", {}));
  ASSERT_TRUE(second->unlink(kRootId, "b", {}));
  EXPECT_EQ(first->orphans().value(), std::vector{a});
  EXPECT_EQ(second->orphans().value(), std::vector{b});
  EXPECT_TRUE(open(0)->orphans().value().empty());

  const InodeId lost = *first->allocate_id();  // the crash comes before its create
  std::set<InodeId> removed;
  const auto collect = [&](Namespace& ns) {
    removed.clear();
    return ns.collect_unnamed([](InodeId) { return true; },
                              [&](InodeId id) -> Status {
                                removed.insert(id);
                                return {};
                              });
  };
  ASSERT_TRUE(collect(*open(1)));
  EXPECT_TRUE(removed.contains(lost));
  for (const InodeId id : removed) EXPECT_EQ(node_of(id), 1);
  ASSERT_TRUE(collect(*open(2)));
  for (const InodeId id : removed) EXPECT_EQ(node_of(id), 2);
}

}  // namespace
}  // namespace btd
