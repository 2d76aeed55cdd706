// Threads, of one node and of several, that change and read one tree at once: afterwards every
// count is what the names say.
#include <gtest/gtest.h>
#include <linux/fs.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "alloc/memory_store.h"
#include "fs/namespace/namespace.h"

namespace btd {
namespace {

constexpr int kThreads = 4;
constexpr int kOperations = 3000;
constexpr int kDirs = 4;
constexpr int kNames = 8;

// What the names of the whole tree say about each inode.
struct Seen {
  std::uint32_t names = 0, subdirs = 0;
};

void walk(const Namespace& ns, InodeId dir, std::map<InodeId, Seen>& seen, int depth) {
  ASSERT_LT(depth, 100);
  const auto entries = ns.list(dir, 0, 100000);
  ASSERT_TRUE(entries);
  for (const auto& entry : *entries) {
    const auto inode = ns.get(entry.id);
    ASSERT_TRUE(inode) << entry.name << " names an inode that is not there";
    EXPECT_EQ(inode->mode & S_IFMT, entry.type);
    ++seen[entry.id].names;
    if (!inode->is_dir()) continue;
    EXPECT_EQ(inode->parent, dir);
    ++seen[dir].subdirs;
    walk(ns, entry.id, seen, depth + 1);
  }
}

// A thread's random changes of a few names in `dirs`. Returns how many of them succeeded.
int storm(Namespace& ns, const std::vector<InodeId>& dirs, std::uint32_t thread) {
  std::mt19937_64 random(thread);
  int succeeded = 0;
  for (std::uint64_t i = 0; i < kOperations; ++i) {
    const RequestTag tag{.session = 1, .unique = i * 2, .slot = thread};
    const InodeId from = dirs[random() % kDirs];
    const InodeId to = dirs[random() % kDirs];
    const std::string a = "n" + std::to_string(random() % kNames);
    const std::string b = "n" + std::to_string(random() % kNames);
    switch (random() % 6) {
      case 0: {
        const InodeId id = *ns.allocate_id();
        const std::uint32_t mode = random() % 3 == 0 ? S_IFDIR | 0755 : S_IFREG | 0644;
        succeeded += ns.create(from, a, id, {.mode = mode}, tag).has_value();
        ns.id_settled(id);
        break;
      }
      case 1:
        if (const auto inode = ns.lookup(from, a); inode)
          succeeded += ns.link(inode->id, to, b, tag).has_value();
        break;
      case 2:
        succeeded += ns.unlink(from, a, tag).has_value();
        break;
      case 3:
        succeeded += ns.rmdir(from, a, tag).has_value();
        break;
      case 4:
        succeeded += ns.rename(from, a, to, b, random() % 2 ? RENAME_EXCHANGE : 0, tag).has_value();
        break;
      default:
        succeeded += ns.list(from, 0, 100).has_value();
        break;
    }
  }
  return succeeded;
}

class NamespaceConcurrency : public ::testing::TestWithParam<NodeId> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(Namespace::format(store_, 0755));
    for (NodeId node = 0; node < GetParam(); ++node) {
      auto opened = Namespace::open(store_, node);
      ASSERT_TRUE(opened);
      nodes_.push_back(*std::move(opened));
    }
  }

  MemoryStore store_;
  std::vector<std::unique_ptr<Namespace>> nodes_;
};
INSTANTIATE_TEST_SUITE_P(Nodes, NamespaceConcurrency, ::testing::Values(1, 3));

// Directories that are moved into each other, by nodes that do not see each other's moves: all of
// them stay below the root, and each says where it lies.
TEST_P(NamespaceConcurrency, MovesOfDirectoriesMakeNoLoops) {
  constexpr std::uint64_t kMoved = 8;
  std::vector<InodeId> dirs;
  for (std::uint64_t i = 0; i < kMoved; ++i) {
    dirs.push_back(*nodes_[0]->allocate_id());
    ASSERT_TRUE(
        nodes_[0]->create(kRootId, "d" + std::to_string(i), dirs[i], {.mode = S_IFDIR | 0755}, {}));
  }
  std::atomic<int> moved{0}, refused{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      Namespace& ns = *nodes_[t % nodes_.size()];
      for (int i = 0; i < kOperations; ++i) {
        const std::uint64_t which = random() % kMoved;
        const auto inode = ns.get(dirs[which]);
        const std::uint64_t place = random() % (kMoved + 2);
        const InodeId to = place < kMoved ? dirs[place] : kRootId;
        const std::string name = "d" + std::to_string(which);
        const auto done = ns.rename(inode->parent, name, to, name, 0, {});
        moved += done.has_value();
        refused += !done && done.error().code == EINVAL;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_GT(moved.load(), 0);
  EXPECT_GT(refused.load(), 0);
  std::map<InodeId, Seen> seen;
  walk(*nodes_[0], kRootId, seen, 0);
  for (const InodeId dir : dirs) EXPECT_EQ(seen[dir].names, 1U) << dir << " cannot be reached";
}

TEST_P(NamespaceConcurrency, CountsHoldAfterAStorm) {
  Namespace& ns = *nodes_.front();
  std::vector<InodeId> dirs{kRootId};
  for (int i = 1; i < kDirs; ++i) {
    const InodeId id = *ns.allocate_id();
    ASSERT_TRUE(ns.create(kRootId, "dir" + std::to_string(i), id, {.mode = S_IFDIR | 0755}, {}));
    ns.id_settled(id);
    dirs.push_back(id);
  }
  std::atomic<int> succeeded{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] { succeeded += storm(*nodes_[t % nodes_.size()], dirs, t); });
  for (auto& t : threads) t.join();
  EXPECT_GT(succeeded.load(), kThreads * kOperations / 10);

  std::map<InodeId, Seen> seen;
  walk(ns, kRootId, seen, 0);
  for (const auto& [id, s] : seen) {
    const auto inode = ns.get(id);
    ASSERT_TRUE(inode);
    EXPECT_EQ(inode->nlink, inode->is_dir() ? 2 + s.subdirs : s.names) << "inode " << id;
  }
  for (const auto& node : nodes_) {
    const auto orphans = node->orphans();
    ASSERT_TRUE(orphans);
    for (const InodeId id : *orphans) {
      EXPECT_FALSE(seen.contains(id));
      EXPECT_EQ(ns.get(id)->nlink, 0U);
    }
  }
}

}  // namespace
}  // namespace btd
