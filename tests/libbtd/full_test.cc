// A full file system is an error of a call, never a signal: on a tmpfs of 24 MiB.
#include <fcntl.h>
#include <sys/mount.h>

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

}  // namespace
}  // namespace btd::test
