// Moves of files between nodes, cut after every step and within every commit: the file is at its
// home, whole, and what else is left anywhere goes when its node starts again.
#include "fs/cluster/move.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "alloc/forwarding_store.h"
#include "alloc/memory_store.h"
#include "fs/cluster/placement.h"
#include "fs/namespace/layout.h"
#include "fs/namespace/namespace.h"

namespace btd::cluster {
namespace {

constexpr NodeId kOld = 1, kNew = 2;
const std::string kContents = "all of it";

// How a commit ends that is not simply done.
enum class Cut { kNone, kBefore, kAfter };  // kAfter: done, and the answer is lost

class UnsureStore final : public ForwardingStore {
 public:
  explicit UnsureStore(MetaStore& store) : ForwardingStore(store) {}
  Status commit(const Batch& batch) override {
    const Cut cut = commits_++ == cut_at_ ? how_ : Cut::kNone;
    if (cut == Cut::kBefore) return fail(EIO);
    const Status done = ForwardingStore::commit(batch);
    return cut == Cut::kAfter && done ? fail(EIO) : done;
  }
  void cut(int commit, Cut how) {
    commits_ = 0;
    cut_at_ = commit;
    how_ = how;
  }

 private:
  int commits_ = 0, cut_at_ = -1;
  Cut how_ = Cut::kNone;
};

// Nodes that have only what is on media: their disks, and the rows.
struct World {
  MemoryStore rows;
  UnsureStore store{rows};
  std::map<NodeId, std::map<InodeId, std::string>> disks;
  InodeId id = 0;

  World() {
    EXPECT_TRUE(Namespace::format(rows, 0755));
    const auto names = *Namespace::open(rows, kOld);
    id = *names->allocate_id();
    EXPECT_TRUE(names->create(kRootId, "file", id, {.mode = S_IFREG | 0644}, {}));
    disks[kOld][id] = kContents;
  }

  [[nodiscard]] NodeId home() const {
    return *(*Namespace::open(const_cast<MemoryStore&>(rows), 9))->home(id);
  }
};

// The steps as a node does them, and its death before one of them.
class Node : public MoveActions {
 public:
  Node(World& world, NodeId self, int steps = 1000, bool is_refused = false)
      : world_(world), self_(self), left_(steps), is_refused_(is_refused) {}

  Status reserve() override { return step(); }
  Status note() override {
    BTD_TRY(step());
    return note_copy(world_.store, attempt_);
  }
  Status copy() override {
    // It may be cut in the middle.
    if (left_ == 0) world_.disks[self_][world_.id] = "a part";
    BTD_TRY(step());
    world_.disks[self_][world_.id] = world_.disks[kOld].at(world_.id);
    return {};
  }
  Status yield() override {
    BTD_TRY(step());
    if (is_refused_) return fail(ECANCELED);
    return commit_move(world_.store, attempt_);
  }
  Result<bool> settle() override {
    BTD_TRY(step());
    return settle_copy(world_.store, world_.id, self_);
  }
  Status drop() override {
    BTD_TRY(step());
    world_.disks[self_].erase(world_.id);
    return {};
  }
  Status forget() override {
    BTD_TRY(step());
    return forget_copy(world_.store, world_.id, self_);
  }
  [[nodiscard]] bool is_dead() const { return is_dead_; }

 private:
  // One that is dead does nothing more, whatever it is asked for.
  Status step() {
    if (left_-- > 0) return {};
    is_dead_ = true;
    return fail(ESHUTDOWN);
  }

