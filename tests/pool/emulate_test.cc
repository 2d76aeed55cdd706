// Emulated pools: capacity is exact and enforced, formats repeat, images come back, nothing stays.
#include "fs/pool/emulate.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/pool/pool.h"
#include "fs/pool/superblock.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

Result<std::unique_ptr<Pool>> open_pool(const std::string& path) {
  BTD_ASSIGN(PoolLock lock, PoolLock::acquire(path));
  return Pool::open(path, std::move(lock));
}

class Emulated : public ::testing::TestWithParam<Emulation> {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "mounting needs root";
    if (GetParam() == Emulation::kDisk && ::access("/dev/loop-control", F_OK) != 0)
      GTEST_SKIP() << "no loop devices";
  }
  [[nodiscard]] static FormatOptions options(std::uint64_t capacity, bool force = false) {
    return {.emulate = GetParam(), .capacity = capacity, .force = force};
  }
  Scratch scratch_;
};

INSTANTIATE_TEST_SUITE_P(, Emulated, ::testing::Values(Emulation::kRam, Emulation::kDisk),
                         [](const auto& tested) {
                           return tested.param == Emulation::kRam ? "Ram" : "Disk";
                         });

TEST_P(Emulated, CapacityIsExactAndAllAgree) {
  for (const std::uint64_t capacity : {16 * kMiB, 64 * kMiB, 100 * kMiB + 1}) {
    SCOPED_TRACE(capacity);
    ASSERT_WORKS(Pool::format(scratch_.pool(), options(capacity, true)));
    auto pool = open_pool(scratch_.pool());
    ASSERT_WORKS(pool);
    const std::uint64_t rounded = (capacity + 4095) / 4096 * 4096;
    EXPECT_EQ((*pool)->facts().capacity, rounded);
    struct statvfs mount{};
    ASSERT_EQ(::statvfs(scratch_.pool().c_str(), &mount), 0);
    EXPECT_EQ(mount.f_blocks * mount.f_frsize, rounded);
    const auto inner = (*pool)->backing().statfs();
    ASSERT_WORKS(inner);
    EXPECT_EQ(inner->f_blocks, mount.f_blocks);
    EXPECT_EQ(inner->f_bavail, mount.f_bavail);
    EXPECT_EQ((*pool)->facts().file_system, GetParam() == Emulation::kRam ? "tmpfs" : "ext4");
    // What a small pool can still be used for.
    EXPECT_GT(mount.f_bavail * mount.f_frsize, rounded / 2);
  }
}

TEST_P(Emulated, GrowthBeyondCapacityIsRefused) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  auto pool = open_pool(scratch_.pool());
  ASSERT_WORKS(pool);
  const auto fd = (*pool)->backing().create(99);
  ASSERT_WORKS(fd);
  EXPECT_EQ(::fallocate(fd->get(), 0, 0, 16 * static_cast<off_t>(kMiB)), -1);
  EXPECT_EQ(errno, ENOSPC);
  ASSERT_EQ(::ftruncate(fd->get(), 0), 0);  // ext4 keeps the part that it could reserve
  const auto room = (*pool)->backing().statfs();
  const std::uint64_t half = room->f_bavail * room->f_frsize / 2;
  EXPECT_EQ(::fallocate(fd->get(), 0, 0, static_cast<off_t>(half)), 0);
  const auto after = (*pool)->backing().statfs();
  EXPECT_LE(after->f_bavail * after->f_frsize, half + 65536);
}

TEST_P(Emulated, FormatTwiceNeedsForce) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  const std::string before = read_whole(scratch_.pool() + "/superblock");
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(16 * kMiB)), EEXIST, "--force");
  EXPECT_EQ(read_whole(scratch_.pool() + "/superblock"), before);
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(32 * kMiB, true)));
  EXPECT_EQ((*open_pool(scratch_.pool()))->facts().capacity, 32 * kMiB);
  // In place, without naming the emulation again.
  ASSERT_WORKS(Pool::format(scratch_.pool(), {.force = true}));
  EXPECT_EQ((*open_pool(scratch_.pool()))->facts().capacity, 32 * kMiB);
}

TEST_P(Emulated, APoolInUseIsKept) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  const auto pool = open_pool(scratch_.pool());
  ASSERT_WORKS(pool);
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(16 * kMiB, true)), EBUSY, "in use");
  EXPECT_FAILS(Pool::detach(scratch_.pool()), EBUSY, "in use");
}

