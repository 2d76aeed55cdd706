// SPDX-License-Identifier: BSD-3-Clause
// Space: what statfs says, and what a full file system does. The filling cases need a small one of
// their own and run only where BTD_TEST_FILL=1; BTD_TEST_RESERVES=1 adds the promise that growing
// a file reserves its space, so that a mapped store never dies for want of it.
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Space = PosixTest;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kLargestToFill = 4096 * kMiB;
/// What a full cycle may leave behind as metadata.
constexpr uint64_t kSlack = 2 * kMiB;

uint64_t Free() {
  struct statvfs fs{};
  EXPECT_OK(::statvfs(".", &fs));
  return uint64_t{fs.f_bavail} * fs.f_frsize;
}

/// The last close of a file may be told to a file system in user space after close has returned,
/// so its space may take a moment.
bool ComesBack(uint64_t wanted) {
  for (int i = 0; i < 500 && Free() + kSlack < wanted; ++i) ::usleep(10'000);
  return Free() + kSlack >= wanted;
}

class Full : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    if (!OptIn("BTD_TEST_FILL")) GTEST_SKIP() << "set BTD_TEST_FILL=1 to fill the file system";
    free_at_start_ = Free();
    ASSERT_LE(free_at_start_, kLargestToFill) << "too large to be filled by a test";
    ASSERT_EQ(0, WriteFile("kept", std::string(kMiB, 'k')));
  }
  void TearDown() override {
    if (!IsSkipped()) {
      EXPECT_EQ(std::string(kMiB, 'k'), ReadFile("kept"));
      ::unlink("kept");
      EXPECT_TRUE(ComesBack(free_at_start_));
    }
    PosixTest::TearDown();
  }
  /// Fills what is left by writes; returns how much went in.
  static uint64_t Fill(const char* name) {
    const Fd fd = OpenFd(name, O_CREAT | O_WRONLY);
    const std::string block(64 << 10, 'f');
    uint64_t total = 0;
    for (;;) {
      const ssize_t n = ::write(fd.get(), block.data(), block.size());
      if (n < 0) {
        EXPECT_EQ(ENOSPC, errno) << std::strerror(errno);
        return total;
      }
      total += static_cast<uint64_t>(n);
    }
  }

 private:
  uint64_t free_at_start_ = 0;
};

TEST_F(Space, StatfsTellsNamesAndBlocks) {
  struct statvfs fs{};
  ASSERT_OK(::statvfs(".", &fs));
  EXPECT_EQ(255U, fs.f_namemax);
  EXPECT_GT(fs.f_bsize, 0U);
  EXPECT_GT(fs.f_blocks, 0U);
  EXPECT_GE(fs.f_blocks, fs.f_bfree);
  EXPECT_GE(fs.f_bfree, fs.f_bavail);
}

TEST_F(Space, FallocateTakesAndUnlinkReturns) {
  const uint64_t before = Free();
  if (before < 64 * kMiB) GTEST_SKIP() << "less than 64 MiB free";
  {
    const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
    ASSERT_OK(::fallocate(fd.get(), 0, 0, 32 * kMiB));
    EXPECT_LE(Free(), before - 31 * kMiB);
  }
  ASSERT_OK(::unlink("x"));
  EXPECT_TRUE(ComesBack(before));
}

TEST_F(Full, WriteSaysENOSPCAndKeepsWhatItTook) {
  const uint64_t wrote = Fill("filler");
  EXPECT_EQ(static_cast<off_t>(wrote), Stat("filler").st_size);
  EXPECT_EQ(std::string(4096, 'f'), ReadFile("filler").substr(wrote / 2, 4096));
  const Fd fd = OpenFd("kept", O_RDWR);
  EXPECT_EQ(4096, ::pwrite(fd.get(), std::string(4096, 'k').data(), 4096, 0))
      << "overwriting needs no space";
  ASSERT_OK(::unlink("filler"));
  EXPECT_EQ(0, WriteFile("after", std::string(kMiB, 'a')));
  ASSERT_OK(::unlink("after"));
}

TEST_F(Full, NamesCanBeRemovedAndRenamedWhenFull) {
  ASSERT_OK(Touch("a"));
  ASSERT_OK(::mkdir("d", 0755));
  Fill("filler");
  EXPECT_OK(::rename("a", "d/b"));
  EXPECT_OK(::chmod("d/b", 0600));
  EXPECT_OK(::unlink("d/b"));
  EXPECT_OK(::rmdir("d"));
  ASSERT_OK(::unlink("filler"));
}

TEST_F(Full, ManySmallFilesEndInENOSPCNotInDamage) {
  const uint64_t wrote = Fill("filler");
  ASSERT_OK(::truncate("filler", static_cast<off_t>(wrote - std::min(wrote, 4 * kMiB))));
  ASSERT_OK(::mkdir("d", 0755));
  int made = 0;
  int error = 0;
  for (; made < 100'000 && error == 0; ++made) {
    const std::string name = "d/" + std::to_string(made);
    error = Err([&] { return WriteFile(name, "small"); });
  }
  EXPECT_EQ(ENOSPC, error);
  EXPECT_GT(made, 10);
  for (int i = 0; i < made - 1; ++i) ASSERT_EQ("small", ReadFile("d/" + std::to_string(i)));
  RemoveTree("d");
  ASSERT_OK(::unlink("filler"));
}

TEST_F(Full, FallocateBeyondTheSpaceIsENOSPC) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  EXPECT_ERR(ENOSPC, ::fallocate(fd.get(), 0, 0, static_cast<off_t>(Free() + 64 * kMiB)));
  EXPECT_EQ(0, Stat("x").st_size);
  EXPECT_OK(::fallocate(fd.get(), 0, 0, kMiB));
  ASSERT_OK(::unlink("x"));
}

TEST_F(Full, FtruncateReservesOrSaysENOSPC) {
  if (!OptIn("BTD_TEST_RESERVES")) GTEST_SKIP() << "set BTD_TEST_RESERVES=1";
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  EXPECT_ERR(ENOSPC, ::ftruncate(fd.get(), static_cast<off_t>(Free() + 64 * kMiB)));
  EXPECT_EQ(0, Stat("x").st_size);
  const uint64_t before = Free();
  EXPECT_OK(::ftruncate(fd.get(), 8 * kMiB));
  EXPECT_LE(Free(), before - 7 * kMiB);
  ASSERT_OK(::unlink("x"));
}

TEST_F(Full, MappedStoresIntoReservedSpaceNeverDie) {
  if (!OptIn("BTD_TEST_RESERVES")) GTEST_SKIP() << "set BTD_TEST_RESERVES=1";
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(::ftruncate(fd.get(), 8 * kMiB));
  Fill("filler");
  const pid_t child = ::fork();
  if (child == 0) {
    void* at = ::mmap(nullptr, 8 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) ::_exit(1);
    std::memset(at, 'm', 8 * kMiB);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(0, status) << "the child died of signal " << WTERMSIG(status);
  EXPECT_EQ(std::string(8 * kMiB, 'm'), ReadFile("x"));
  ASSERT_OK(::unlink("x"));
  ASSERT_OK(::unlink("filler"));
}

}  // namespace
}  // namespace btd::posix
