// A home whose pool is full: on a tmpfs of a few megabytes, in a mount namespace of this process
// that ends with it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using Bytes = std::vector<std::byte>;

constexpr InodeId kFile = id_of(100);
constexpr std::size_t kPool = 4 << 20;
constexpr char kMountPoint[] = "/dev/shm";

// Why there is no small tmpfs; empty if there is one.
std::string& why_not() {
  static std::string why;
  return why;
}

class RemoteSpace : public testing::Test {
 protected:
  void SetUp() override {
    if (!why_not().empty()) GTEST_SKIP() << why_not();
    world.emplace(FileServiceOptions{}, net::EngineOptions{}, kMountPoint);
    client = world->client();
  }
  void fill_up() {
    world->files().make(id_of(1), 0);
    const UniqueFd fd(::open(world->files().path(id_of(1)).c_str(), O_RDWR | O_CLOEXEC));
    off_t at = 0;
    for (off_t piece = 1 << 20; piece >= 4096;)
      if (::fallocate(fd.get(), 0, at, piece) == 0) {
        at += piece;
      } else {
        piece /= 2;
      }
  }
  std::optional<World> world;
  std::unique_ptr<RemoteFiles> client;
};

TEST_F(RemoteSpace, AFullPoolIsSaid) {
  world->files().make(kFile, 1 << 20, 'a');
  ASSERT_TRUE(client->open(kFile, true));
  fill_up();
  EXPECT_EQ(client->write(kFile, 1 << 20, random_bytes(1 << 20, 1)).error().code, ENOSPC);
  EXPECT_EQ(client->change(kFile, {.size = 3 << 20}).error().code, ENOSPC);
  EXPECT_EQ(client->allocate(kFile, 0, 1 << 20, 1 << 20).error().code, ENOSPC);
  EXPECT_EQ(client->attributes(kFile)->st_size, 1 << 20);
  // What it has it keeps, and may write to.
  const Bytes bytes = random_bytes(1 << 20, 2);
  ASSERT_TRUE(client->write(kFile, 0, bytes));
  Bytes got(2 << 20);
  ASSERT_EQ(client->read(kFile, 0, got).value_or(0), bytes.size());
  EXPECT_TRUE(std::ranges::equal(std::span{got}.first(bytes.size()), bytes));
}

TEST_F(RemoteSpace, HolesThatCannotBeFilledFailTheOpen) {
  world->files().make(kFile, 0);
  ASSERT_EQ(::truncate(world->files().path(kFile).c_str(), 1 << 20), 0);
  fill_up();
  EXPECT_EQ(client->open(kFile, true).error().code, ENOSPC);
  EXPECT_EQ(world->files().holds(kFile), 0);
  ASSERT_TRUE(client->open(kFile, false));
  Bytes got(1000);
  EXPECT_EQ(client->read(kFile, 5000, got).value_or(0), 1000U);  // by a call: it needs no room
}

// The home knows nothing of the hole, and there is no room to fill it when a store comes.
TEST_F(RemoteSpace, AHolePunchedBehindTheHomeIsNoDeath) {
  world->files().make(kFile, 1 << 20, 'a');
  ASSERT_TRUE(client->open(kFile, true));
  ASSERT_TRUE(client->write(kFile, 0, random_bytes(100, 1)));
  EXPECT_EQ(client->counters().writes, 1U);
  {
    const UniqueFd fd(::open(world->files().path(kFile).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
  }
  fill_up();
  static_cast<void>(client->write(kFile, 500'000, random_bytes(100, 1)));
  EXPECT_TRUE(comes_true([&] { return world->home().service().counters().broken > 0; }));
  EXPECT_TRUE(comes_true([&] {
    const Status wrote = client->write(kFile, 500'000, random_bytes(100, 2));
    return !wrote && wrote.error().code == ENOSPC;
  }));
  EXPECT_EQ(client->write(kFile, 0, random_bytes(500'000, 3)).error().code, ENOSPC);
  EXPECT_TRUE(client->attributes(kFile));
}

void make_small_tmpfs() {
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("none", kMountPoint, "tmpfs", 0, ("size=" + std::to_string(kPool)).c_str()) != 0)
    why_not() = std::string("no tmpfs can be mounted here: ") + strerrordesc_np(errno);
}

}  // namespace
}  // namespace btd::remote

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  btd::remote::make_small_tmpfs();
  return RUN_ALL_TESTS();
}
