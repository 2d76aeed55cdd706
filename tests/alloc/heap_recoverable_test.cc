// Contract R: cost, threads, misuse, recovery by marking and by scanning; then crashed at every
// fence.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "alloc/crash_harness.h"
#include "alloc/heap.h"
#include "alloc/memory_arenas.h"

namespace btd {
namespace {

constexpr Heap::Options kSmallLanes{.lanes = 2, .lane_bytes = 16 * 1024};

class HeapRecoverable : public testing::Test {
 protected:
  void SetUp() override {
    source_ = std::move(*MemoryArenas::create(32 << 20, 2));
    heap_ = std::move(*Heap::format(*source_, kSmallLanes));
  }
  void reopen(bool clean) {
    if (clean) {
      ASSERT_TRUE(heap_->close());
    }
    heap_.reset();
    auto heap = Heap::open(*source_);
    ASSERT_TRUE(heap) << heap.error().message;
    heap_ = std::move(*heap);
  }
  // A list of `count` objects from root 0, linked by offsets in their first words.
  std::vector<Offset> make_list(int count, std::size_t bytes) {
    std::vector<Offset> nodes;
    Offset next = 0;
    for (int i = 0; i < count; ++i) {
      const Offset node = *heap_->allocate(bytes);
      std::memset(heap_->data(node), 0x5A, bytes);
      std::memcpy(heap_->data(node), &next, 8);
      next = node;
      nodes.push_back(node);
    }
    Tx tx = heap_->begin();
    EXPECT_TRUE(tx.set_root(0, next));
    EXPECT_TRUE(tx.commit());
    return nodes;
  }
  void mark_list(Heap::Marker& marker) {
    for (Offset node = heap_->root(0); node != 0;) {
      EXPECT_TRUE(marker.mark(node));
      std::memcpy(&node, heap_->at(node), 8);
    }
  }

