// Several users of one heap under the crash harness: they free each other's blocks, join, leave,
// die and adopt; the machine stops at every fence of it, and in the recovery after that.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "alloc/emulator.h"
#include "alloc/memory_arenas.h"
#include "tests/alloc/model_crash.h"
#include "tests/alloc/pinned.h"
#include "tests/alloc/several_users.h"

namespace btd {
namespace {

using test::CrashPlan;
using test::HeapModel;
using test::kSmallLanes;
using test::Registry;
using test::User;

class Crowd {
 public:
  Crowd(ArenaSource& source, const CrashPlan& plan)
      : source_(source), plan_(plan), random_(plan.seed) {}

  Status run(HeapModel& model) {
    BTD_TRY(join());
    for (int i = 0; i < plan_.steps; ++i) {
      if (users_.size() < 3 && random_() % 8 == 0) BTD_TRY(join());
      if (users_.size() > 1 && random_() % 10 == 0) users_.erase(users_.begin() + any());  // dies
      if (users_.size() > 1 && random_() % 14 == 0) BTD_TRY(leave(any()));
      Heap& heap = *users_[static_cast<std::size_t>(any())]->heap;
      BTD_TRY(model.step(heap));
      if (random_() % 4 == 0) BTD_TRY(recoverable(heap));
    }
    while (!users_.empty()) BTD_TRY(leave(0));
    return {};
  }

 private:
  std::ptrdiff_t any() { return static_cast<std::ptrdiff_t>(random_() % users_.size()); }
  Status join() {
    unsigned number = 0;  // the lowest that nobody has, as with locks on bytes
    while (registry_.lives(number)) ++number;
    auto user = std::make_unique<User>(source_, registry_, number);
    BTD_TRY(user->open());
    user->heap->inject(plan_.fault);
    users_.push_back(std::move(user));
    return {};
  }
  Status leave(std::ptrdiff_t which) {
    BTD_TRY(users_[static_cast<std::size_t>(which)]->heap->close());
    users_.erase(users_.begin() + which);
    return {};
  }
  // Blocks of contract R that one allocates and any may free.
  Status recoverable(Heap& heap) {
    BTD_ASSIGN(const Offset block, heap.allocate(16 + random_() % 500));
    held_.push_back(block);
    if (held_.size() < 8) return {};
    std::swap(held_[random_() % held_.size()], held_.back());
    const Offset freed = held_.back();
    held_.pop_back();
    return users_[static_cast<std::size_t>(any())]->heap->release(freed);
  }

