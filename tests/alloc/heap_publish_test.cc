// Contract P: published operations and copies of any length; then each of them crashed at every
// fence.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "alloc/crash_harness.h"
#include "alloc/emulator.h"
#include "alloc/heap.h"
#include "alloc/memory_arenas.h"

namespace btd {
namespace {

constexpr Heap::Options kSmallLanes{.lanes = 2, .lane_bytes = 16 * 1024};
using Kind = Heap::Action::Kind;

class HeapPublish : public testing::Test {
 protected:
  void SetUp() override {
    source_ = std::move(*MemoryArenas::create(8 << 20, 1));
    heap_ = std::move(*Heap::format(*source_, kSmallLanes));
  }
  std::unique_ptr<MemoryArenas> source_;
  std::unique_ptr<Heap> heap_;
};

TEST_F(HeapPublish, AllocatesAndFreesThroughAWordWithOneFenceEach) {
  ASSERT_TRUE(heap_->allocate_to(Heap::root_word(1), 64));
  const Offset node = heap_->root(1);
  const auto before = heap_->persist().counters();
  ASSERT_TRUE(heap_->allocate_to(node + 8, 64));
  EXPECT_EQ(heap_->persist().counters().fences - before.fences, 1U);
  EXPECT_LE(heap_->persist().counters().lines - before.lines, 2U);
  Offset child = 0;
  std::memcpy(&child, heap_->at(node + 8), 8);
  EXPECT_TRUE(heap_->block_bytes(child));
  ASSERT_TRUE(heap_->free_from(node + 8));
  EXPECT_EQ(heap_->persist().counters().fences - before.fences, 2U);
  EXPECT_FALSE(heap_->block_bytes(child));
  EXPECT_EQ(heap_->free_from(node + 8).error().code, EINVAL);
  EXPECT_EQ(heap_->free_from(child).error().code, EINVAL);
  EXPECT_EQ(heap_->allocate_to(child, 64).error().code, EINVAL);
}

// A list of nodes, link by link: a line for each record, one for each word that it sets, and what
// is left for the bitmaps, the headers and the watermark.
TEST(HeapPublishCost, ALinkAndAnUnlinkCostTwoLinesEach) {
  constexpr std::size_t kNodes = 4 * 4096;  // whole lanes of records
  auto source = std::move(*EmulatedNvram::create(128 << 20, 1));
  auto heap = std::move(*Heap::format(*source, {}));
  std::vector<Offset> words(kNodes + 1, Heap::root_word(1));  // where each node is linked
  const auto lines_of = [&](auto&& each) {
    const std::uint64_t before = heap->persist().counters().lines;
    each();
    return static_cast<double>(heap->persist().counters().lines - before) / kNodes;
  };
  const auto link = [&] {
    for (std::size_t i = 0; i < kNodes; ++i) words[i + 1] = *heap->allocate_to(words[i], 64);
  };
  const auto unlink = [&] {
    for (std::size_t i = kNodes; i-- > 0;) ASSERT_TRUE(heap->free_from(words[i]));
  };
  link();
  unlink();
  for (int round = 0; round < 2; ++round) {
    EXPECT_LE(lines_of(link), 2.0035);
    EXPECT_LE(lines_of(unlink), 2.0035);
  }
}

TEST_F(HeapPublish, PublishesManyActionsWithOneFence) {
  std::vector<Heap::Action> actions;
  const Offset list = *heap_->allocate_to(Heap::root_word(0), 512);
  for (std::uint64_t i = 0; i < 32; ++i) {
    const Offset block = *heap_->reserve(64);
    std::memset(heap_->data(block), 'p', 64);
    heap_->persist().flush(heap_->data(block), 64);
    actions.push_back({.kind = Kind::kAllocate, .at = block});
    actions.push_back({.kind = Kind::kSet, .at = list + i * 8, .value = block});
  }
  ASSERT_TRUE(heap_->persist().drain());
  const auto before = heap_->persist().counters();
  ASSERT_TRUE(heap_->publish(actions));
  EXPECT_EQ(heap_->persist().counters().fences - before.fences, 1U);
  EXPECT_EQ(heap_->publish(actions).error().code, EINVAL);  // nothing is reserved any more
  EXPECT_TRUE(heap_->block_bytes(actions[0].at));
}

TEST_F(HeapPublish, RefusedActionsLeaveTheReservation) {
  const Offset block = *heap_->reserve(64);
  const Heap::Action bad[] = {{.kind = Kind::kAllocate, .at = block},
                              {.kind = Kind::kFree, .at = 12345}};
  EXPECT_EQ(heap_->publish(bad).error().code, EINVAL);
  EXPECT_FALSE(heap_->block_bytes(block));
  ASSERT_TRUE(heap_->publish({bad, 1}));
  EXPECT_TRUE(heap_->block_bytes(block));
  const Offset other = *heap_->reserve(64);
  ASSERT_TRUE(heap_->cancel(other));
  EXPECT_EQ(heap_->cancel(other).error().code, EINVAL);
}

TEST_F(HeapPublish, CopiesShortAndLong) {
  const Offset block = *heap_->allocate_to(Heap::root_word(0), 1 << 20);
  std::vector<std::byte> data(1 << 20, std::byte{'c'});
  ASSERT_TRUE(heap_->copy(block + 3, data.data(), 5));
  EXPECT_EQ(heap_->at(block)[7], std::byte{'c'});
  EXPECT_EQ(heap_->at(block)[8], std::byte{0});
  const auto used = heap_->stats().used_bytes;
  ASSERT_TRUE(heap_->copy(block, data.data(), data.size()));
  EXPECT_EQ(std::memcmp(heap_->at(block), data.data(), data.size()), 0);
  EXPECT_EQ(heap_->stats().used_bytes, used);
  EXPECT_EQ(heap_->copy(block + 8, data.data(), data.size()).error().code, EINVAL);
}

// A linked list by allocate_to/free_from at its head, and a pair of equal buffers written by
// copy().
struct ListModel {
  std::vector<Offset> nodes;  // acknowledged, head first
  bool pushing = false;
  bool popping = false;
};

Status judge_list(Heap& heap, const ListModel& model) {
  std::uint64_t used = 0;
  std::vector<Offset> found;
  for (Offset node = heap.root(0); node != 0;) {
    BTD_ASSIGN(const std::uint64_t bytes, heap.block_bytes(node));
    used += bytes;
    found.push_back(node);
    std::memcpy(&node, heap.at(node), 8);
  }
  if (heap.stats().used_bytes != used) return fail(EIO, "leak or loss");
  if (found == model.nodes) return {};
  std::vector<Offset> other = model.nodes;
  if (model.popping && !other.empty()) other.erase(other.begin());
  if (model.popping && found == other) return {};
  if (model.pushing && found.size() == other.size() + 1 &&
      std::equal(other.begin(), other.end(), found.begin() + 1)) {
    return {};
  }
  return fail(EIO, "the list is none that was acknowledged");
}

// push: reserve, fill, publish {allocate, root := node}. pop: publish {root := next, free node}.
Status push_or_pop(Heap& heap, ListModel& model, bool push) {
  const Offset head = heap.root(0);
  if (push) {
    BTD_ASSIGN(const Offset node, heap.reserve(48));
    std::memcpy(heap.data(node), &head, 8);
    if (!heap.persist().persist(heap.data(node), 8)) return heap.persist().health();
    const Heap::Action actions[] = {{.kind = Kind::kAllocate, .at = node},
                                    {.kind = Kind::kSet, .at = Heap::root_word(0), .value = node}};
    model.pushing = true;
    BTD_TRY(heap.publish(actions));
    model.pushing = false;
    model.nodes.insert(model.nodes.begin(), node);
    return {};
  }
  Offset next = 0;
  std::memcpy(&next, heap.at(head), 8);
  const Heap::Action actions[] = {{.kind = Kind::kSet, .at = Heap::root_word(0), .value = next},
                                  {.kind = Kind::kFree, .at = head}};
  model.popping = true;
  BTD_TRY(heap.publish(actions));
  model.popping = false;
  model.nodes.erase(model.nodes.begin());
  return {};
}

TEST(HeapPublishCrash, ListAtEveryFence) {
  ListModel model;
  CrashHarness harness({.seeds = 4});
  const auto report = harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        for (int i = 0; i < 120; ++i) {
          BTD_TRY(push_or_pop(*heap, model, model.nodes.size() < 3 || i % 5 < 3));
        }
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        return judge_list(*heap, model);
      });
  EXPECT_TRUE(report.ok()) << report.summary();
}