TEST_P(Emulated, AFormatCutShortIsTakenUp) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  std::filesystem::rename(scratch_.pool() + "/superblock", scratch_.pool() + "/superblock.new");
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(24 * kMiB)));
  EXPECT_EQ((*open_pool(scratch_.pool()))->facts().capacity, 24 * kMiB);
}

TEST_P(Emulated, DetachLeavesNothingMounted) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  ASSERT_WORKS(Pool::detach(scratch_.pool() + "/"));
  EXPECT_FALSE(emulation::mount_at(scratch_.pool())->any);
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.pool()));
  EXPECT_FAILS(Pool::detach(scratch_.pool()), EINVAL, "nothing to unmount");
}

TEST_P(Emulated, DoesNotHideWhatIsThere) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), {}));
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(16 * kMiB, true)), ENOTEMPTY, "hide");
  ASSERT_WORKS(open_pool(scratch_.pool()));
}

TEST_P(Emulated, PathsWithBlanks) {
  const std::string odd = scratch_.path("a pool\\with 100%\t(odd) name");
  ASSERT_WORKS(Pool::format(odd, options(16 * kMiB)));
  EXPECT_EQ(emulation::mount_at(odd)->kind, GetParam());
  ASSERT_WORKS(Pool::detach(odd));
}

class Disk : public Emulated {};
INSTANTIATE_TEST_SUITE_P(, Disk, ::testing::Values(Emulation::kDisk));

TEST_P(Disk, ComesBackWhenItsLockIsTaken) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  const std::string before = read_whole(scratch_.pool() + "/superblock");
  ASSERT_WORKS(Pool::detach(scratch_.pool()));
  EXPECT_FALSE(std::filesystem::exists(scratch_.pool() + "/superblock"));
  const auto lock = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(lock);
  EXPECT_EQ(read_whole(scratch_.pool() + "/superblock"), before);
  EXPECT_EQ(emulation::mount_at(scratch_.pool())->kind, Emulation::kDisk);
}

TEST_P(Disk, AnUnmountedPoolIsSeenByFormat) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  ASSERT_WORKS(Pool::detach(scratch_.pool()));
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(16 * kMiB)), EEXIST, "--force");
}

TEST_P(Disk, AnImageOfSomethingElseIsNeitherMountedNorOverwritten) {
  std::filesystem::create_directory(scratch_.pool());
  write_whole(scratch_.pool() + ".img", "somebody's file");
  EXPECT_FAILS(PoolLock::acquire(scratch_.pool()), EINVAL, "not a pool");
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(16 * kMiB, true)), EEXIST, "remove it first");
  EXPECT_EQ(read_whole(scratch_.pool() + ".img"), "somebody's file");
}

TEST_P(Disk, AnImageMountedElsewhereIsRefused) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  ASSERT_WORKS(Pool::detach(scratch_.pool()));
  std::filesystem::create_directory(scratch_.path("other"));
  std::filesystem::create_hard_link(scratch_.pool() + ".img", scratch_.path("other.img"));
  ASSERT_WORKS(PoolLock::acquire(scratch_.path("other")));
  EXPECT_FAILS(PoolLock::acquire(scratch_.pool()), EBUSY, "mounted elsewhere");
  ASSERT_WORKS(Pool::detach(scratch_.path("other")));
  ASSERT_WORKS(PoolLock::acquire(scratch_.pool()));
}

TEST_P(Disk, ACutOffImage) {
  ASSERT_WORKS(Pool::format(scratch_.pool(), options(16 * kMiB)));
  ASSERT_WORKS(Pool::detach(scratch_.pool()));
  std::filesystem::resize_file(scratch_.pool() + ".img", 8 * kMiB);
  const auto refused = PoolLock::acquire(scratch_.pool());
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message.find("e2fsck"), std::string::npos) << refused.error().message;
}

TEST_P(Disk, TooLargeForItsHost) {
  EXPECT_FAILS(Pool::format(scratch_.pool(), options(std::uint64_t{1} << 59)), EINVAL, "too large");
  EXPECT_FALSE(std::filesystem::exists(scratch_.pool() + ".img"));
  EXPECT_FALSE(std::filesystem::exists(scratch_.pool() + ".img.new"));
}

}  // namespace
}  // namespace btd
