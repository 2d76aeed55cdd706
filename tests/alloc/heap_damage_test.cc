// A heap with flipped bits opens with an error or as a heap; it never crashes and never hangs.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "alloc/crc.h"
#include "alloc/heap.h"
#include "alloc/memory_arenas.h"
#include "tests/alloc/heap_model.h"

namespace btd {
namespace {

constexpr Heap::Options kSmallLanes{.lanes = 2, .lane_bytes = 16 * 1024};
constexpr std::uint64_t kArena = 1 << 20;

class HeapDamage : public testing::Test {
 protected:
  // Two arenas, committed records in the lanes, blocks of all kinds, not closed.
  void SetUp() override {
    source_ = std::move(*MemoryArenas::create(kArena, 2));
    auto heap = std::move(*Heap::format(*source_, kSmallLanes));
    test::HeapModel model(3, 20'000, 5);
    ASSERT_TRUE(model.begin(*heap));
    for (int i = 0; i < 60; ++i) ASSERT_TRUE(model.step(*heap));
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(heap->allocate(2'000));
    heap.reset();
    good_.assign(source_->base(), source_->base() + source_->count() * kArena);
  }
  void restore() { std::memcpy(source_->base(), good_.data(), good_.size()); }
  // The metadata: arena 0's header and journal and table.
  static constexpr std::uint64_t kMetadata = 2 * kPageBytes + 2 * 16 * 1024 + 1024;

  std::unique_ptr<MemoryArenas> source_;
  std::vector<std::byte> good_;
};

TEST_F(HeapDamage, EveryFlippedBitOfAHeaderIsSeen) {
  ASSERT_TRUE(Heap::open(*source_));
  for (std::size_t bit = 0; bit < sizeof(ArenaIdentity) * 8; ++bit) {
    restore();
    source_->base()[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    const auto heap = Heap::open(*source_);
    ASSERT_FALSE(heap) << "bit " << bit;
    EXPECT_FALSE(heap.error().message.empty());
  }
  for (const std::size_t word : {offsetof(ArenaHeader, state), offsetof(ArenaHeader, arena_count),
                                 kPageBytes, kPageBytes + offsetof(JournalHeader, watermark)}) {
    for (std::size_t bit = 0; bit < 64; ++bit) {
      restore();
      source_->base()[word + bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      ASSERT_EQ(Heap::open(*source_).error().code, EUCLEAN) << "word " << word << " bit " << bit;
    }
  }
}

TEST_F(HeapDamage, EveryFlippedBitOfASegmentWordIsSeen) {
  const auto* identity = reinterpret_cast<const ArenaIdentity*>(source_->base());
  const std::uint64_t table = identity->table_offset;
  unsigned tried = 0;
  for (std::uint32_t i = 0; i < identity->segment_count; ++i) {
    restore();
    // Of segments in use only: the word of a free one, or inside an extent, is not read.
    const std::uint64_t at = table + i * sizeof(SegmentHeader);
    std::uint64_t word = 0;
    std::memcpy(&word, source_->base() + at, 8);
    if (word == 0 || SegmentWord::unpack(word >> 8).kind != SegmentKind::kSmall) continue;
    for (std::size_t bit = 0; bit < 64; ++bit, ++tried) {
      restore();
      source_->base()[at + bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
      ASSERT_EQ(Heap::open(*source_).error().code, EUCLEAN) << "segment " << i << " bit " << bit;
    }
  }
  EXPECT_GT(tried, 64U);
}

TEST_F(HeapDamage, RandomDamageNeverCrashes) {
  std::mt19937_64 random(1);
  unsigned refused = 0;
  for (int round = 0; round < 1500; ++round) {
    restore();
    for (std::uint64_t flips = random() % 8 + 1; flips > 0; --flips) {
      const std::uint64_t arena = random() % 4 == 0 ? kArena : 0;
      source_->base()[arena + random() % kMetadata] ^= static_cast<std::byte>(1U << (random() % 8));
    }
    auto heap = Heap::open(*source_);
    if (!heap) {
      ++refused;
      EXPECT_FALSE(heap.error().message.empty());
      continue;
    }
    for (std::size_t bytes = 16; bytes < 100'000; bytes *= 3) {
      Tx tx = (*heap)->begin();
      static_cast<void>(tx.alloc(bytes));
      static_cast<void>(tx.commit());
    }
    ASSERT_TRUE((*heap)->recover(Marking::Options{}));
  }
  EXPECT_GT(refused, 300U);
}

TEST_F(HeapDamage, SaysWhatIsMissing) {
  source_->base()[kArena] ^= std::byte{1};
  EXPECT_EQ(Heap::open(*source_).error().code, EUCLEAN);
  restore();
  auto small = MemoryArenas::create(kArena, 1);
  std::memcpy((*small)->base(), good_.data(), kArena);
  const auto heap = Heap::open(**small);
  EXPECT_EQ(heap.error().code, EUCLEAN);
  EXPECT_NE(heap.error().message.find("missing"), std::string::npos);
  auto empty = MemoryArenas::create(kArena, 1);
  EXPECT_EQ(Heap::open(**empty).error().code, EINVAL);
  EXPECT_EQ(Heap::format(**empty, {.lanes = 16, .lane_bytes = 256 * 1024}).error().code, ENOSPC);
  EXPECT_EQ(Heap::format(**empty, {.lanes = 0}).error().code, EINVAL);
}

}  // namespace
}  // namespace btd