TEST(HeapPublishCrash, AllocateToAndFreeFromAtEveryFence) {
  std::uint64_t held = 0;  // bits of root slots that hold a block
  unsigned changing = kRootSlots;
  CrashHarness harness({.seeds = 4});
  const auto report = harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        for (unsigned i = 0; i < 90; ++i) {
          const unsigned slot = i * 7 % 16;
          const std::uint64_t bit = std::uint64_t{1} << slot;
          changing = slot;
          if ((held & bit) != 0) {
            BTD_TRY(heap->free_from(Heap::root_word(slot)));
          } else {
            BTD_TRY(heap->allocate_to(Heap::root_word(slot), i % 9 == 0 ? 70'000 : i * 40 + 1));
          }
          held ^= bit;
          changing = kRootSlots;
        }
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        std::uint64_t used = 0;
        for (unsigned slot = 0; slot < 16; ++slot) {
          const bool expected = (held >> slot & 1U) != 0;
          const bool found = heap->root(slot) != 0;
          if (found != expected && slot != changing) return fail(EIO, "a slot is wrong");
          if (found) {
            BTD_ASSIGN(const std::uint64_t bytes, heap->block_bytes(heap->root(slot)));
            used += bytes;
          }
        }
        return used == heap->stats().used_bytes ? Status{} : fail(EIO, "leak or loss");
      });
  EXPECT_TRUE(report.ok()) << report.summary();
}

