// Contract T of the heap: transactions, their checks, their cost, and what a reopened heap shows.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "alloc/heap.h"
#include "alloc/memory_arenas.h"

namespace btd {
namespace {

class HeapTx : public testing::Test {
 protected:
  void make(std::uint64_t arena_bytes = 16 << 20, std::uint32_t arenas = 1,
            Heap::Options options = {.lanes = 4, .lane_bytes = 64 * 1024}) {
    heap_.reset();
    auto source = MemoryArenas::create(arena_bytes, arenas);
    ASSERT_TRUE(source) << source.error().message;
    source_ = std::move(*source);
    auto heap = Heap::format(*source_, options);
    ASSERT_TRUE(heap) << heap.error().message;
    heap_ = std::move(*heap);
  }
  // As after a process crash: the volatile state is gone, all stores are there.
  void reopen(bool clean = false) {
    if (clean) {
      ASSERT_TRUE(heap_->close());
    }
    heap_.reset();
    auto heap = Heap::open(*source_);
    ASSERT_TRUE(heap) << heap.error().message;
    heap_ = std::move(*heap);
  }
  Offset put(std::size_t bytes, std::uint64_t value) {
    Tx tx = heap_->begin();
    const Result<Offset> block = tx.alloc(bytes);
    EXPECT_TRUE(block);
    std::memcpy(*tx.edit(*block, 8), &value, 8);
    EXPECT_TRUE(tx.commit());
    return *block;
  }
  std::uint64_t get(Offset at) {
    std::uint64_t value = 0;
    std::memcpy(&value, heap_->at(at), 8);
    return value;
  }

