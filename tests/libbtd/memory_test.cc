// Contract R: malloc and its kin, and what they refuse.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

class MemoryTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    setenv("BTD_QUIET", "1", 1);
    open();
  }
  // What freeing says; "" if it is content.
  static std::string free_error(void* block) {
    errno = 0;
    btd_free(block);
    return errno == 0 ? "" : std::to_string(errno) + " " + btd_strerror();
  }
};

std::uintptr_t number(const void* at) { return reinterpret_cast<std::uintptr_t>(at); }

TEST_F(MemoryTest, BlocksOfAllSizesHoldWhatIsStoredInThem) {
  std::vector<std::pair<unsigned char*, std::size_t>> blocks;
  for (std::size_t bytes = 0; bytes < 3 * kMiB; bytes += 1 + bytes / 7) {
    auto* const block = static_cast<unsigned char*>(btd_malloc(heap_, bytes));
    ASSERT_NE(block, nullptr) << bytes << ": " << why();
    EXPECT_GE(btd_usable_size(block), std::max<std::size_t>(bytes, 1));
    EXPECT_EQ(number(block) % 16, 0U);
    if (bytes % 64 == 0 && bytes > 0) {
      EXPECT_EQ(number(block) % 64, 0U) << bytes;
    }
    std::memset(block, static_cast<int>(bytes % 251), bytes);
    blocks.emplace_back(block, bytes);
  }
  for (const auto& [block, bytes] : blocks) {
    const auto value = static_cast<unsigned char>(bytes % 251);
    EXPECT_TRUE(std::all_of(block, block + bytes, [&](auto each) { return each == value; }));
    EXPECT_EQ(free_error(block), "") << bytes;
  }
  EXPECT_EQ(statistics().allocated_bytes, 0U);
}

TEST_F(MemoryTest, BlocksOfNoBytesAreDistinct) {
  std::set<void*> blocks;
  for (int i = 0; i < 100; ++i) blocks.insert(btd_malloc(heap_, 0));
  EXPECT_EQ(blocks.size(), 100U);
  EXPECT_FALSE(blocks.contains(nullptr));
}