  ArenaSource& source_;
  const CrashPlan& plan_;
  std::mt19937_64 random_;
  Registry registry_;
  std::vector<std::unique_ptr<User>> users_;
  std::vector<Offset> held_;
};

CrashHarness::Report run(const CrashPlan& plan) {
  return test::crash_model(plan, kSmallLanes, [&](ArenaSource& source, HeapModel& model) {
    return Crowd(source, plan).run(model);
  });
}

constexpr CrashHarness::Options kArenas{.arena_bytes = 512 * 1024, .max_arenas = 12};

TEST(HeapSharingCrash, UsersComeGoAndDieAtEveryFence) {
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    const auto report = run({.crash = kArenas, .steps = 100, .seed = seed, .max_bytes = 3000});
    EXPECT_TRUE(report.ok()) << "seed " << seed << ": " << report.summary();
    EXPECT_GT(report.crashes, 400U) << report.summary();
  }
}

TEST(HeapSharingCrash, LargeBlocksOfOthers) {
  const auto report = run({.crash = {.arena_bytes = 2 << 20, .max_arenas = 12},
                           .steps = 40,
                           .seed = 9,
                           .max_bytes = 40000,
                           .large_every = 2});
  EXPECT_TRUE(report.ok()) << report.summary();
}

class HeapSharing : public test::SeveralUsers<MemoryArenas> {
 protected:
  HeapSharing() : SeveralUsers(12) {}
};

// What others marked on an extent of an arena that nobody had says nothing of who has it next.
TEST_F(HeapSharing, AnExtentFreedWhileNobodyHadItIsHandedOutOnce) {
  constexpr std::size_t kLarge = 70'000;
  auto first = user(0);
  auto second = user(1);
  for (unsigned i = 1; i <= 3; ++i)
    ASSERT_TRUE(second->heap->allocate_to(Heap::root_word(i), kLarge));
  ASSERT_TRUE(second->heap->close());
  second.reset();
  for (unsigned i = 1; i <= 3; ++i) ASSERT_TRUE(first->heap->free_from(Heap::root_word(i)));
  std::set<Offset> reserved;
  for (int i = 0; i < 12; ++i) {
    const auto block = first->heap->reserve(kLarge);
    ASSERT_TRUE(block) << block.error().message;
    EXPECT_TRUE(reserved.insert(*block).second) << "handed out twice";
  }
}

// Blocks of contract R, large ones too, come back though they were freed while nobody had them.
TEST_F(HeapSharing, WhatIsFreedWhileNobodyHasItComesBackWithItsArena) {
  auto first = user(0);
  auto second = user(1);
  std::vector<Offset> blocks;
  for (const std::size_t bytes : {100UL, 3000UL, 70'000UL, 70'000UL})
    blocks.push_back(*second->heap->allocate(bytes));
  ASSERT_TRUE(second->heap->close());
  second.reset();
  for (const Offset block : blocks) EXPECT_TRUE(first->heap->release(block));
  for (const Offset block : blocks) EXPECT_EQ(first->heap->release(block).error().code, EINVAL);
  ASSERT_TRUE(first->heap->close());
  first.reset();
  const auto again = Heap::open(*source_);
  ASSERT_TRUE(again);
  EXPECT_FALSE((*again)->needs_recovery());
  const Heap::Stats stats = (*again)->stats();
  EXPECT_EQ(stats.used_bytes, 0U);
  // The extents are free again; what the small blocks lay in may stay theirs.
  EXPECT_LE(stats.total_bytes - stats.free_segment_bytes, 3 * kSegmentBytes);
}

// The state on the medium says "clean" from then on: nobody may join who would not change that.
TEST_F(HeapSharing, NobodyJoinsAUserWhoHasClosedTheHeap) {
  auto first = user(0);
  ASSERT_TRUE(first->heap->close());
  User second(*source_, registry_, 1);
  const Status joined = second.open();
  ASSERT_FALSE(joined);
  EXPECT_EQ(joined.error().code, EAGAIN);
  first.reset();
  EXPECT_TRUE(second.open());
}

// Freed bits on the medium that mean nothing any more: a clean stop makes them durably so, for the
// next user of the heap believes those of arenas that it does not own.
class HeapSharingStop : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 64;  // its bitmaps lie at the segment's head
  void SetUp() override {
    source_ = std::move(*EmulatedNvram::create(512 * 1024, 4));
    after_ = std::move(*EmulatedNvram::create(512 * 1024, 4));
    auto heap = Heap::format(*source_, kSmallLanes);
    ASSERT_TRUE(heap) << heap.error().message;
    ASSERT_TRUE((*heap)->close());
    for (unsigned i = 0; i < 2; ++i) {
      users_.push_back(std::make_unique<User>(*source_, registry_, i));
      ASSERT_TRUE(users_.back()->open());
    }
  }
  Heap& other() { return *users_.back()->heap; }
  // As caches may do at any time.
  void write_back(Offset from, std::size_t len) {
    ASSERT_TRUE(source_->persist().persist(source_->base() + from, len));
  }
  // All leave, the machine stops, and somebody opens the heap who owns the first arena alone.
  void expect_it_can_be_freed() {
    while (!users_.empty()) {
      ASSERT_TRUE(users_.back()->heap->close());
      users_.pop_back();
    }
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      source_->crash_into(*after_, seed);
      User next(*after_, registry_, 0);
      ASSERT_TRUE(next.open());
      EXPECT_TRUE(next.heap->stats().was_clean);
      const Status freed = next.heap->free_from(Heap::root_word(1));
      EXPECT_TRUE(freed) << "seed " << seed << ": " << freed.error().message;
    }
  }

  std::unique_ptr<EmulatedNvram> source_;
  std::unique_ptr<EmulatedNvram> after_;
  Registry registry_;
  std::vector<std::unique_ptr<User>> users_;
};

TEST_F(HeapSharingStop, AClaimThatReachedTheMediumIsForgotten) {
  const Offset block = *other().allocate_to(Heap::root_word(1), kBytes);
  ASSERT_TRUE(other().free_from(Heap::root_word(1)));
  write_back(block / kSegmentBytes * kSegmentBytes, kPageBytes);
  ASSERT_TRUE(other().checkpoint());
  ASSERT_EQ(*other().allocate_to(Heap::root_word(1), kBytes), block);
  expect_it_can_be_freed();
}

TEST_F(HeapSharingStop, WhatLayInANewSegmentIsNoClaim) {
  constexpr std::size_t kLarge = 2 * kSegmentBytes;
  const Offset large = *other().allocate_to(Heap::root_word(2), kLarge);
  std::memset(other().data(large), 0xFF, kLarge);
  write_back(large, kLarge);
  ASSERT_TRUE(other().free_from(Heap::root_word(2)));
  ASSERT_TRUE(other().checkpoint());
  const Offset block = *other().allocate_to(Heap::root_word(1), kBytes);
  ASSERT_EQ(block / kSegmentBytes, large / kSegmentBytes);
  expect_it_can_be_freed();
}

// Memory that another freed is reused too early: the harness sees it among several as with one.
TEST(HeapSharingCrash, HarnessSeesAFaultyProtocol) {
  const test::PinnedThread pinned;
  bool seen = false;
  for (std::uint64_t seed = 1; seed <= 6 && !seen; ++seed) {
    auto crash = kArenas;
    crash.seeds = 6;
    seen = !run({.crash = crash,
                 .steps = 100,
                 .seed = seed,
                 .max_bytes = 3000,
                 .fault = Journal::Fault::kWatermarkBeforeFlush})
                .ok();
  }
  EXPECT_TRUE(seen);
}

}  // namespace
}  // namespace btd
