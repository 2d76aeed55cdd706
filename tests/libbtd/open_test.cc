// Opening and closing: configurations, places, locks, windows, damage.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <fstream>
#include <vector>

#include "alloc/layout.h"
#include "libbtd/windows.h"
#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

namespace fs = std::filesystem;
using OpenTest = HeapTest;

TEST_F(OpenTest, NothingButSingleNodeIsReadThen) {
  ASSERT_EQ(setenv("BTD_POOL", directory_.c_str(), 1), 0);
  btd_config garbage;
  std::memset(&garbage, 0xA5, sizeof garbage);
  open(garbage);
  EXPECT_TRUE(fs::exists(file("default/arena.0")));
  EXPECT_TRUE(fs::exists(file("default/lock")));
}

TEST_F(OpenTest, APoolThatIsNotThereIsSaid) {
  ASSERT_EQ(setenv("BTD_POOL", file("absent").c_str(), 1), 0);
  btd_config config;
  config.single_node = 1;
  EXPECT_EQ(open_error(config), ENOENT);
  EXPECT_NE(why().find(file("absent")), std::string::npos) << why();
}

TEST_F(OpenTest, WrongFieldsAreNamed) {
  const auto expect_named = [&](const char* what, const std::function<void(btd_config&)>& spoil) {
    btd_config wrong = config();
    spoil(wrong);
    EXPECT_EQ(open_error(wrong), EINVAL) << what;
    EXPECT_NE(why().find(what), std::string::npos) << why();
  };
  expect_named("directory", [](auto& c) { c.directory = nullptr; });
  expect_named("name", [](auto& c) { c.heap = ""; });
  expect_named("name", [](auto& c) { c.heap = "a/b"; });
  expect_named("name", [](auto& c) { c.heap = ".."; });
  const std::string long_name(65, 'x');
  expect_named("name", [&](auto& c) { c.heap = long_name.c_str(); });
  expect_named("arena_bytes", [](auto& c) { c.arena_bytes = kMiB; });
  expect_named("arena_bytes", [](auto& c) { c.arena_bytes = 2 * kWindowBytes; });
  expect_named("max_bytes", [](auto& c) { c.max_bytes = 1; });
  expect_named("durability", [](auto& c) { c.durability = 7; });
  expect_named("gc", [](auto& c) { c.gc = -1; });
  EXPECT_TRUE(fs::is_empty(directory_));
  errno = 0;
  EXPECT_EQ(btd_cluster_create(nullptr), nullptr);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(OpenTest, WithoutCreateAnAbsentHeapIsNotMade) {
  btd_config without = config();
  without.create = 0;
  EXPECT_EQ(open_error(without), ENOENT);
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(OpenTest, TheSameHeapIsTheSameHandleAndCounted) {
  btd_cluster* const first = open();
  btd_config again = config();
  again.create = 0;
  EXPECT_EQ(btd_cluster_create(&again), first);
  EXPECT_EQ(btd_cluster_destroy(first), 0);
  EXPECT_NE(btd_malloc(first, 10), nullptr);
}

TEST_F(OpenTest, HeapsOfOneDirectoryHaveWindowsOfTheirOwn) {
  std::vector<btd_cluster*> heaps;
  std::vector<std::string> names;
  for (unsigned i = 0; i < kWindows; ++i) names.push_back("heap" + std::to_string(i));
  for (const std::string& name : names) {
    btd_config with = config(name.c_str());
    with.arena_bytes = 2 * kMiB;
    btd_cluster* const heap = btd_cluster_create(&with);
    ASSERT_NE(heap, nullptr) << why();
    EXPECT_EQ(cluster_of(btd_malloc(heap, 1)), heap);
    heaps.push_back(heap);
  }
  EXPECT_EQ(open_error(config("one-more")), EADDRINUSE);
  EXPECT_NE(why().find("16"), std::string::npos) << why();
  for (btd_cluster* heap : heaps) EXPECT_EQ(btd_cluster_destroy(heap), 0) << why();
  EXPECT_FALSE(fs::exists(file("one-more")));
}

TEST_F(OpenTest, AfterAKillTheNextOpenIsUnclean) {
  open();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  close();
  const pid_t holder = fork();
  if (holder == 0) {
    btd_config with = config();
    if (btd_cluster_create(&with) == nullptr) _exit(1);
    [[maybe_unused]] const ssize_t put = write(ready[1], "x", 1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_EQ(kill(holder, SIGKILL), 0);
  ASSERT_EQ(waitpid(holder, nullptr, 0), holder);
  open();
  EXPECT_EQ(statistics().was_clean, 0);
}

TEST_F(OpenTest, AWindowThatIsTakenIsNamed) {
  open();
  void* const base = window_base(static_cast<unsigned>(window_of(btd_malloc(heap_, 1))));
  close();
  const int fd = ::open("/proc/self/exe", O_RDONLY);
  ASSERT_EQ(mmap(base, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0), base);
  ::close(fd);
  EXPECT_EQ(open_error(config()), EADDRINUSE);
  EXPECT_NE(why().find(fs::read_symlink("/proc/self/exe").filename()), std::string::npos) << why();
  munmap(base, 4096);
  open();
}

TEST_F(OpenTest, ANewHeapAvoidsATakenWindow) {
  std::array<void*, kWindows> taken{};
  for (unsigned i = 1; i < kWindows; ++i) {
    taken.at(i) = mmap(window_base(i), 4096, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  }
  EXPECT_EQ(window_of(btd_malloc(open(), 1)), 0U);
  for (unsigned i = 1; i < kWindows; ++i) munmap(taken.at(i), 4096);
}

std::string making(uid_t user) { return ".btd-making-" + std::to_string(user); }

TEST_F(OpenTest, WhatACrashLeftHalfMadeGoes) {
  fs::create_directory(file(".h.new"));
  std::ofstream(file(".h.new/arena.0")) << "half";
  std::ofstream(file(making(geteuid()))) << "";
  open();
  EXPECT_FALSE(fs::exists(file(".h.new")));
  EXPECT_FALSE(fs::exists(file(making(geteuid()))));
  EXPECT_TRUE(fs::exists(file("h/arena.0")));
}

TEST_F(OpenTest, ATooLongMakingIsEndedWithAnError) {
  const int fd = ::open(file(making(geteuid())).c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  EXPECT_EQ(open_error(config()), EBUSY);
  ::close(fd);
}

TEST_F(OpenTest, WhatAnotherUserMakesIsNotWaitedFor) {
  const int fd = ::open(file(making(geteuid() + 1)).c_str(), O_RDWR | O_CREAT, 0);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  open();
  ::close(fd);
}

class DamageTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    open();
    EXPECT_EQ(btd_set_root(heap_, "root", btd_malloc(heap_, 100)), 0);
    close();
  }
  template <class T>
  void overwrite(std::size_t at, T value) {
    const int fd = ::open(file("h/arena.0").c_str(), O_RDWR);
    ASSERT_EQ(pwrite(fd, &value, sizeof value, static_cast<off_t>(at)),
              static_cast<ssize_t>(sizeof value));
    ::close(fd);
  }
};

TEST_F(DamageTest, AnotherVersionIsRefused) {
  overwrite(offsetof(ArenaIdentity, version), kFormatVersion + 1);
  EXPECT_EQ(open_error(config()), EINVAL);
  EXPECT_NE(why().find("version"), std::string::npos) << why();
}

TEST_F(DamageTest, ADamagedHeaderIsRefused) {
  overwrite(offsetof(ArenaIdentity, segment_count), std::uint32_t{12345});
  EXPECT_EQ(open_error(config()), EUCLEAN);
}

TEST_F(DamageTest, WhatIsNoHeapIsRefused) {
  overwrite(0, std::uint64_t{0});
  EXPECT_EQ(open_error(config()), EINVAL);
  fs::remove(file("h/arena.0"));
  EXPECT_EQ(open_error(config()), EINVAL);
  EXPECT_NE(why().find("arena.0"), std::string::npos) << why();
}

TEST_F(DamageTest, ATruncatedArenaIsRefused) {
  for (const std::uint64_t size : {kMiB, std::uint64_t{50}}) {
    fs::resize_file(file("h/arena.0"), size);
    EXPECT_EQ(open_error(config()), EUCLEAN) << size;
    EXPECT_NE(why().find("truncated"), std::string::npos) << why();
  }
}

TEST_F(DamageTest, AMissingArenaIsRefused) {
  open();
  while (statistics().arenas < 2) ASSERT_NE(btd_malloc(heap_, kMiB), nullptr);
  close();
  fs::rename(file("h/arena.1"), file("away"));
  EXPECT_EQ(open_error(config()), EUCLEAN);
  fs::rename(file("away"), file("h/arena.1"));
  EXPECT_EQ(open_error(config()), 0) << why();
}

// Directories of others, and links: as another user than root, whom permissions do not stop.
class OtherUserTest : public HeapTest {
 protected:
  // Nobody's, and no other test's that runs now.
  const uid_t nobody_ = 100'000 + static_cast<uid_t>(getpid());
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
    if (fs::exists(own())) GTEST_SKIP() << own() << " is there already";
    HeapTest::SetUp();
  }
  void TearDown() override {
    if (!directory_.empty()) HeapTest::TearDown();
    if (!IsSkipped()) fs::remove_all(own());
  }
  [[nodiscard]] std::string own() const { return "/dev/shm/bartender-" + std::to_string(nobody_); }
  // The errno of opening the default heap, or 0, or -1 where there is a mount.
  [[nodiscard]] int open_as_nobody() const {
    return in_child([this] {
      unsetenv("BTD_POOL");
      if (fs::exists("/mnt/bartender/.btd/status")) return 254;
      if (setresuid(nobody_, nobody_, nobody_) != 0) return 253;
      btd_config single;
      single.single_node = 1;
      return open_error(single);
    });
  }
};

TEST_F(OtherUserTest, TheirOwnDirectoryIsMadeForThemAlone) {
  EXPECT_EQ(open_as_nobody(), 0);
  struct stat status{};
  ASSERT_EQ(stat(own().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0700U);
  EXPECT_EQ(status.st_uid, nobody_);
  EXPECT_EQ(open_as_nobody(), 0);
}

TEST_F(OtherUserTest, ADirectoryOfAnotherUserIsRefused) {
  fs::create_directory(own());
  EXPECT_EQ(open_as_nobody(), EACCES);
}

TEST_F(OtherUserTest, ADirectoryOpenToOthersIsRefused) {
  fs::create_directory(own());
  ASSERT_EQ(chmod(own().c_str(), 0755), 0);
  ASSERT_EQ(chown(own().c_str(), nobody_, nobody_), 0);
  EXPECT_EQ(open_as_nobody(), EACCES);
}

TEST_F(OtherUserTest, ALinkIsNotFollowed) {
  fs::create_directory(file("target"));
  ASSERT_EQ(chmod(directory_.c_str(), 0755), 0);
  ASSERT_EQ(chown(file("target").c_str(), nobody_, nobody_), 0);
  fs::create_symlink(file("target"), own());
  EXPECT_EQ(open_as_nobody(), ENOTDIR);
  EXPECT_TRUE(fs::is_empty(file("target")));
}

TEST_F(OtherUserTest, AReadOnlyDirectoryIsSaid) {
  ASSERT_EQ(chmod(directory_.c_str(), 0555), 0);
  EXPECT_EQ(in_child([&] {
              if (setresuid(nobody_, nobody_, nobody_) != 0) return 253;
              return open_error(config());
            }),
            EACCES);
}

}  // namespace
}  // namespace btd::test