  World& world_;
  const NodeId self_;
  int left_;
  const bool is_refused_;
  bool is_dead_ = false;
  const Attempt attempt_{.id = world_.id, .from = kOld, .to = kNew, .number = 7};
};

// Each node finds what it may have, as it does when it starts.
void restart(World& world, int steps = 1000) {
  world.store.cut(-1, Cut::kNone);
  for (const NodeId node : {kOld, kNew}) {
    const std::vector<InodeId> ids = *copies_at(world.rows, node);
    for (const InodeId id : ids) {
      EXPECT_EQ(id, world.id);
      Node actions(world, node, steps);
      static_cast<void>(run_move(Move::after_crash(), actions));
    }
  }
}

void expect_whole(const World& world) {
  const NodeId home = world.home();
  ASSERT_TRUE(world.disks.at(home).contains(world.id)) << "home " << home;
  EXPECT_EQ(world.disks.at(home).at(world.id), kContents);
}

void expect_clean(World& world) {
  expect_whole(world);
  const NodeId other = world.home() == kOld ? kNew : kOld;
  EXPECT_FALSE(world.disks[other].contains(world.id)) << "node " << other << " leaks";
  EXPECT_TRUE(copies(world.rows)->empty());
}

TEST(Moves, BringAFile) {
  World world;
  Node node(world, kNew);
  ASSERT_TRUE(run_move(Move::begin(), node));
  EXPECT_EQ(world.home(), kNew);
  expect_whole(world);
  restart(world);
  expect_clean(world);
}

TEST(Moves, AreWholeWhereverTheyAreCut) {
  std::set<NodeId> homes;
  for (int steps = 0; steps < 8; ++steps) {
    for (int again = 0; again < 4; ++again) {
      World world;
      Node node(world, kNew, steps);
      static_cast<void>(run_move(Move::begin(), node));
      expect_whole(world);
      restart(world, again);  // which is cut as well
      expect_whole(world);
      restart(world);
      expect_clean(world);
      homes.insert(world.home());
    }
  }
  EXPECT_EQ(homes, (std::set<NodeId>{kOld, kNew}));
}

TEST(Moves, AreWholeWhateverBecomesOfACommit) {
  for (int commit = 0; commit < 6; ++commit) {
    for (const Cut how : {Cut::kBefore, Cut::kAfter}) {
      World world;
      world.store.cut(commit, how);
      Node node(world, kNew);
      const Status done = run_move(Move::begin(), node);
      EXPECT_TRUE(!done || world.home() == kNew);
      expect_whole(world);
      restart(world);
      expect_clean(world);
    }
  }
}

TEST(Moves, LeaveNothingWhereHomeRefuses) {
  World world;
  Node node(world, kNew, 1000, true);
  const Status done = run_move(Move::begin(), node);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ECANCELED);
  EXPECT_EQ(world.home(), kOld);
  expect_clean(world);
}

TEST(Moves, AFencedAttemptIsNeverCommitted) {
  World world;
  const Attempt attempt{.id = world.id, .from = kOld, .to = kNew, .number = 7};
  ASSERT_TRUE(note_copy(world.rows, attempt));
  const auto settled = settle_copy(world.rows, world.id, kNew);
  ASSERT_TRUE(settled && !*settled);
  EXPECT_EQ(commit_move(world.rows, attempt).error().code, EBUSY);
  EXPECT_EQ(world.home(), kOld);
}

TEST(Moves, ALaterAttemptEndsAnEarlierOne) {
  World world;
  const Attempt first{.id = world.id, .from = kOld, .to = kNew, .number = 7};
  const Attempt second{.id = world.id, .from = kOld, .to = kNew, .number = 8};
  ASSERT_TRUE(note_copy(world.rows, first));
  ASSERT_TRUE(note_copy(world.rows, second));
  EXPECT_EQ(commit_move(world.rows, first).error().code, EBUSY);
  ASSERT_TRUE(commit_move(world.rows, second));
  // One to a third node was noted while the file still was where that knew it.
  EXPECT_EQ(
      commit_move(world.rows, {.id = world.id, .from = kOld, .to = 3, .number = 9}).error().code,
      ESTALE);
  EXPECT_EQ(world.home(), kNew);
}

// A node to which a row comes late: it sees that when a commit of it was refused.
class LateStore final : public ForwardingStore {
 public:
  LateStore(MetaStore& store, std::string key) : ForwardingStore(store), late_(std::move(key)) {}
  [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key) const override {
    if (key == late_) return std::nullopt;
    return ForwardingStore::get(key);
  }
  Status commit(const Batch& batch) override {
    Status done = ForwardingStore::commit(batch);
    if (!done && done.error().code == EAGAIN) late_.clear();
    return done;
  }