  std::unique_ptr<MemoryArenas> source_;
  std::unique_ptr<Heap> heap_;
};

TEST_F(HeapRecoverable, AllocationCostsAThousandthOfALine) {
  // Enough that the first growths, which are small, do not count.
  const auto source = std::move(*MemoryArenas::create(256 << 20, 1));
  const auto heap = std::move(*Heap::format(*source, {}));
  const auto before = heap->persist().counters();
  constexpr std::uint64_t kCount = 3'000'000;
  for (std::uint64_t i = 0; i < kCount; ++i) ASSERT_TRUE(heap->allocate(64));
  const auto after = heap->persist().counters();
  EXPECT_LE(static_cast<double>(after.lines - before.lines) / kCount, 0.001);
  EXPECT_LE(static_cast<double>(after.fences - before.fences) / kCount, 0.001 / 6);
}

TEST_F(HeapRecoverable, RefusesWhatIsNotItsOwn) {
  const Offset block = *heap_->allocate(64);
  const Offset published = *heap_->allocate_to(Heap::root_word(0), 64);
  EXPECT_EQ(heap_->release(block + 16).error().code, EINVAL);
  EXPECT_EQ(heap_->release(0).error().code, EINVAL);
  EXPECT_EQ(heap_->release(published).error().code, EINVAL);
  Tx tx = heap_->begin();
  EXPECT_EQ(tx.free(block).error().code, EINVAL);
  ASSERT_TRUE(heap_->release(block));
  EXPECT_EQ(heap_->release(block).error().code, EINVAL);
  const Offset large = *heap_->allocate(200'000);
  ASSERT_TRUE(heap_->release(large));
  EXPECT_EQ(heap_->release(large).error().code, EINVAL);
}

TEST_F(HeapRecoverable, CleanCloseKeepsEverythingWithoutRecovery) {
  const auto nodes = make_list(5000, 80);
  const Offset large = *heap_->allocate(100'000);
  const auto used = heap_->stats().used_bytes;
  reopen(true);
  EXPECT_FALSE(heap_->needs_recovery());
  EXPECT_EQ(heap_->stats().used_bytes, used);
  for (const Offset node : nodes) ASSERT_TRUE(heap_->release(node));
  ASSERT_TRUE(heap_->release(large));
  EXPECT_EQ(heap_->stats().used_bytes, 0U);
}

TEST_F(HeapRecoverable, RecoveryKeepsTheReachableAndReclaimsTheRest) {
  for (const bool conservative : {false, true}) {
    SetUp();
    const auto nodes = make_list(3000, 100);
    const Offset published = *heap_->allocate_to(Heap::root_word(5), 64);
    const Offset large = *heap_->allocate(150'000);
    std::memcpy(heap_->data(published), &large, 8);
    for (int i = 0; i < 7000; ++i) ASSERT_TRUE(heap_->allocate(16 + static_cast<std::size_t>(i)));
    const std::uint64_t kept = 3000 * 112 + 3 * kSegmentBytes + 64;
    reopen(false);
    EXPECT_TRUE(heap_->needs_recovery());
    EXPECT_NE(heap_->stats().used_bytes, kept);
    if (conservative) {
      ASSERT_TRUE(heap_->recover(Marking::Options{}));
    } else {
      ASSERT_TRUE(heap_->recover([&](Heap::Marker& marker) {
        mark_list(marker);
        EXPECT_TRUE(marker.mark(large));
      }));
    }
    EXPECT_FALSE(heap_->needs_recovery());
    EXPECT_EQ(heap_->stats().used_bytes, kept);
    std::set<Offset> all(nodes.begin(), nodes.end());
    for (int i = 0; i < 20000; ++i) EXPECT_TRUE(all.insert(*heap_->allocate(100)).second);
  }
}

TEST_F(HeapRecoverable, MemoryOfEndedThreadsIsUsedAgain) {
  for (int round = 0; round < 200; ++round) {
    std::thread([&] {
      std::vector<Offset> mine;
      for (int i = 0; i < 2000; ++i) mine.push_back(*heap_->allocate(64));
      for (const Offset block : mine) ASSERT_TRUE(heap_->release(block));
    }).join();
  }
  EXPECT_EQ(heap_->stats().used_bytes, 0U);
  EXPECT_LE(heap_->stats().total_bytes, 4U << 20);  // it did not grow
}

TEST_F(HeapRecoverable, ALargeBlockThatWaitsForTheWatermarkIsCollectedOnce) {
  const Offset block = *heap_->allocate(100'000);
  Tx tx = heap_->begin();
  ASSERT_TRUE(tx.set(block, 1));
  ASSERT_TRUE(tx.commit());
  ASSERT_TRUE(heap_->release(block));
  ASSERT_TRUE(heap_->collect());
  ASSERT_TRUE(heap_->recover(Marking::Options{}));
  const Offset other = *heap_->allocate(100'000);
  ASSERT_TRUE(heap_->checkpoint());
  EXPECT_TRUE(heap_->block_bytes(other));
  EXPECT_NE(*heap_->allocate(100'000), other);
}

TEST_F(HeapRecoverable, ReleasesOfOtherThreadsComeBack) {
  // A producer whose every object is released by another thread, far beyond the heap's size.
  std::vector<std::atomic<Offset>> ring(256);
  std::atomic<bool> stop{false};
  std::thread consumer([&] {
    for (std::size_t i = 0; !stop; i = (i + 1) % ring.size()) {
      const Offset block = ring[i].exchange(0);
      if (block != 0) {
        EXPECT_TRUE(heap_->release(block));
      }
    }
  });
  for (std::size_t i = 0; i < 300'000; ++i) {
    const Result<Offset> block = heap_->allocate(1000);
    ASSERT_TRUE(block) << block.error().message;
    const Offset old = ring[i % ring.size()].exchange(*block);
    if (old != 0) {
      ASSERT_TRUE(heap_->release(old));
    }
  }
  stop = true;
  consumer.join();
}

TEST_F(HeapRecoverable, ThreadsNeverShareABlock) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<unsigned>(t));
      std::vector<std::pair<Offset, std::size_t>> mine;
      const auto tag = static_cast<unsigned char>(t + 1);
      for (int i = 0; i < 30'000; ++i) {
        if (mine.size() > 100 || (!mine.empty() && random() % 3 == 0)) {
          std::swap(mine[random() % mine.size()], mine.back());
          const auto [block, bytes] = mine.back();
          mine.pop_back();
          for (std::size_t at = 0; at < bytes; at += 8) {
            ASSERT_EQ(heap_->at(block)[at], std::byte{tag});
          }
          ASSERT_TRUE(heap_->release(block));
          continue;
        }
        const std::size_t bytes = 16 + random() % (i % 50 == 0 ? 100'000 : 500);
        const Result<Offset> block = heap_->allocate(bytes);
        ASSERT_TRUE(block) << block.error().message;
        std::memset(heap_->data(*block), tag, bytes);
        mine.emplace_back(*block, bytes);
      }
      for (const auto& [block, bytes] : mine) ASSERT_TRUE(heap_->release(block));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(heap_->stats().used_bytes, 0U);
}

TEST_F(HeapRecoverable, ABlockWrittenByATransactionWaitsForTheWatermark) {
  const Offset block = *heap_->allocate(64);
  Tx tx = heap_->begin();
  ASSERT_TRUE(tx.set(block, 1));
  ASSERT_TRUE(tx.commit());
  ASSERT_TRUE(heap_->release(block));
  EXPECT_EQ(heap_->stats().limbo_bytes, 64U);
  ASSERT_TRUE(heap_->checkpoint());
  EXPECT_EQ(heap_->stats().limbo_bytes, 0U);
}

// A list of recoverable objects, pushed and popped at its head; contents persisted by their owner.
TEST(HeapRecoverableCrash, ListAtEveryFence) {
  std::vector<Offset> nodes;  // acknowledged, head last
  Offset pushing = 0;
  bool popping = false;
  const auto size_of = [](std::size_t depth) {
    return depth % 11 == 3 ? 70'000U : 40U + depth * 24;
  };
  CrashHarness harness({.arena_bytes = 2 << 20, .seeds = 3});
  const auto report = harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        for (int i = 0; i < 60; ++i) {
          for (std::size_t k = 0; k < 30; ++k) BTD_TRY(heap->allocate(32));  // garbage
          const bool push = nodes.size() < 3 || i % 5 < 3;
          Tx tx = heap->begin();
          if (push) {
            BTD_ASSIGN(const Offset node, heap->allocate(size_of(nodes.size())));
            const Offset next = nodes.empty() ? 0 : nodes.back();
            std::memcpy(heap->data(node), &next, 8);
            if (!heap->persist().persist(heap->data(node), 8)) return fail(EIO);
            BTD_TRY(tx.set_root(0, node));
            pushing = node;
            BTD_TRY(tx.commit());
            nodes.push_back(node);
            pushing = 0;
          } else {
            const Offset node = nodes.back();
            BTD_TRY(tx.set_root(0, nodes[nodes.size() - 2]));
            popping = true;
            BTD_TRY(tx.commit());
            nodes.pop_back();
            popping = false;
            BTD_TRY(heap->release(node));
          }
        }
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        std::vector<Offset> found;
        if (!heap->needs_recovery())
          BTD_TRY(heap->collect());  // what an earlier check left is garbage
        BTD_TRY(heap->recover([&](Heap::Marker& marker) {
          for (Offset node = heap->root(0); node != 0;) {
            marker.mark(node);
            found.insert(found.begin(), node);
            std::memcpy(&node, heap->at(node), 8);
          }
        }));
        std::vector<Offset> other = nodes;
        if (pushing != 0) other.push_back(pushing);
        if (popping) other.pop_back();
        if (found != nodes && found != other) return fail(EIO, "the list is none acknowledged");
        std::uint64_t used = 0;
        for (const Offset node : found) {
          BTD_ASSIGN(const std::uint64_t bytes, heap->block_bytes(node));
          used += bytes;
        }
        if (used != heap->stats().used_bytes) return fail(EIO, "leak");
        for (int i = 0; i < 50; ++i) {
          BTD_ASSIGN(const Offset fresh, heap->allocate(40 + static_cast<unsigned>(i) * 24));
          if (std::find(found.begin(), found.end(), fresh) != found.end()) {
            return fail(EIO, "a reachable object is handed out again");
          }
        }
        return heap->close();
      });
  EXPECT_TRUE(report.ok()) << report.summary();
}

}  // namespace
}  // namespace btd