TEST(HeapPublishCrash, CopiesOfAnyLengthAtEveryFence) {
  constexpr std::size_t kBytes = 60'000;  // several lanes long
  unsigned acked = 0;
  unsigned started = 0;
  CrashHarness harness({.seeds = 6});
  const auto report = harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        BTD_ASSIGN(const Offset block, heap->allocate_to(Heap::root_word(0), kBytes));
        std::memset(heap->data(block), 0, kBytes);
        if (!heap->persist().persist(heap->data(block), kBytes)) return fail(EIO);
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        for (unsigned i = 1; i <= 12; ++i) {
          const std::vector<std::byte> data(kBytes, static_cast<std::byte>(i));
          started = i;
          // Short copies between long ones: their records must not undo a long one when replayed.
          if (i % 2 == 0) {
            BTD_TRY(heap->copy(heap->root(0), data.data(), 4001));
            BTD_TRY(heap->copy(heap->root(0), std::vector<std::byte>(4001, std::byte(i - 1)).data(),
                               4001));
          }
          BTD_TRY(heap->copy(heap->root(0), data.data(), kBytes));
          acked = i;
        }
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        const std::byte* at = heap->at(heap->root(0));
        const auto last = static_cast<unsigned>(at[kBytes - 1]);
        if (last != acked && last != started) return fail(EIO, "an old or unknown copy");
        const bool whole = std::memcmp(at + 4001, at + 4002, kBytes - 4002) == 0;
        const bool head = std::memcmp(at, at + 1, 4000) == 0;
        const auto first = static_cast<unsigned>(at[0]);
        if (!whole || !head || (first != last && first != started)) return fail(EIO, "half a copy");
        if (heap->stats().used_bytes != kSegmentBytes) return fail(EIO, "the shadow leaked");
        return {};
      });
  EXPECT_TRUE(report.ok()) << report.summary();
}

}  // namespace
}  // namespace btd
