// BackingStore: idempotent, a missing file is an empty one.
#include <fcntl.h>
#include <unistd.h>

#include "fs/pool/pool.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

class BackingStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_WORKS(Pool::format(scratch_.pool(), {}));
    store_.emplace(
        UniqueFd(::open((scratch_.pool() + "/data").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  }
  Scratch scratch_;
  std::optional<BackingStore> store_;
};

TEST_F(BackingStoreTest, PathIsTheIdInHex) {
  EXPECT_EQ(BackingStore::path(0x1234), "data/34/0000000000001234");
  EXPECT_EQ(BackingStore::path(~InodeId{0}), "data/ff/ffffffffffffffff");
}

TEST_F(BackingStoreTest, CreateMakesThePathAndEmpties) {
  auto fd = store_->create(77);
  ASSERT_WORKS(fd);
  ASSERT_EQ(::write(fd->get(), "abc", 3), 3);
  EXPECT_EQ(read_whole(scratch_.pool() + "/" + BackingStore::path(77)), "abc");
  ASSERT_WORKS(store_->create(77));
  EXPECT_EQ(store_->stat(77)->st_size, 0);
  EXPECT_EQ(store_->stat(77)->st_mode & 07777, 0600U);
}

TEST_F(BackingStoreTest, MissingIsEmpty) {
  EXPECT_FALSE(store_->exists(5));
  const auto facts = store_->stat(5);
  ASSERT_WORKS(facts);
  EXPECT_EQ(facts->st_size, 0);
  EXPECT_EQ(facts->st_ino, 0U);
  ASSERT_WORKS(store_->sync(5, false));
  EXPECT_FALSE(store_->exists(5));
  const auto fd = store_->open(5, O_RDONLY);
  ASSERT_WORKS(fd);
  EXPECT_TRUE(store_->exists(5));
  EXPECT_EQ(store_->stat(5)->st_mode & 07777, 0600U);
}

TEST_F(BackingStoreTest, OpenKeepsTheContent) {
  {
    auto fd = store_->open(6, O_RDWR);
    ASSERT_WORKS(fd);
    ASSERT_EQ(::write(fd->get(), "abc", 3), 3);
  }
  auto fd = store_->open(6, O_RDWR | O_CREAT | O_EXCL);  // flags of an opener who created the name
  ASSERT_WORKS(fd);
  char bytes[3];
  EXPECT_EQ(::read(fd->get(), bytes, 3), 3);
  EXPECT_NE(::fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(BackingStoreTest, RemoveIsIdempotent) {
  ASSERT_WORKS(store_->create(8));
  ASSERT_WORKS(store_->remove(8));
  EXPECT_FALSE(store_->exists(8));
  ASSERT_WORKS(store_->remove(8));
}

TEST_F(BackingStoreTest, TimesAreSetAndKeptToTheNanosecond) {
  const timespec times[2] = {{.tv_sec = 11, .tv_nsec = 12}, {.tv_sec = 13, .tv_nsec = 14}};
  for (const InodeId id : {9, 10}) {
    if (id == 9) ASSERT_WORKS(store_->create(id));
    ASSERT_WORKS(store_->set_times(id, times));
    const auto facts = store_->stat(id);
    EXPECT_EQ(facts->st_atim.tv_sec, 11);
    EXPECT_EQ(facts->st_atim.tv_nsec, 12);
    EXPECT_EQ(facts->st_mtim.tv_sec, 13);
    EXPECT_EQ(facts->st_mtim.tv_nsec, 14);
  }
}

TEST_F(BackingStoreTest, SyncOfBothKinds) {
  ASSERT_WORKS(store_->create(11));
  ASSERT_WORKS(store_->sync(11, false));
  ASSERT_WORKS(store_->sync(11, true));
}

TEST_F(BackingStoreTest, ErrorsNameTheFile) {
  std::filesystem::create_directory(scratch_.pool() + "/" + BackingStore::path(12));
  EXPECT_FAILS(store_->create(12), EISDIR, "create the backing file data/0c/000000000000000c");
  EXPECT_FAILS(store_->remove(12), EISDIR, "remove the backing file");
}

}  // namespace
}  // namespace btd