TEST_F(MemoryTest, CallocGivesZerosEvenInUsedMemory) {
  for (const std::size_t bytes : {24UL, 500UL, 9000UL, 200'000UL}) {
    void* const used = btd_malloc(heap_, bytes);
    std::memset(used, 0xFF, bytes);
    btd_free(used);
    auto* const block = static_cast<unsigned char*>(btd_calloc(heap_, bytes / 4, 4));
    ASSERT_NE(block, nullptr);
    EXPECT_TRUE(std::all_of(block, block + bytes, [](auto each) { return each == 0; }));
  }
  errno = 0;
  EXPECT_EQ(btd_calloc(heap_, SIZE_MAX / 2, 3), nullptr);
  EXPECT_EQ(errno, EOVERFLOW);
}

TEST_F(MemoryTest, AlignmentsAreKept) {
  for (std::size_t alignment = 1; alignment <= 65'536; alignment *= 2) {
    for (const std::size_t bytes : {0UL, 1UL, 24UL, 100UL, 3000UL, 33'000UL, 100'000UL}) {
      void* const block = btd_aligned_alloc(heap_, alignment, bytes);
      ASSERT_NE(block, nullptr) << why();
      EXPECT_EQ(number(block) % alignment, 0U) << alignment << " " << bytes;
      EXPECT_GE(btd_usable_size(block), bytes);
      EXPECT_EQ(free_error(block), "");
    }
  }
  for (const std::size_t wrong : {0UL, 3UL, 48UL, 131'072UL}) {
    errno = 0;
    EXPECT_EQ(btd_aligned_alloc(heap_, wrong, 8), nullptr);
    EXPECT_EQ(errno, EINVAL);
  }
}

TEST_F(MemoryTest, ReallocKeepsTheContents) {
  std::mt19937 random(7);
  std::vector<unsigned char> model;
  unsigned char* block = nullptr;
  for (int round = 0; round < 300; ++round) {
    const std::size_t bytes = 1 + random() % (round % 10 == 0 ? 2 * kMiB : 5000);
    block = static_cast<unsigned char*>(btd_realloc(heap_, block, bytes));
    ASSERT_NE(block, nullptr) << why();
    const std::size_t kept = std::min(bytes, model.size());
    ASSERT_TRUE(std::equal(block, block + kept, model.begin()));
    model.resize(bytes);
    for (unsigned char& each : model) each = static_cast<unsigned char>(random());
    std::copy(model.begin(), model.end(), block);
  }
  EXPECT_EQ(btd_realloc(heap_, block, 0), nullptr);
  EXPECT_EQ(statistics().allocated_bytes, 0U);
}

TEST_F(MemoryTest, ReallocThatFailsLeavesTheBlock) {
  void* const block = btd_malloc(heap_, 100);
  std::memset(block, 7, 100);
  errno = 0;
  EXPECT_EQ(btd_realloc(heap_, block, SIZE_MAX), nullptr);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(static_cast<unsigned char*>(block)[99], 7);
  EXPECT_EQ(free_error(block), "");
  errno = 0;
  EXPECT_EQ(btd_realloc(heap_, static_cast<char*>(block) + 1, 10), nullptr);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(MemoryTest, ImpossibleSizesAreRefused) {
  for (const std::size_t bytes :
       {SIZE_MAX, SIZE_MAX - 65'535, SIZE_MAX / 2, 1UL << 40, 33 * kMiB}) {
    errno = 0;
    EXPECT_EQ(btd_malloc(heap_, bytes), nullptr) << bytes;
    EXPECT_EQ(errno, ENOSPC);
    EXPECT_NE(why(), "");
  }
  EXPECT_NE(btd_malloc(heap_, 100), nullptr);
}

TEST_F(MemoryTest, AFullHeapSaysSoAndServesAgainAfterAFree) {
  close();
  btd_config limited = config("small");
  limited.max_bytes = 64 * kMiB;
  open(limited);
  std::vector<void*> blocks;
  while (void* const block = btd_malloc(heap_, 100'000)) {
    std::memset(block, 1, 100'000);
    blocks.push_back(block);
  }
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_GT(blocks.size() * 100'000, 40 * kMiB);  // in extents of 128 KiB
  EXPECT_LE(statistics().mapped_bytes, 64 * kMiB);
  EXPECT_GT(statistics().arenas, 1U);
  btd_free(blocks.back());
  EXPECT_NE(btd_malloc(heap_, 100'000), nullptr) << why();
}

TEST_F(MemoryTest, MisuseIsRefusedAndNamedAndChangesNothing) {
  auto* const block = static_cast<char*>(btd_malloc(heap_, 200));
  auto* const large = static_cast<char*>(btd_malloc(heap_, 300'000));
  std::memset(block, 5, 200);
  int on_stack = 0;
  void* const from_libc = std::malloc(10);
  EXPECT_NE(free_error(&on_stack).find("not in any open heap"), std::string::npos);
  EXPECT_NE(free_error(from_libc).find("not in any open heap"), std::string::npos);
  EXPECT_NE(free_error(block + 16).find("points inside the block"), std::string::npos);
  EXPECT_NE(free_error(block + 1).find("points inside the block"), std::string::npos);
  EXPECT_NE(free_error(large + 65'536).find("points inside the block"), std::string::npos);
  EXPECT_EQ(free_error(nullptr), "");
  EXPECT_EQ(free_error(large), "");
  EXPECT_NE(free_error(large).find("not allocated"), std::string::npos);
  EXPECT_EQ(btd_usable_size(block + 16), 0U);
  EXPECT_EQ(btd_usable_size(&on_stack), 0U);
  EXPECT_EQ(block[199], 5);
  EXPECT_EQ(free_error(block), "");
  EXPECT_NE(free_error(block).find("not allocated"), std::string::npos);
  EXPECT_EQ(statistics().allocated_bytes, 0U);
  std::free(from_libc);
}

TEST_F(MemoryTest, ABlockOfAnotherContractIsRefused) {
  auto** const slot = static_cast<void**>(btd_malloc(heap_, sizeof(void*)));
  *slot = nullptr;
  void* const published = btd_malloc_to(slot, 50);
  ASSERT_NE(published, nullptr) << why();
  EXPECT_NE(free_error(published).find("contract P or T"), std::string::npos);
  EXPECT_EQ(*slot, published);
}

TEST_F(MemoryTest, MisuseIsToldOnStandardErrorOnceForEachKind) {
  unsetenv("BTD_QUIET");
  int on_stack = 0;
  testing::internal::CaptureStderr();
  btd_free(&on_stack);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_EQ(told.rfind("libbtd: ", 0), 0U) << told;
  testing::internal::CaptureStderr();
  btd_free(&on_stack);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(MemoryTest, FreeLeavesErrnoAlone) {
  void* const block = btd_malloc(heap_, 64);
  errno = EXDEV;
  btd_free(block);
  btd_free(nullptr);
  EXPECT_EQ(errno, EXDEV);
}

TEST_F(MemoryTest, ANullHandleIsAnErrorNotACrash) {
  errno = 0;
  EXPECT_EQ(btd_malloc(nullptr, 8), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(btd_calloc(nullptr, 8, 8), nullptr);
  EXPECT_EQ(btd_realloc(nullptr, nullptr, 8), nullptr);
  EXPECT_EQ(btd_root(nullptr, "x"), nullptr);
  EXPECT_EQ(btd_gc(nullptr), -1);
  EXPECT_EQ(btd_tx_begin(nullptr), -1);
  EXPECT_EQ(btd_cluster_destroy(nullptr), 0);
}

TEST_F(MemoryTest, TypesAreKeptAndCheckedAgainstTheirLayout) {
  const std::uint64_t first_word[] = {1};
  const std::uint64_t second_word[] = {2};
  EXPECT_EQ(btd_register_type(heap_, 9, 16, first_word), 0) << why();
  EXPECT_EQ(btd_register_type(heap_, 9, 16, first_word), 0);
  EXPECT_EQ(btd_register_type(heap_, 9, 16, second_word), -1);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_NE(btd_malloc_typed(heap_, 16, 9), nullptr) << why();
  EXPECT_NE(btd_malloc_typed(heap_, 16, BTD_TYPE_NO_POINTERS), nullptr);
  for (const unsigned type : {10U, 255U, 256U, 1000U}) {
    errno = 0;
    EXPECT_EQ(btd_malloc_typed(heap_, 16, type), nullptr) << type;
    EXPECT_EQ(errno, EINVAL);
  }
  for (const auto& [type, bytes] :
       {std::pair<unsigned, std::size_t>{0, 8}, {1, 8}, {256, 8}, {5, 0}, {5, 12}, {5, 4104}}) {
    errno = 0;
    EXPECT_EQ(btd_register_type(heap_, type, bytes, first_word), -1);
    EXPECT_EQ(errno, EINVAL);
  }
  close();
  open();
  EXPECT_NE(btd_malloc_typed(heap_, 16, 9), nullptr) << why();
  EXPECT_EQ(btd_register_type(heap_, 9, 16, second_word), -1);
}

}  // namespace
}  // namespace btd::test
