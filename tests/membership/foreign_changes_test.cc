// Who made a change: this node, or another.
#include "fs/cluster/foreign_changes.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "alloc/memory_store.h"

namespace btd::cluster {
namespace {

class ForeignChangesTest : public ::testing::Test {
 protected:
  static Batch put(const std::string& key, const std::string& value) {
    Batch batch;
    batch.put(key, value);
    return batch;
  }

  MemoryStore store_;
  std::vector<WatchEvent> heard_;
  ForeignChanges own_{store_, [this](const WatchEvent& event) { heard_.push_back(event); }};
};

TEST_F(ForeignChangesTest, OwnChangesAreNotHeard) {
  ASSERT_TRUE(own_.commit(put("a", "1")));
  Batch erase;
  erase.erase("a");
  ASSERT_TRUE(own_.commit(erase));
  EXPECT_TRUE(heard_.empty());
}

TEST_F(ForeignChangesTest, ThoseOfOthersAreWithWhatWasThere) {
  ASSERT_TRUE(own_.commit(put("a", "1")));
  ASSERT_TRUE(store_.commit(put("a", "2")));
  ASSERT_EQ(heard_.size(), 1U);
  EXPECT_EQ(heard_[0].key, "a");
  EXPECT_EQ(heard_[0].value, "2");
  EXPECT_EQ(heard_[0].previous, "1");
}

// What was noted for a commit that changed nothing must not be taken for another node's change.
TEST_F(ForeignChangesTest, ARefusedCommitLeavesNoNote) {
  Batch refused = put("a", "1");
  refused.require("b", "absent");
  EXPECT_FALSE(own_.commit(refused));
  ASSERT_TRUE(store_.commit(put("a", "1")));
  EXPECT_EQ(heard_.size(), 1U);
}

TEST_F(ForeignChangesTest, NeitherDoesAChangeThatChangedNothing) {
  Batch batch;
  batch.erase("absent");
  batch.put("twice", "1");
  batch.put("twice", "2");
  ASSERT_TRUE(own_.commit(batch));
  EXPECT_TRUE(heard_.empty());
  ASSERT_TRUE(store_.commit(put("twice", "1")));
  ASSERT_TRUE(store_.commit(put("absent", "1")));
  Batch erase;
  erase.erase("absent");
  ASSERT_TRUE(store_.commit(erase));
  EXPECT_EQ(heard_.size(), 3U);
}

// Both sides write the same keys with the same values all the time: of each foreign change one
// event at least is heard, since the last to change a key must be known to whom did not.
TEST_F(ForeignChangesTest, ConcurrentChangesAreHeardAtLeastAsOftenAsOthersMadeThem) {
  constexpr int kRounds = 2000;
  std::atomic<int> foreign{0};
  std::thread other([&] {
    for (int i = 0; i < kRounds; ++i)
      if (store_.commit(put("k", std::to_string(i % 3)))) ++foreign;
  });
  std::thread same([&] {
    for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(own_.commit(put("k", std::to_string(i % 3))));
  });
  for (int i = 0; i < kRounds; ++i) EXPECT_TRUE(own_.commit(put("k", std::to_string(i % 3))));
  other.join();
  same.join();
  EXPECT_GE(heard_.size(), static_cast<std::size_t>(foreign.load()));
}

}  // namespace
}  // namespace btd::cluster
