// Several users of one heap under the crash harness: they free each other's blocks, join, leave,
// die and adopt; the machine stops at every fence of it, and in the recovery after that.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "alloc/memory_arenas.h"
#include "tests/alloc/model_crash.h"
#include "tests/alloc/pinned.h"

namespace btd {
namespace {

using test::CrashPlan;
using test::HeapModel;

constexpr Heap::Options kSmallLanes{.lanes = 3, .lane_bytes = 16 * 1024};

// What the kernel's locks tell real processes.
struct Registry {
  std::set<unsigned> alive;
  std::map<std::uint32_t, unsigned> owners;

  void die(unsigned user) {
    alive.erase(user);
    std::erase_if(owners, [user](const auto& entry) { return entry.second == user; });
  }
};

class FakeUsers : public Users {
 public:
  FakeUsers(Registry& registry, unsigned self) : registry_(registry), self_(self) {
    registry_.alive.insert(self);
  }
  [[nodiscard]] unsigned self() const override { return self_; }
  bool alive(unsigned user) override { return registry_.alive.contains(user); }
  bool alone() override { return registry_.alive.size() == 1; }
  bool own(std::uint32_t arena) override {
    return registry_.owners.emplace(arena, self_).first->second == self_;
  }
  void disown(std::uint32_t arena) override { registry_.owners.erase(arena); }

 private:
  Registry& registry_;
  const unsigned self_;
};

// The same memory, as one user sees it.
class View : public ArenaSource {
 public:
  View(ArenaSource& all, Registry& registry, unsigned self)
      : all_(all), users_(registry, self), registry_(registry) {}
  ~View() override { registry_.die(users_.self()); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  std::byte* base() override { return all_.base(); }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return all_.arena_bytes(); }
  [[nodiscard]] std::uint32_t count() const override { return all_.count(); }
  Status extend() override { return all_.extend(); }
  Persist& persist() override { return all_.persist(); }
  Users& users() override { return users_; }

 private:
  ArenaSource& all_;
  FakeUsers users_;
  Registry& registry_;
};

struct User {
  std::unique_ptr<View> view;
  std::unique_ptr<Heap> heap;

  User(ArenaSource& source, Registry& registry, unsigned self)
      : view(std::make_unique<View>(source, registry, self)) {}
  Status open() {
    BTD_ASSIGN(heap, Heap::open(*view, Heap::Own::kFew));
    return {};
  }
};

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
    while (registry_.alive.contains(number)) ++number;
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

class HeapSharing : public testing::Test {
 protected:
  void SetUp() override {
    source_ = std::move(*MemoryArenas::create(512 * 1024, 12));
    auto heap = Heap::format(*source_, kSmallLanes);
    ASSERT_TRUE(heap) << heap.error().message;
    ASSERT_TRUE((*heap)->close());
  }
  std::unique_ptr<User> user(unsigned number) {
    auto made = std::make_unique<User>(*source_, registry_, number);
    const Status opened = made->open();
    EXPECT_TRUE(opened) << opened.error().message;
    return made;
  }
  std::unique_ptr<MemoryArenas> source_;
  Registry registry_;
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
