// Format and open on a plain directory: what is made, what is refused, and that nothing foreign
// goes.
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"
#include "fs/pool/superblock.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

Result<std::unique_ptr<Pool>> open_pool(const std::string& path) {
  BTD_ASSIGN(PoolLock lock, PoolLock::acquire(path));
  return Pool::open(path, std::move(lock));
}

TEST(Format, MakesAPoolThatOpens) {
  Scratch scratch(Scratch::On::kDisk);
  ASSERT_WORKS(Pool::format(scratch.pool() + "/", {.root_mode = 01777}));
  EXPECT_EQ(std::filesystem::file_size(scratch.pool() + "/superblock"), 4096U);
  EXPECT_EQ(read_whole(scratch.pool() + "/superblock"),
            read_whole(scratch.pool() + "/superblock.copy"));
  EXPECT_FALSE(std::filesystem::exists(scratch.pool() + "/superblock.new"));
  for (const char* fan : {"00", "7f", "ff"})
    EXPECT_TRUE(std::filesystem::is_directory(scratch.pool() + "/data/" + fan));

  auto pool = open_pool(scratch.pool());
  ASSERT_WORKS(pool);
  auto names = Namespace::open((*pool)->meta());
  ASSERT_WORKS(names);
  EXPECT_EQ((*names)->get(kRootId)->mode, S_IFDIR | 01777U);
  struct statvfs facts{};
  ASSERT_EQ(::statvfs(scratch.pool().c_str(), &facts), 0);
  EXPECT_EQ((*pool)->facts().capacity, facts.f_blocks * facts.f_frsize);
  EXPECT_EQ((*pool)->backing().statfs()->f_blocks, facts.f_blocks);
  EXPECT_EQ((*pool)->facts().uuid.size(), 36U);
  ASSERT_WORKS((*pool)->close());
}

TEST(Format, RefusesAPoolWithoutForce) {
  Scratch scratch;
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  const std::string before = read_whole(scratch.pool() + "/superblock");
  EXPECT_FAILS(Pool::format(scratch.pool(), {}), EEXIST, "--force");
  EXPECT_EQ(read_whole(scratch.pool() + "/superblock"), before);
}

TEST(Format, ForceBeginsAnew) {
  Scratch scratch;
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  const std::string before = read_whole(scratch.pool() + "/superblock");
  const std::string file = scratch.pool() + "/" + BackingStore::path(300);
  write_whole(file, "old");
  ASSERT_WORKS(Pool::format(scratch.pool(), {.force = true}));
  EXPECT_NE(read_whole(scratch.pool() + "/superblock"), before);
  EXPECT_FALSE(std::filesystem::exists(file));
  ASSERT_WORKS(open_pool(scratch.pool()));
}

TEST(Format, TouchesNothingForeign) {
  Scratch scratch;
  for (const char* foreign :
       {"x", "meta/x", "data/x", "data/3f/x", "data/3f/000000000000003F", "data/zz"}) {
    SCOPED_TRACE(foreign);
    std::filesystem::remove_all(scratch.pool());
    ASSERT_WORKS(Pool::format(scratch.pool(), {}));
    const std::string before = read_whole(scratch.pool() + "/superblock");
    write_whole(scratch.pool() + "/" + foreign, "precious");
    EXPECT_FAILS(Pool::format(scratch.pool(), {.force = true}), ENOTEMPTY, foreign);
    EXPECT_EQ(read_whole(scratch.pool() + "/" + foreign), "precious");
    EXPECT_EQ(read_whole(scratch.pool() + "/superblock"), before);
  }
}

TEST(Format, RefusesADirectoryWithFiles) {
  Scratch scratch;
  std::filesystem::create_directories(scratch.pool() + "/meta");
  EXPECT_FAILS(Pool::format(scratch.pool(), {.force = true}), ENOTEMPTY, "meta or data");
  write_whole(scratch.path("file"), "x");
  EXPECT_FAILS(Pool::format(scratch.path("file"), {}), ENOTDIR, "not a directory");
  EXPECT_FAILS(Pool::format(scratch.path("a/b"), {}), ENOENT, "create the directory");
}

TEST(Format, TakesUpAFormatThatWasCutShort) {
  Scratch scratch;
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  std::filesystem::rename(scratch.pool() + "/superblock", scratch.pool() + "/superblock.new");
  EXPECT_FAILS(PoolLock::acquire(scratch.pool()), EINVAL, "cut short");
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  ASSERT_WORKS(open_pool(scratch.pool()));
}

TEST(Format, CapacityBelongsToEmulation) {
  Scratch scratch;
  EXPECT_FAILS(Pool::format(scratch.pool(), {.capacity = kMinPoolBytes}), EINVAL, "--emulate");
  EXPECT_FAILS(Pool::format(scratch.pool(), {.emulate = Emulation::kRam}), EINVAL, "too small");
  EXPECT_FAILS(Pool::format(scratch.pool(),
                            {.emulate = Emulation::kRam, .capacity = std::uint64_t{1} << 62}),
               EINVAL, "too large");
  EXPECT_FALSE(std::filesystem::exists(scratch.pool()));
}

TEST(Format, NeedsFallocate) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  Scratch scratch;
  std::filesystem::create_directory(scratch.pool());
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "ramfs", 0, nullptr), 0);
  EXPECT_FAILS(Pool::format(scratch.pool(), {}), EOPNOTSUPP, "no fallocate");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.pool()));
}

TEST(Format, NeedsRoom) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  Scratch scratch;
  std::filesystem::create_directory(scratch.pool());
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", 0, "size=8m"), 0);
  EXPECT_FAILS(Pool::format(scratch.pool(), {}), EINVAL, "too small for a pool");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.pool()));
}

TEST(Format, ReadOnlyFileSystem) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  Scratch scratch;
  std::filesystem::create_directory(scratch.pool());
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", 0, "size=32m"), 0);
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=32m"),
            0);
  EXPECT_FAILS(Pool::format(scratch.pool(), {.force = true}), EROFS, "read-only");
  EXPECT_FAILS(open_pool(scratch.pool()), EROFS, "read-only");
}

TEST(Open, EveryDamageOfTheSuperblock) {
  Scratch scratch;
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  const std::string file = scratch.pool() + "/superblock", good = read_whole(file);
  write_whole(file, good.substr(0, 1000));
  EXPECT_FAILS(open_pool(scratch.pool()), EUCLEAN, "1000 of 4096");
  write_whole(file, std::string(4096, '\0'));
  EXPECT_FAILS(open_pool(scratch.pool()), EUCLEAN, "does not begin");
  std::string flipped = good;
  flipped[700] = 1;
  write_whole(file, flipped);
  EXPECT_FAILS(open_pool(scratch.pool()), EUCLEAN, "checksum");
  write_whole(file, good);
  ASSERT_WORKS(open_pool(scratch.pool()));
  std::filesystem::remove(file);
  EXPECT_FAILS(open_pool(scratch.pool()), EINVAL, "no superblock");
}

TEST(Open, AFileSystemThatShrank) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  Scratch scratch;
  std::filesystem::create_directory(scratch.pool());
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", 0, "size=32m"), 0);
  ASSERT_WORKS(Pool::format(scratch.pool(), {}));
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", MS_REMOUNT, "size=31m"), 0);
  EXPECT_FAILS(open_pool(scratch.pool()), EUCLEAN, "cut off");
  ASSERT_EQ(::mount("none", scratch.pool().c_str(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
  ASSERT_WORKS(open_pool(scratch.pool()));
}

}  // namespace
}  // namespace btd
