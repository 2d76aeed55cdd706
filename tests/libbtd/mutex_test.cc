// btd_mutex between threads and processes of one machine, some of which die; readers of a heap.
#include <atomic>
#include <thread>
#include <vector>

#include "tests/libbtd/neighbour.h"

namespace btd::test {
namespace {

class MutexTest : public HeapTest {
 protected:
  // A mutex and a word that it guards, under the root "m".
  struct Guarded {
    btd_mutex mutex;
    std::uint64_t word;
  };
  Guarded* make() {
    auto* const made = static_cast<Guarded*>(btd_calloc(heap_, 1, sizeof(Guarded)));
    EXPECT_NE(made, nullptr) << why();
    EXPECT_EQ(btd_persist(made, sizeof *made), 0) << why();
    EXPECT_EQ(btd_set_root(heap_, "m", made), 0) << why();
    return made;
  }
  Guarded* find() { return static_cast<Guarded*>(btd_root(heap_, "m")); }
  static void increment(Guarded* guarded, int times) {
    for (int i = 0; i < times; ++i) {
      ASSERT_EQ(btd_mutex_lock(&guarded->mutex), 0) << why();
      *static_cast<volatile std::uint64_t*>(&guarded->word) = guarded->word + 1;
      ASSERT_EQ(btd_mutex_unlock(&guarded->mutex), 0) << why();
    }
  }
  template <class Call>
  static int error_of(Call&& call) {
    errno = 0;
    return call() < 0 ? errno : 0;
  }
};

TEST_F(MutexTest, ThreadsCountOneAtATime) {
  open();
  Guarded* const guarded = make();
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([=] { increment(guarded, 20'000); });
  threads.clear();
  EXPECT_EQ(guarded->word, 80'000U);
}

TEST_F(MutexTest, ProcessesCountOneAtATime) {
  const auto count = [&](Neighbour& self) {
    open();
    Guarded* const guarded = find();
    self.pause();
    increment(guarded, 20'000);
    close();
  };
  Neighbour one(count);
  Neighbour two(count);
  open();
  Guarded* const guarded = make();
  ASSERT_TRUE(one.turn());
  ASSERT_TRUE(two.turn());
  one.go();
  two.go();
  increment(guarded, 20'000);
  EXPECT_EQ(one.ended(), 0);
  EXPECT_EQ(two.ended(), 0);
  EXPECT_EQ(guarded->word, 60'000U);
}

TEST_F(MutexTest, WhatIsWrongIsRefused) {
  open();
  Guarded* const guarded = make();
  btd_mutex* const mutex = &guarded->mutex;
  EXPECT_EQ(error_of([&] { return btd_mutex_unlock(mutex); }), EPERM);
  EXPECT_EQ(btd_mutex_lock(mutex), 0);
  EXPECT_EQ(error_of([&] { return btd_mutex_lock(mutex); }), EDEADLK);
  EXPECT_EQ(error_of([&] { return btd_mutex_trylock(mutex); }), EDEADLK);
  EXPECT_EQ(error_of([&] { return btd_mutex_timedlock(mutex, 10); }), EDEADLK);
  std::jthread([&] {
    EXPECT_EQ(error_of([&] { return btd_mutex_trylock(mutex); }), EBUSY);
    EXPECT_EQ(error_of([&] { return btd_mutex_timedlock(mutex, 50); }), ETIMEDOUT);
    EXPECT_EQ(error_of([&] { return btd_mutex_unlock(mutex); }), EPERM);
  }).join();
  EXPECT_EQ(btd_mutex_unlock(mutex), 0);
  btd_mutex elsewhere{};
  EXPECT_EQ(error_of([&] { return btd_mutex_lock(&elsewhere); }), EINVAL);
  auto* const crooked = reinterpret_cast<btd_mutex*>(reinterpret_cast<char*>(mutex) + 4);
  EXPECT_EQ(error_of([&] { return btd_mutex_lock(crooked); }), EINVAL);
  EXPECT_EQ(in_child([&] { return error_of([&] { return btd_mutex_lock(mutex); }); }), EOWNERDEAD);
}

TEST_F(MutexTest, AWaiterIsWokenAndTakesItFromTheDead) {
  Neighbour holder([&](Neighbour& self) {
    open();
    EXPECT_EQ(btd_mutex_lock(&find()->mutex), 0) << why();
    self.pause();
    EXPECT_EQ(btd_mutex_unlock(&find()->mutex), 0) << why();
  });
  open();
  btd_mutex* const mutex = &make()->mutex;
  ASSERT_TRUE(holder.turn());
  std::atomic<int> got{-1};
  std::jthread waiter([&] { got = btd_mutex_lock(mutex); });
  usleep(100'000);
  EXPECT_EQ(got, -1);
  EXPECT_EQ(holder.end(), 0);
  waiter.join();
  EXPECT_EQ(got, 0);
  // The thread ended without unlocking, but its process lives: so it stays locked.
  EXPECT_EQ(error_of([&] { return btd_mutex_timedlock(mutex, 50); }), ETIMEDOUT);
}

TEST_F(MutexTest, ADeadHoldersIsTakenByTheNextAlsoUnderItsNumber) {
  const auto lock_and_die = [&](Neighbour& self) {
    open();
    EXPECT_EQ(btd_mutex_lock(&find()->mutex), 0) << why();
    self.pause();
  };
  Neighbour dies(lock_and_die);
  // Comes when the first is dead, and so has its number.
  Neighbour heir([&](Neighbour& self) {
    open();
    self.pause();
    EXPECT_EQ(btd_mutex_trylock(&find()->mutex), BTD_MUTEX_OWNER_DIED) << why();
    EXPECT_EQ(btd_mutex_unlock(&find()->mutex), 0) << why();
    EXPECT_EQ(btd_mutex_lock(&find()->mutex), 0) << why();
    self.pause();
  });
  open();
  btd_mutex* const mutex = &make()->mutex;
  ASSERT_TRUE(dies.turn());
  dies.kill();
  ASSERT_TRUE(heir.turn());
  ASSERT_TRUE(heir.turn());
  EXPECT_EQ(error_of([&] { return btd_mutex_trylock(mutex); }), EBUSY);
  heir.kill();
  EXPECT_EQ(btd_mutex_timedlock(mutex, 5000), BTD_MUTEX_OWNER_DIED) << why();
  EXPECT_EQ(btd_mutex_unlock(mutex), 0);
}

TEST_F(MutexTest, OneOfAnEarlierRunIsTaken) {
  EXPECT_EQ(in_child([&] {
              open();
              EXPECT_EQ(btd_mutex_lock(&make()->mutex), 0);
              _exit(testing::Test::HasFailure() ? 1 : 0);  // a crash
              return 0;
            }),
            0);
  open();
  EXPECT_EQ(btd_mutex_lock(&find()->mutex), BTD_MUTEX_OWNER_DIED) << why();
  EXPECT_EQ(btd_mutex_unlock(&find()->mutex), 0);
}

TEST_F(MutexTest, AReaderLoadsAndDoesNothingElse) {
  struct Where {
    char* block;
    btd_cluster* heap;
  };
  const Shared<Where> where;
  Neighbour reader([&](Neighbour& self) {
    btd_config with = config();
    with.reader = 1;
    btd_cluster* const heap = btd_cluster_create(&with);
    ASSERT_NE(heap, nullptr) << why();
    EXPECT_EQ(btd_cluster_create(&with), heap);
    EXPECT_EQ(btd_cluster_base(heap), reinterpret_cast<void*>(where->heap));
    const char* const block = where->block;
    EXPECT_EQ(btd_acquire(block, 6), 0) << why();
    EXPECT_STREQ(block, "first");
    self.pause();
    EXPECT_EQ(btd_acquire(block, 7), 0) << why();
    EXPECT_STREQ(block, "second");
    setenv("BTD_QUIET", "1", 1);
    errno = 0;
    btd_free(where->block);
    EXPECT_EQ(errno, EROFS) << why();
    EXPECT_EQ(error_of([&] { return btd_malloc(heap, 1) == nullptr ? -1 : 0; }), EROFS);
    EXPECT_EQ(error_of([&] { return btd_root(heap, "x") == nullptr ? -1 : 0; }), EROFS);
    EXPECT_EQ(error_of([&] { return btd_persist(block, 1); }), EROFS);
    btd_cluster* const user = [&] {
      btd_config plain = config();
      return btd_cluster_create(&plain);
    }();
    EXPECT_EQ(user, nullptr);
    EXPECT_EQ(errno, EADDRINUSE);
    EXPECT_EQ(btd_cluster_destroy(heap), 0);
    EXPECT_EQ(btd_cluster_destroy(heap), 0);
    EXPECT_EQ(error_of([&] { return btd_acquire(block, 1); }), EINVAL);
  });
  open();
  auto* const block = static_cast<char*>(btd_malloc(heap_, 100));
  *where = {.block = block, .heap = static_cast<btd_cluster*>(btd_cluster_base(heap_))};
  std::strcpy(block, "first");
  EXPECT_EQ(btd_release(block, 6), 0) << why();
  ASSERT_TRUE(reader.turn());
  std::strcpy(block, "second");
  EXPECT_EQ(btd_release(block, 7), 0) << why();
  EXPECT_EQ(reader.end(), 0);
}

}  // namespace
}  // namespace btd::test
