// Founding a cluster with a pool's namespace, and joining it with others.
#include "fs/cluster/join.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <map>

#include "alloc/forwarding_store.h"
#include "alloc/memory_store.h"
#include "fs/namespace/namespace.h"

namespace btd::cluster {
namespace {

// Fails commits from a given one on, as when a process is killed in between.
class MortalStore final : public ForwardingStore {
 public:
  MortalStore(MetaStore& store, int commits) : ForwardingStore(store), left_(commits) {}
  Status commit(const Batch& batch) override {
    if (left_ == 0) return fail(EHOSTUNREACH);
    --left_;
    return ForwardingStore::commit(batch);
  }

 private:
  int left_;
};

class Joining : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / ("btd_join_" + std::to_string(::getpid()));
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::unique_ptr<Pool> pool(const std::string& name) {
    const std::string path = root_ / name;
    if (!std::filesystem::exists(path)) {
      const Status made = Pool::format(path, {});
      EXPECT_TRUE(made) << made.error().message;
    }
    auto lock = PoolLock::acquire(path);
    EXPECT_TRUE(lock) << lock.error().message;
    auto opened = Pool::open(path, *std::move(lock));
    EXPECT_TRUE(opened) << opened.error().message;
    return *std::move(opened);
  }

  static void add_file(Namespace& names, const std::string& name) {
    const auto id = names.allocate_id();
    ASSERT_TRUE(id);
    ASSERT_TRUE(names.create(kRootId, name, *id, {.mode = S_IFREG | 0644}, {}));
  }

  static std::map<std::string, std::string> rows_of(const MetaStore& store) {
    std::map<std::string, std::string> rows;
    EXPECT_TRUE(store.scan(std::string(1, '\0'), {}, [&](auto key, auto value) {
      if (!key.starts_with('r')) rows.emplace(key, value);
      return true;
    }));
    return rows;
  }

  static Options options(const std::string& node) {
    return {.name = "c", .node = node, .listen = node + ":1", .domain = node};
  }

  std::filesystem::path root_;
  MemoryStore etcd_;
};

TEST_F(Joining, TheFoundersNamesAreAllThereAndThePoolIsNoLongerAlone) {
  const auto first = pool("a");
  {
    const auto names = Namespace::open(first->meta());
    ASSERT_TRUE(names);
    for (int i = 0; i < 500; ++i) add_file(**names, "file" + std::to_string(i));
  }
  const auto before = rows_of(first->meta());
  ASSERT_TRUE(judge_alone(first->meta(), "a"));
  const auto moved = found(*first, etcd_, options("n1"), {});
  ASSERT_TRUE(moved) << moved.error().message;
  EXPECT_EQ(*moved, before.size());
  for (const auto& [key, value] : before) EXPECT_EQ(*etcd_.get(key), value);
  const Status alone = judge_alone(first->meta(), "a");
  ASSERT_FALSE(alone);
  EXPECT_NE(alone.error().message.find("--cluster"), std::string::npos);
  const auto self = join(*first, etcd_, options("n1"), "v", Entry::kNewMount);
  ASSERT_TRUE(self) << self.error().message;
  EXPECT_EQ(self->id, 0) << "the ids of its files say that node 0 is their home";
  const auto again = found(*first, etcd_, options("n1"), {});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, EEXIST);
}

// Killed after any number of commits, it is begun again and ends as if it had not been.
TEST_F(Joining, AnInterruptedFoundingGoesOn) {
  const auto first = pool("a");
  {
    const auto names = Namespace::open(first->meta());
    ASSERT_TRUE(names);
    for (int i = 0; i < 250; ++i) add_file(**names, "file" + std::to_string(i));
  }
  const auto before = rows_of(first->meta());
  bool is_done = false;
  for (int commits = 0; !is_done; ++commits) {
    ASSERT_LT(commits, 100);
    MemoryStore etcd;
    MortalStore mortal(etcd, commits);
    is_done = found(*first, mortal, options("n1"), {}).has_value();
    EXPECT_EQ(is_done, identity(etcd)->has_value()) << commits;
    if (!is_done) {
      EXPECT_FALSE(join(*first, etcd, options("n1"), "v", Entry::kNewMount));
      const auto second = found(*first, etcd, options("n1"), {});
      ASSERT_TRUE(second) << second.error().message;
    }
    for (const auto& [key, value] : before) EXPECT_EQ(*etcd.get(key), value);
    ASSERT_EQ(join(*first, etcd, options("n1"), "v", Entry::kNewMount)->id, 0);
  }
}

TEST_F(Joining, AFreshPoolJoinsAndOneWithFilesDoesNot) {
  const auto first = pool("a"), second = pool("b"), third = pool("c");
  const auto early = join(*second, etcd_, options("n2"), "v", Entry::kNewMount);
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().code, ENOENT);
  EXPECT_NE(early.error().message.find("btd cluster init"), std::string::npos);
  ASSERT_TRUE(found(*first, etcd_, options("n1"), {}));
  const auto joined = join(*second, etcd_, options("n2"), "v", Entry::kNewMount);
  ASSERT_TRUE(joined) << joined.error().message;
  EXPECT_EQ(joined->id, 1);
  EXPECT_EQ(join(*second, etcd_, options("n2"), "v", Entry::kNewMount)->id, 1);
  {
    const auto names = Namespace::open(third->meta());
    ASSERT_TRUE(names);
    add_file(**names, "mine");
  }
  const auto refused = join(*third, etcd_, options("n3"), "v", Entry::kNewMount);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EINVAL);
  EXPECT_TRUE(judge_alone(third->meta(), "c")) << "it was taken although it was refused";
}

TEST_F(Joining, APoolOfOneClusterIsOfNoOther) {
  const auto first = pool("a"), second = pool("b");
  ASSERT_TRUE(found(*first, etcd_, options("n1"), {}));
  MemoryStore other;
  ASSERT_TRUE(found(*second, other, options("n1"), {}));
  const auto refused = join(*second, etcd_, options("n2"), "v", Entry::kNewMount);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EINVAL);
  const auto twice = found(*second, etcd_, options("n2"), {});
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, EEXIST);
}

TEST_F(Joining, TwoPoolsDoNotFoundOneCluster) {
  const auto first = pool("a"), second = pool("b");
  MortalStore mortal(etcd_, 2);
  ASSERT_FALSE(found(*first, mortal, options("n1"), {}));
  const auto refused = found(*second, etcd_, options("n2"), {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EBUSY);
  EXPECT_TRUE(judge_alone(second->meta(), "b"));
  EXPECT_TRUE(found(*first, etcd_, options("n1"), {}));
}

}  // namespace
}  // namespace btd::cluster
