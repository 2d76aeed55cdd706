// Persist primitives, checked words, and arenas in files: counting, choosing the domain, opening.
#include "alloc/persist.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <type_traits>

#include "alloc/crc.h"
#include "alloc/file_arenas.h"
#include "alloc/heap.h"
#include "alloc/layout.h"

namespace btd {
namespace {

static_assert(!std::is_assignable_v<persistent<std::uint64_t>&, std::uint64_t>);
static_assert(!std::is_assignable_v<persistent<std::uint64_t>&, persistent<std::uint64_t>>);
static_assert(std::is_assignable_v<transient<std::uint64_t>&, std::uint64_t>);

TEST(Persist, CountsLinesFencesAndBytes) {
  alignas(kLineBytes) std::array<std::byte, 4 * kLineBytes> memory{};
  Persist persist(Domain::kCacheLine);
  persist.flush(memory.data(), 1);
  persist.flush(memory.data() + 60, 8);  // crosses a line
  persist.copy_nodrain(memory.data(), memory.data() + 128, 128);
  EXPECT_TRUE(persist.drain());
  const Persist::Counters counters = persist.counters();
  EXPECT_EQ(counters.lines, 1U + 2U + 2U);
  EXPECT_EQ(counters.fences, 1U);
  EXPECT_EQ(counters.bytes, 1U + 8U + 128U);
}

TEST(Persist, FailedSyncIsReportedForGood) {
  Persist persist(Domain::kMsync);
  std::array<std::byte, 64> here{};
  EXPECT_TRUE(persist.persist(here.data(), here.size()));
  void* gone = mmap(nullptr, kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(gone, MAP_FAILED);
  munmap(gone, kPageBytes);
  EXPECT_FALSE(persist.persist(gone, 8));
  EXPECT_FALSE(persist.drain());
  EXPECT_EQ(persist.health().error().code, EIO);
}

TEST(CheckedWord, SeesEveryErrorOfOneAndTwoBits) {
  const std::uint64_t word = checked_word(0x123456789ABCDE);
  for (int a = 0; a < 64; ++a) {
    EXPECT_FALSE(checked_value(word ^ (1ULL << a)));
    for (int b = 0; b < a; ++b) EXPECT_FALSE(checked_value(word ^ (1ULL << a) ^ (1ULL << b)));
  }
}

TEST(Crc32c, IsCastagnoliAndContinues) {
  const char text[] = "123456789";
  EXPECT_EQ(~crc32c(text, 9), 0xE3069283U);
  EXPECT_EQ(crc32c(text + 4, 5, crc32c(text, 4)), crc32c(text, 9));
}

class Files : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string pattern = std::string(GetParam()) + "/btd-arenas-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
    dir_ = UniqueFd(open(path_.c_str(), O_DIRECTORY | O_RDONLY | O_CLOEXEC));
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

  std::filesystem::path path_;
  UniqueFd dir_;
};

TEST_P(Files, HeapSurvivesReopeningAndGrows) {
  constexpr std::uint64_t kArena = 1 << 20;
  const Heap::Options options{.lanes = 2, .lane_bytes = 16 * 1024};
  Offset block = 0;
  {
    auto source = FileArenas::create(dir_.get(), kArena, 4);
    ASSERT_TRUE(source) << source.error().message;
    EXPECT_EQ(FileArenas::create(dir_.get(), kArena, 4).error().code, EEXIST);
    auto heap = Heap::format(**source, options);
    ASSERT_TRUE(heap) << heap.error().message;
    for (int i = 0; i < 20; ++i) {
      Tx tx = (*heap)->begin();
      block = *tx.alloc(100'000);
      std::memset(*tx.edit(block, 100'000), 'k', 100'000);
      ASSERT_TRUE(tx.set_root(0, block));
      ASSERT_TRUE(tx.commit());
    }
    EXPECT_GT((*source)->count(), 1U);
  }
  auto source = FileArenas::open(dir_.get(), 4, FileArenas::Mode::kShared);
  ASSERT_TRUE(source) << source.error().message;
  const bool tmpfs = (*source)->nvram().kind == "tmpfs";
  EXPECT_EQ((*source)->nvram().domain, tmpfs ? Domain::kCacheLine : Domain::kMsync);
  EXPECT_EQ((*source)->nvram().survives, tmpfs ? "process crash, not power loss" : "power loss");
  auto heap = Heap::open(**source);
  ASSERT_TRUE(heap) << heap.error().message;
  EXPECT_EQ((*heap)->root(0), block);
  EXPECT_EQ((*heap)->at(block)[99'999], std::byte{'k'});
}

TEST_P(Files, PrivateModeNeverChangesTheFiles) {
  {
    auto source = FileArenas::create(dir_.get(), 1 << 20, 1);
    ASSERT_TRUE(source);
    ASSERT_TRUE(Heap::format(**source, {.lanes = 2, .lane_bytes = 16 * 1024}));
  }
  auto source = FileArenas::open(dir_.get(), 1, FileArenas::Mode::kPrivate);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ((*source)->extend().error().code, EROFS);
  {
    auto heap = Heap::open(**source);
    ASSERT_TRUE(heap);
    Tx tx = (*heap)->begin();
    ASSERT_TRUE(tx.set_root(1, 77));
    ASSERT_TRUE(tx.commit());
    EXPECT_EQ((*heap)->root(1), 77U);
  }
  auto shared = FileArenas::open(dir_.get(), 1, FileArenas::Mode::kShared);
  ASSERT_TRUE(shared);
  EXPECT_EQ((*Heap::open(**shared))->root(1), 0U);
}

TEST_P(Files, SaysWhatIsWrongWithTheFiles) {
  EXPECT_EQ(FileArenas::open(dir_.get(), 1, FileArenas::Mode::kShared).error().code, ENOENT);
  EXPECT_EQ(FileArenas::create(dir_.get(), 1000, 1).error().code, EINVAL);
  ASSERT_TRUE(FileArenas::create(dir_.get(), 1 << 20, 2));
  {
    auto source = FileArenas::open(dir_.get(), 1, FileArenas::Mode::kShared);
    ASSERT_TRUE(source);
    const auto heap = Heap::open(**source);
    EXPECT_EQ(heap.error().code, EINVAL);
    ASSERT_TRUE(Heap::format(**source, {.lanes = 2, .lane_bytes = 16 * 1024}));
  }
  std::filesystem::resize_file(path_ / "arena.0", 512 * 1024);
  {
    auto source = FileArenas::open(dir_.get(), 1, FileArenas::Mode::kShared);
    ASSERT_TRUE(source);
    const auto heap = Heap::open(**source);
    EXPECT_EQ(heap.error().code, EUCLEAN);
    EXPECT_NE(heap.error().message.find("truncated"), std::string::npos);
  }
  std::filesystem::resize_file(path_ / "arena.0", 1000);
  EXPECT_EQ(FileArenas::open(dir_.get(), 1, FileArenas::Mode::kShared).error().code, EUCLEAN);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Files, testing::Values("/dev/shm", "/var/tmp"),
                         [](const auto& each) {
                           return std::string(each.param) == "/dev/shm" ? "tmpfs" : "disk";
                         });

}  // namespace
}  // namespace btd
