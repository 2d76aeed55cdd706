// What a worker finds of the locks that an earlier one had.
#include "fs/daemon/lock_records.h"

#include <gtest/gtest.h>

#include <vector>

namespace btd {
namespace {

class LockRecordsTest : public testing::Test {
 protected:
  static remote::KeptLock lock(InodeId id, std::uint64_t owner, std::uint64_t start) {
    return {.id = id,
            .owner = owner,
            .handle = 9,
            .client = 77,
            .start = start,
            .end = start + 5,
            .pid = 3,
            .kind = remote::LockKind::kFile,
            .is_exclusive = true};
  }

  std::vector<LockRecord> memory_ = std::vector<LockRecord>(kLockRecords);
  StateHeader header_{};
};

TEST_F(LockRecordsTest, AreFoundByTheNextWorker) {
  {
    LockRecords records(memory_.data(), header_);
    EXPECT_TRUE(records.take_over().empty());
    records.keep(1, 10, {lock(1, 10, 0), lock(1, 10, 20)});
    records.keep(2, 10, {lock(2, 10, 0)});
    records.keep(1, 11, {lock(1, 11, 40)});
    records.keep(1, 10, {lock(1, 10, 100)});
    records.keep(2, 10, {});
    records.note_peers();
  }
  LockRecords records(memory_.data(), header_);
  EXPECT_EQ(header_.peers_locked, 1U);
  const auto found = records.take_over();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].start, 100U);
  EXPECT_EQ(found[0].end, 105U);
  EXPECT_EQ(found[0].handle, 9U);
  EXPECT_EQ(found[0].client, 77U);
  EXPECT_EQ(found[0].kind, remote::LockKind::kFile);
  EXPECT_TRUE(found[0].is_exclusive);
  EXPECT_FALSE(found[0].is_lost);
  EXPECT_EQ(found[1].owner, 11U);
  records.keep(1, 10, {});
  records.keep(1, 11, {});
  EXPECT_TRUE(LockRecords(memory_.data(), header_).take_over().empty());
}

TEST_F(LockRecordsTest, AreBounded) {
  LockRecords records(memory_.data(), header_);
  std::uint64_t owner = 1;
  for (; records.has_room(); ++owner) records.keep(1, owner, {lock(1, owner, 0)});
  EXPECT_EQ(owner - 1, kLockRecords - 1024);
  for (std::size_t i = 0; i < 2048; ++i, ++owner) records.keep(1, owner, {lock(1, owner, 0)});
  EXPECT_EQ(records.take_over().size(), kLockRecords);
  records.keep(1, 1, {});
  records.keep(1, owner, {lock(1, owner, 0)});
  EXPECT_EQ(LockRecords(memory_.data(), header_).take_over().size(), kLockRecords);
}

}  // namespace
}  // namespace btd