 private:
  std::string late_;
};

TEST(Moves, AreCommittedByAHomeThatHasNotHeardOfTheNote) {
  World world;
  const Attempt attempt{.id = world.id, .from = kOld, .to = kNew, .number = 7};
  LateStore late(world.rows, std::string(rows::copy_key(world.id, kNew)));
  const Status none = commit_move(late, attempt);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, EBUSY);  // nobody noted it
  ASSERT_TRUE(note_copy(world.rows, attempt));
  LateStore again(world.rows, std::string(rows::copy_key(world.id, kNew)));
  ASSERT_TRUE(commit_move(again, attempt));
  EXPECT_EQ(world.home(), kNew);
}

TEST(Moves, AreOfWhatTheFileIsByNow) {
  World world;
  const std::string row(rows::inode_key(world.id));
  LateStore late(world.rows, row);
  ASSERT_TRUE(catch_up(late, world.id));
  EXPECT_TRUE(*late.get(row));
  ASSERT_TRUE(catch_up(late, world.id + 1));  // one that is not there
}

TEST(Moves, OfAFileThatIsRemovedFailAndLeaveNothing) {
  World world;
  const auto names = *Namespace::open(world.rows, kOld);
  const Attempt attempt{.id = world.id, .from = kOld, .to = kNew, .number = 7};
  ASSERT_TRUE(note_copy(world.rows, attempt));
  world.disks[kNew][world.id] = kContents;
  ASSERT_TRUE(names->unlink(kRootId, "file", {}));
  EXPECT_EQ(commit_move(world.rows, attempt).error().code, ENOENT);
  ASSERT_TRUE(names->erase_orphan(world.id));
  restart(world);
  EXPECT_TRUE(world.disks[kNew].empty());
  EXPECT_TRUE(copies(world.rows)->empty());
}

TEST(Moves, BackHomeLeaveNoRow) {
  World world;
  ASSERT_TRUE(note_copy(world.rows, {.id = world.id, .from = kOld, .to = kNew, .number = 7}));
  ASSERT_TRUE(commit_move(world.rows, {.id = world.id, .from = kOld, .to = kNew, .number = 7}));
  ASSERT_TRUE(note_copy(world.rows, {.id = world.id, .from = kNew, .to = kOld, .number = 8}));
  // What the first one left at kOld is the second one's now.
  EXPECT_TRUE(forget_copy(world.rows, world.id, kOld));
  ASSERT_TRUE(commit_move(world.rows, {.id = world.id, .from = kNew, .to = kOld, .number = 8}));
  EXPECT_EQ(world.home(), kOld);
  EXPECT_FALSE(*world.rows.get(rows::home_key(world.id)));
  EXPECT_EQ(*copies_at(world.rows, kNew), std::vector<InodeId>{world.id});
}

TEST(Placements, FollowTheStore) {
  World world;
  const Attempt attempt{.id = world.id, .from = kOld, .to = kNew, .number = 7};
  const Placement before(world.rows);
  EXPECT_EQ(before.home(world.id), kOld);
  ASSERT_TRUE(note_copy(world.rows, attempt));
  ASSERT_TRUE(commit_move(world.rows, attempt));
  const Placement after(world.rows);
  for (const Placement* placement : {&before, &after}) {
    EXPECT_EQ(placement->home(world.id), kNew);
    EXPECT_EQ(placement->home(world.id + 1), kOld);
    EXPECT_TRUE(placement->is_home(kNew));
  }
  const auto names = *Namespace::open(world.rows, kNew);
  ASSERT_TRUE(names->unlink(kRootId, "file", {}));
  EXPECT_EQ(*names->orphans(), std::vector<InodeId>{world.id}) << "the new home collects it";
  ASSERT_TRUE(names->erase_orphan(world.id));
  EXPECT_FALSE(before.is_home(kNew));
}

}  // namespace
}  // namespace btd::cluster
