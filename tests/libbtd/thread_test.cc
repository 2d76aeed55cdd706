// Threads: any call from any thread.
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

using ThreadTest = HeapTest;

// In a child of threads at work: what those had is nobody's there, and no leak.
bool g_in_child = false;

}  // namespace
}  // namespace btd::test

extern "C" int __lsan_is_turned_off() { return btd::test::g_in_child ? 1 : 0; }

namespace btd::test {
namespace {

void run(unsigned threads, const std::function<void(unsigned)>& body) {
  std::vector<std::thread> all;
  for (unsigned i = 0; i < threads; ++i) all.emplace_back(body, i);
  for (std::thread& each : all) each.join();
}

TEST_F(ThreadTest, ThreadsAllocateAndFreeEachOthersBlocks) {
  open();
  constexpr unsigned kThreads = 4;
  constexpr std::size_t kCells = 256;
  std::vector<std::atomic<std::uint64_t*>> cells(kCells);
  run(kThreads, [&](unsigned id) {
    unsigned seed = id;
    for (int i = 0; i < 20'000; ++i) {
      seed = seed * 1664525 + 1013904223;
      const std::size_t bytes = 16 + (seed >> 8) % 400;
      auto* const mine = static_cast<std::uint64_t*>(btd_malloc(heap_, bytes));
      ASSERT_NE(mine, nullptr) << why();
      mine[0] = reinterpret_cast<std::uintptr_t>(mine);
      std::uint64_t* const other = cells[(seed >> 16) % kCells].exchange(mine);
      if (other == nullptr) continue;
      ASSERT_EQ(other[0], reinterpret_cast<std::uintptr_t>(other));
      other[0] = 0;
      btd_free(other);
    }
  });
  for (auto& cell : cells) btd_free(cell.load());
  EXPECT_EQ(statistics().allocated_bytes, 0U);
}

TEST_F(ThreadTest, ThreadsPublishSetRootsAndCommit) {
  open();
  constexpr unsigned kThreads = 4;
  run(kThreads, [&](unsigned id) {
    const std::string name = "root" + std::to_string(id);
    auto** const slot = static_cast<void**>(btd_calloc(heap_, 2, sizeof(void*)));
    for (int i = 0; i < 300; ++i) {
      ASSERT_NE(btd_malloc_to(&slot[0], 30), nullptr) << why();
      ASSERT_EQ(btd_set_root(heap_, name.c_str(), slot), 0) << why();
      ASSERT_EQ(btd_root(heap_, name.c_str()), slot);
      BTD_TX(heap_) {
        void* const block = btd_tx_alloc(50);
        ASSERT_EQ(btd_tx_set(&slot[1], &block, sizeof block), 0);
      }
      ASSERT_EQ(btd_tx_result(), 0);
      ASSERT_EQ(btd_free_from(&slot[0]), 0) << why();
      ASSERT_EQ(btd_free_from(&slot[1]), 0) << why();
      if (i % 10 == 9) {
        ASSERT_EQ(btd_set_root(heap_, name.c_str(), nullptr), 0);
      }
    }
    btd_free(slot);
  });
  EXPECT_EQ(btd_check(heap_, nullptr, nullptr), 0);
}

TEST_F(ThreadTest, ErrorsBelongToTheirThread) {
  open();
  EXPECT_EQ(btd_root(heap_, "mine"), nullptr);
  const std::string before = why();
  run(1, [&](unsigned) {
    EXPECT_EQ(why(), "");
    EXPECT_EQ(btd_root(heap_, "theirs"), nullptr);
    EXPECT_NE(why().find("theirs"), std::string::npos);
  });
  EXPECT_EQ(why(), before);
}

TEST_F(ThreadTest, AThreadThatEndsAbortsItsTransaction) {
  open();
  run(1, [&](unsigned) {
    ASSERT_EQ(btd_tx_begin(heap_), 0);
    ASSERT_NE(btd_tx_alloc(100), nullptr);
  });
  EXPECT_EQ(statistics().allocated_bytes, 0U);
  close();
  open();
}

TEST_F(ThreadTest, ThreadsOpenAndCloseOneHeap) {
  run(4, [&](unsigned id) {
    for (int i = 0; i < 20; ++i) {
      btd_config with = config(id % 2 == 0 ? "even" : "odd");
      btd_cluster* const heap = btd_cluster_create(&with);
      ASSERT_NE(heap, nullptr) << why();
      btd_free(btd_malloc(heap, 100));
      ASSERT_EQ(btd_cluster_destroy(heap), 0) << why();
    }
  });
}

TEST_F(ThreadTest, AForkBesideThreadsAtWorkNeitherHangsNorHarms) {
#ifdef BTD_SANITIZE_thread
  GTEST_SKIP() << "ThreadSanitizer does not support a fork of several threads";
#endif
  open();
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int t = 0; t < 3; ++t) {
    busy.emplace_back([&] {
      auto** const slot = static_cast<void**>(btd_calloc(heap_, 1, sizeof(void*)));
      while (!stop) {
        btd_free(btd_malloc(heap_, 5000));
        if (btd_malloc_to(slot, 64) != nullptr) btd_free_from(slot);
        btd_tx_begin(heap_);
        btd_tx_abort();
        // Caches of ended threads are handed on under a lock.
        std::thread([&] { btd_free(btd_malloc(heap_, 64)); }).join();
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(in_child([&] {
                g_in_child = true;
                alarm(10);
                errno = 0;
                EXPECT_EQ(btd_malloc(heap_, 10), nullptr);
                EXPECT_EQ(errno, EOWNERDEAD);
                if (!HasFailure()) exit(0);  // thread-local destructors run
                return 1;
              }),
              0);
  }
  stop = true;
  for (std::thread& each : busy) each.join();
  EXPECT_EQ(btd_check(heap_, nullptr, nullptr), 0);
}

}  // namespace
}  // namespace btd::test
