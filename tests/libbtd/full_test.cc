// The file system's space: full, it is an error of a call, never a signal; and it comes back.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

class FullTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    mounted_ = mount("none", directory_.c_str(), "tmpfs", 0, "size=24m") == 0;
    if (!mounted_) GTEST_SKIP() << "tmpfs cannot be mounted: " << strerrordesc_np(errno);
  }
  void TearDown() override {
    if (heap_ != nullptr) close();
    if (mounted_) umount(directory_.c_str());
    HeapTest::TearDown();
  }
  bool mounted_ = false;
};

TEST_F(FullTest, StoresNeverMeetAFullFileSystem) {
  for (const std::size_t bytes : {100UL, 5000UL, 70'000UL, 3 * kMiB}) {
    const std::string name = "h" + std::to_string(bytes);
    btd_config sparse = config(name.c_str());
    sparse.arena_bytes = 1024 * kMiB;  // sparse: far more than there is
    open(sparse);
    ASSERT_NE(heap_, nullptr);
    std::vector<void*> blocks;
    while (void* const block = btd_malloc(heap_, bytes)) {
      std::memset(block, 1, bytes);
      blocks.push_back(block);
    }
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_NE(why().find("full"), std::string::npos) << why();
    EXPECT_GT(blocks.size() * btd_usable_size(blocks.front()), 12 * kMiB);
    // What is freed serves again, for the other contracts too.
    for (std::size_t i = 0; i < blocks.size(); i += 2) btd_free(blocks[i]);
    EXPECT_NE(btd_malloc(heap_, bytes), nullptr) << why();
    close();
    open(sparse);
    EXPECT_EQ(btd_check(heap_, nullptr, nullptr), 0);
    close();
    std::filesystem::remove_all(file(sparse.heap));
  }
}

TEST_F(FullTest, AHeapThatFindsNoRoomIsNotMade) {
  const int filler = ::open(file("filler").c_str(), O_CREAT | O_WRONLY, 0600);
  ASSERT_EQ(posix_fallocate(filler, 0, static_cast<off_t>(23 * kMiB)), 0);
  ::close(filler);
  EXPECT_EQ(open_error(config()), ENOSPC);
  EXPECT_FALSE(std::filesystem::exists(file("h")));
  EXPECT_FALSE(std::filesystem::exists(file(".h.new")));
  std::filesystem::remove(file("filler"));
  open();
}

class SpaceTest : public HeapTest {
 protected:
  std::uint64_t on_disk() {
    std::uint64_t sum = 0;
    for (const auto& entry : std::filesystem::directory_iterator(file("h"))) {
      struct stat status{};
      if (stat(entry.path().c_str(), &status) == 0)
        sum += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    return sum;
  }
};

TEST_F(SpaceTest, LargeBlocksGoBackToTheFileSystem) {
  btd_config large = config();
  large.arena_bytes = 1024 * kMiB;
  open(large);
  constexpr std::uint64_t kReservoir = 64 * kMiB;
  for (int round = 0; round < 3; ++round) {
    std::vector<std::uint64_t*> blocks;
    for (std::uint64_t i = 0; i < 40; ++i) {
      auto* const block = static_cast<std::uint64_t*>(btd_malloc(heap_, (1 + i % 9) * kMiB));
      ASSERT_NE(block, nullptr) << why();
      std::fill_n(block, (1 + i % 9) * kMiB / 8, i);
      blocks.push_back(block);
    }
    EXPECT_GT(on_disk(), 180 * kMiB);
    for (std::uint64_t i = 0; i < 40; i += 2) {
      EXPECT_EQ(blocks[i][0], i);
      btd_free(blocks[i]);
    }
    // The others are as they were.
    for (std::uint64_t i = 1; i < 40; i += 2) {
      EXPECT_EQ(std::count(blocks[i], blocks[i] + (1 + i % 9) * kMiB / 8, i),
                (1 + i % 9) * kMiB / 8);
      btd_free(blocks[i]);
    }
    EXPECT_LT(on_disk(), kReservoir + 16 * kMiB);
  }
  // Of contracts P and T when the watermark allows.
  auto** const slots = static_cast<void**>(btd_calloc(heap_, 20, sizeof(void*)));
  for (int i = 0; i < 20; ++i) ASSERT_NE(btd_malloc_to(&slots[i], 8 * kMiB), nullptr) << why();
  EXPECT_GT(on_disk(), 160 * kMiB);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(btd_free_from(&slots[i]), 0);
  EXPECT_EQ(btd_checkpoint(heap_), 0);
  EXPECT_LT(on_disk(), kReservoir + 16 * kMiB);
  close();
  open(large);
  EXPECT_EQ(btd_check(heap_, nullptr, nullptr), 0);
  EXPECT_NE(btd_malloc(heap_, 300 * kMiB), nullptr) << why();
}

}  // namespace
}  // namespace btd::test