  std::unique_ptr<MemoryArenas> source_;
  std::unique_ptr<Heap> heap_;
};

TEST_F(HeapTx, KeepsWhatWasCommitted) {
  make();
  Tx tx = heap_->begin();
  const Offset small = *tx.alloc(100);
  const Offset page = *tx.alloc(4096);
  const Offset large = *tx.alloc(300'000);
  std::memset(*tx.edit(small, 100), 'a', 100);
  std::memset(*tx.edit(page, 4096), 'b', 4096);
  std::memset(*tx.edit(large, 300'000), 'c', 300'000);
  ASSERT_TRUE(tx.set_root(3, page));
  ASSERT_TRUE(tx.commit());
  for (const bool clean : {false, true}) {
    reopen(clean);
    EXPECT_EQ(heap_->root(3), page);
    EXPECT_EQ(heap_->at(small)[99], std::byte{'a'});
    EXPECT_EQ(heap_->at(page)[4095], std::byte{'b'});
    EXPECT_EQ(heap_->at(large)[299'999], std::byte{'c'});
    EXPECT_EQ(*heap_->block_bytes(page), 4096U);
    EXPECT_EQ(heap_->stats().was_clean, clean);
  }
}

TEST_F(HeapTx, AbortLeavesNothing) {
  make();
  const Offset kept = put(64, 7);
  const auto before = heap_->stats();
  {
    Tx tx = heap_->begin();
    const Offset gone = *tx.alloc(4096);
    std::memset(*tx.edit(gone, 4096), 'x', 4096);
    std::memset(*tx.edit(kept, 64), 'x', 64);
    ASSERT_TRUE(tx.free(kept));
  }
  EXPECT_EQ(get(kept), 7U);
  EXPECT_TRUE(heap_->block_bytes(kept));
  EXPECT_EQ(heap_->stats().used_bytes, before.used_bytes);
  EXPECT_EQ(heap_->stats().commits, before.commits);
}

TEST_F(HeapTx, EditIsPrivateUntilCommitAndAskedAgainTheSame) {
  make();
  const Offset block = put(128, 1);
  Tx tx = heap_->begin();
  EXPECT_EQ(tx.view(block), heap_->at(block));
  std::byte* copy = *tx.edit(block, 128);
  EXPECT_EQ(copy, *tx.edit(block, 128));
  EXPECT_EQ(copy, *tx.edit(block, 8));
  EXPECT_EQ(tx.view(block), copy);
  copy[0] = std::byte{9};
  EXPECT_EQ(get(block), 1U);
  ASSERT_TRUE(tx.commit());
  EXPECT_EQ(get(block), 9U);
}

TEST_F(HeapTx, SetAndEditOfOneWordAgree) {
  make();
  const Offset block = put(128, 1);
  Tx tx = heap_->begin();
  ASSERT_TRUE(tx.set(block, 2));
  std::uint64_t seen = 0;
  std::memcpy(&seen, *tx.edit(block, 64), 8);
  EXPECT_EQ(seen, 2U);
  ASSERT_TRUE(tx.set(block + 8, 3));
  ASSERT_TRUE(tx.set(block, 1));  // back to what is home: the earlier set must not win
  ASSERT_TRUE(tx.commit());
  EXPECT_EQ(get(block), 1U);
  EXPECT_EQ(get(block + 8), 3U);
}

TEST_F(HeapTx, RefusesWhatIsNotAnAllocatedBlock) {
  make();
  const Offset block = put(64, 1);
  Tx tx = heap_->begin();
  EXPECT_EQ(tx.free(0).error().code, EINVAL);
  EXPECT_EQ(tx.free(block + 16).error().code, EINVAL);
  EXPECT_EQ(tx.free(block + 64).error().code, EINVAL);
  EXPECT_EQ(tx.free(std::uint64_t{1} << 40).error().code, EINVAL);
  ASSERT_TRUE(tx.free(block));
  const Status twice = tx.free(block);
  EXPECT_EQ(twice.error().code, EINVAL);
  EXPECT_NE(twice.error().message.find("twice"), std::string::npos);
  EXPECT_EQ(tx.edit(block, 8).error().code, EINVAL);
  EXPECT_EQ(tx.set(block, 8).error().code, EINVAL);
  ASSERT_TRUE(tx.commit());
  EXPECT_EQ(tx.commit().error().code, EINVAL);
  Tx other = heap_->begin();
  EXPECT_EQ(other.free(block).error().code, EINVAL);
  EXPECT_EQ(other.set_root(64, 0).error().code, EINVAL);
  EXPECT_EQ(other.alloc(0).error().code, EINVAL);
}

TEST_F(HeapTx, RefusesOverlappingEdits) {
  make();
  const Offset block = put(256, 1);
  Tx tx = heap_->begin();
  ASSERT_TRUE(tx.edit(block, 64));
  (*tx.edit(block + 32, 64))[0] = std::byte{1};
  EXPECT_EQ(tx.commit().error().code, EINVAL);
  EXPECT_EQ(get(block), 1U);
}

TEST_F(HeapTx, TooLargeATransactionChangesNothing) {
  make();
  const Offset block = put(200'000, 5);
  const auto before = heap_->stats();
  Tx tx = heap_->begin();
  std::memset(*tx.edit(block, 200'000), 'z', 200'000);
  const Offset other = *tx.alloc(64);
  EXPECT_GT(tx.log_bytes(), 64U * 1024);
  EXPECT_EQ(tx.commit().error().code, E2BIG);
  EXPECT_EQ(get(block), 5U);
  EXPECT_FALSE(heap_->block_bytes(other));
  EXPECT_EQ(heap_->stats().used_bytes, before.used_bytes);
  EXPECT_EQ(put(64, 1), other);
}

TEST_F(HeapTx, CommitIsOneFence) {
  make();
  const Offset a = put(4096, 1);
  const Offset b = put(4096, 2);
  put(64, 3);
  const auto before = heap_->persist().counters();
  Tx tx = heap_->begin();
  (*tx.edit(a, 4096))[100] = std::byte{1};
  (*tx.edit(b, 4096))[200] = std::byte{1};
  const Offset fresh = *tx.alloc(64);
  (*tx.edit(fresh, 64))[0] = std::byte{1};
  ASSERT_TRUE(tx.set_root(0, fresh));
  const std::size_t expected = tx.log_bytes();
  ASSERT_TRUE(tx.commit());
  const auto after = heap_->persist().counters();
  EXPECT_EQ(after.fences - before.fences, 1U);
  EXPECT_EQ((after.lines - before.lines) * kLineBytes, expected);
  EXPECT_LE(after.lines - before.lines, 4U);
}

TEST_F(HeapTx, LargeFreshContentCostsASecondFenceButNoLog) {
  make();
  put(4096, 1);
  const auto before = heap_->persist().counters();
  Tx tx = heap_->begin();
  const Offset fresh = *tx.alloc(4096);
  std::memset(*tx.edit(fresh, 4096), 1, 4096);
  EXPECT_LE(tx.log_bytes(), 64U);
  ASSERT_TRUE(tx.commit());
  const auto after = heap_->persist().counters();
  EXPECT_EQ(after.fences - before.fences, 2U);
  EXPECT_EQ(after.lines - before.lines, 65U);
}

TEST_F(HeapTx, FreedMemoryIsReusedOnlyAfterACheckpoint) {
  make();
  const Offset a = put(4096, 1);
  Tx tx = heap_->begin();
  ASSERT_TRUE(tx.free(a));
  ASSERT_TRUE(tx.commit());
  EXPECT_NE(put(4096, 2), a);
  ASSERT_TRUE(heap_->checkpoint());
  std::vector<Offset> next;
  for (int i = 0; i < 40; ++i) next.push_back(put(4096, 3));
  EXPECT_NE(std::find(next.begin(), next.end(), a), next.end());
}

TEST_F(HeapTx, FullHeapTakesBackWhatWaits) {
  make(2 << 20, 1, {.lanes = 2, .lane_bytes = 16 * 1024});
  std::vector<Offset> all;
  for (;;) {
    Tx tx = heap_->begin();
    const Result<Offset> block = tx.alloc(4096);
    if (!block) {
      EXPECT_EQ(block.error().code, ENOSPC);
      break;
    }
    ASSERT_TRUE(tx.commit());
    all.push_back(*block);
  }
  EXPECT_GT(all.size(), 400U);
  for (int round = 0; round < 3; ++round) {
    for (const Offset block : all) {
      Tx tx = heap_->begin();
      ASSERT_TRUE(tx.free(block));
      ASSERT_TRUE(tx.commit());
    }
    for (Offset& block : all) block = put(4096, 1);
  }
  Tx tx = heap_->begin();
  for (const Offset block : all) ASSERT_TRUE(tx.free(block));
  ASSERT_TRUE(tx.commit());
  // Everything coalesces: one block of nearly the whole heap fits.
  Tx last = heap_->begin();
  EXPECT_TRUE(last.alloc(heap_->stats().total_bytes - kSegmentBytes));
}

TEST_F(HeapTx, GrowsByArenas) {
  make(1 << 20, 4, {.lanes = 2, .lane_bytes = 16 * 1024});
  std::vector<Offset> all;
  for (int i = 0; i < 600; ++i) all.push_back(put(4096, static_cast<std::uint64_t>(i)));
  EXPECT_GT(heap_->stats().arenas, 2U);
  reopen();
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(get(all[i]), i);
  EXPECT_GT(heap_->stats().arenas, 2U);
}

TEST_F(HeapTx, ThreadsCommitAtOnce) {
  make(32 << 20);
  constexpr int kThreads = 4;
  constexpr int kRounds = 3000;
  std::vector<std::vector<std::pair<Offset, std::uint64_t>>> mine(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<unsigned>(t));
      auto& own = mine[static_cast<std::size_t>(t)];
      for (int i = 0; i < kRounds; ++i) {
        Tx tx = heap_->begin();
        if (own.size() > 50) {
          std::swap(own[random() % own.size()], own.back());
          ASSERT_TRUE(tx.free(own.back().first));
          own.pop_back();
        }
        const std::uint64_t value = random();
        const Offset block = *tx.alloc(16 + random() % 3000);
        std::memcpy(*tx.edit(block, 8), &value, 8);
        if (!own.empty()) {
          auto& old = own[random() % own.size()];
          old.second = random();
          std::memcpy(*tx.edit(old.first, 16), &old.second, 8);
        }
        ASSERT_TRUE(tx.commit());
        own.emplace_back(block, value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  reopen();
  std::uint64_t used = 0;
  for (const auto& own : mine) {
    for (const auto& [block, value] : own) {
      EXPECT_EQ(get(block), value);
      used += *heap_->block_bytes(block);
    }
  }
  EXPECT_EQ(heap_->stats().used_bytes, used);
}

TEST_F(HeapTx, CommitOfThreePagesIsFast) {
  make(16 << 20, 1, {.lanes = 4, .lane_bytes = 256 * 1024});
  Offset pages[3];
  for (Offset& page : pages) page = put(4096, 1);
  constexpr int kRounds = 20000;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kRounds; ++i) {
    Tx tx = heap_->begin();
    for (const Offset page : pages) {
      std::memcpy(*tx.edit(page, 4096) + 512, &i, sizeof(i));
    }
    ASSERT_TRUE(tx.commit());
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  RecordProperty("us_per_commit", std::to_string(took.count() / kRounds));
  std::printf("3-page commit: %.2f us\n", took.count() / kRounds);
}

}  // namespace
}  // namespace btd
