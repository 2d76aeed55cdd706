// A user dies and its number is given anew while another buries it; a user dies while it buries.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "alloc/emulator.h"
#include "tests/alloc/several_users.h"

namespace btd {
namespace {

using test::kSmallLanes;
using test::Registry;
using test::User;

constexpr auto kAWhile = std::chrono::milliseconds(200);

// A place where a thread stops until it is let on.
class Gate {
 public:
  void pass() {
    reached_ = true;
    while (!open_) std::this_thread::yield();
  }
  // False: nobody came.
  [[nodiscard]] bool reached() const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!reached_ && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    return reached_;
  }
  void open() { open_ = true; }

 private:
  std::atomic<bool> reached_{false};
  std::atomic<bool> open_{false};
};

class HeapBurial : public test::SeveralUsers<EmulatedNvram> {
 protected:
  HeapBurial() : SeveralUsers(8) {}
  HeapShared& shared() { return reinterpret_cast<ArenaHeader*>(source_->base())->heap; }
  // Does what a user does, and leaves memory as it was at that fence of it, from 1: there the user
  // died. False: it came to its end first.
  bool dies(std::unique_ptr<User>& user, int fence, const std::function<void(Heap&)>& what) {
    std::vector<std::byte> then;
    int passed = 0;
    source_->on_fence([&] {
      if (++passed == fence)
        then.assign(source_->base(), source_->base() + source_->count() * source_->arena_bytes());
    });
    what(*user->heap);
    source_->on_fence({});
    if (!then.empty()) std::memcpy(source_->base(), then.data(), then.size());
    user.reset();
    return !then.empty();
  }
};

// Number 1 died with the lock of the names. Number 0 buries it and stands still in that; so whoever
// comes as number 1 has to wait, for what it locked would be freed with what the dead had locked.
TEST_F(HeapBurial, WhoGetsTheNumberOfTheDeadWaitsForTheirBurial) {
  auto first = user(0);
  auto dead = user(1);
  ASSERT_TRUE(SharedLock::try_lock(shared().names, 1));
  Gate in_burial;
  registry_.on_question = [&](unsigned asker, unsigned asked) {
    if (asker == 0 && asked == 1 && SharedLock::holder(shared().burial) == 0) in_burial.pass();
  };
  dead.reset();
  std::thread waits([&] { EXPECT_TRUE(first->heap->lock_names()); });
  EXPECT_TRUE(in_burial.reached());
  std::unique_ptr<User> second;
  std::atomic<bool> joined = false;
  std::thread comes([&] {
    second = user(1);
    EXPECT_TRUE(SharedLock::try_lock(shared().copy, 1));
    joined = true;
  });
  std::this_thread::sleep_for(kAWhile);
  EXPECT_FALSE(joined);
  in_burial.open();
  waits.join();
  comes.join();
  EXPECT_EQ(SharedLock::holder(shared().copy), 1U) << "taken from who lives";
}

// Number 0 saw number 1 dead, and stands still before it buries; meanwhile another came as
// number 1.
TEST_F(HeapBurial, WhoGotTheNumberOfTheDeadIsNotBuried) {
  auto first = user(0);
  auto dead = user(1);
  ASSERT_TRUE(SharedLock::try_lock(shared().names, 1));
  Gate before_burial;
  std::atomic<bool> once = false;
  registry_.on_question = [&](unsigned asker, unsigned asked) {
    if (asker == 0 && asked == 1 && !once.exchange(true)) before_burial.pass();
  };
  dead.reset();
  std::thread waits([&] { EXPECT_TRUE(first->heap->lock_names()); });
  EXPECT_TRUE(before_burial.reached());
  auto second = user(1);
  // It buried who had its number.
  EXPECT_NE(SharedLock::holder(shared().names), 1U);
  ASSERT_TRUE(SharedLock::try_lock(shared().copy, 1));
  before_burial.open();
  waits.join();
  EXPECT_EQ(SharedLock::holder(shared().copy), 1U) << "taken from who lives";
}

// The number of who died in a burial: its next bearer finds the lock in its own name.
TEST_F(HeapBurial, WhoGetsTheNumberOfOneThatDiedInABurialCanJoin) {
  auto first = user(0);
  auto dead = user(1);
  ASSERT_TRUE(SharedLock::try_lock(shared().burial, 1));
  dead.reset();
  auto second = user(1);
  ASSERT_NE(second->heap, nullptr);
  EXPECT_EQ(SharedLock::holder(shared().burial), Users::kMax);
  EXPECT_TRUE(second->heap->lock_names());
}

// Number 2 dies in a commit that frees a block of number 0, number 1 at each fence of the
// checkpoint in which it buries number 2. Number 0 finishes what both had begun.
class HeapBurialOfTwo : public HeapBurial {
 protected:
  enum class Died { kBeforeTheClaim, kAfterIt };  // number 2
  // Both die; false: number 1 came to the end of its checkpoint before that fence.
  bool die(std::size_t bytes, int fence, Died died, Journal::Fault fault = Journal::Fault::kNone) {
    SetUp();
    owner_ = user(0);
    auto undertaker = user(1);
    auto victim = user(2);
    for (User* each : {owner_.get(), undertaker.get()}) each->heap->inject(fault);
    block_ = *owner_->heap->allocate_to(Heap::root_word(1), bytes);
    EXPECT_TRUE(
        dies(victim, 1, [](Heap& heap) { EXPECT_TRUE(heap.free_from(Heap::root_word(1))); }));
    EXPECT_EQ(owner_->heap->root(1), block_) << "the record is in the lane, and not applied";
    if (died == Died::kBeforeTheClaim) {
      const Slot slot = owner_->heap->slot_of(block_);
      slot.segment->unclaim(slot.index);
    }
    return dies(undertaker, fence, [](Heap& heap) { EXPECT_TRUE(heap.checkpoint()); });
  }
  // Whether the block can be had again.
  bool comes_back(std::size_t bytes) {
    for (int i = 0; i < 2000; ++i) {
      const auto made = owner_->heap->reserve(bytes);
      if (!made) return false;
      if (*made == block_) return true;
    }
    return false;
  }
  void TearDown() override { owner_.reset(); }

  std::unique_ptr<User> owner_;
  Offset block_ = 0;
};

TEST_F(HeapBurialOfTwo, WhatTheyHadBegunIsFinished) {
  for (const std::size_t bytes : {100UL, 3000UL}) {  // bitmaps at the segment's head, in its header
    for (const Died died : {Died::kBeforeTheClaim, Died::kAfterIt}) {
      int in_burial = 0;
      bool more = true;
      for (int fence = 1; more; ++fence, owner_.reset()) {
        more = die(bytes, fence, died);
        if (SharedLock::holder(shared().burial) == 1) ++in_burial;
        ASSERT_TRUE(owner_->heap->checkpoint());
        EXPECT_EQ(SharedLock::holder(shared().burial), Users::kMax);
        EXPECT_EQ(owner_->heap->root(1), 0U);
        EXPECT_FALSE(owner_->heap->block_bytes(block_));
        EXPECT_TRUE(comes_back(bytes)) << bytes << " bytes, fence " << fence;
      }
      EXPECT_GT(in_burial, 0);
    }
  }
}

// The test itself: where the burial is not done, that is seen.
TEST_F(HeapBurialOfTwo, ForgettingTheDeadIsSeen) {
  ASSERT_TRUE(die(100, 1, Died::kAfterIt, Journal::Fault::kForgetDead));
  ASSERT_TRUE(owner_->heap->checkpoint());
  EXPECT_EQ(owner_->heap->root(1), block_);
}

}  // namespace
}  // namespace btd
