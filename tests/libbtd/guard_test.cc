// The guard (BTD_GUARD): what it finds, what it says, and what it leaves as it is.
#include <algorithm>
#include <atomic>
#include <random>
#include <regex>
#include <set>
#include <thread>
#include <vector>

#include "alloc/crc.h"
#include "alloc/layout.h"
#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

class GuardTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    setenv("BTD_QUIET", "1", 1);
    setenv("BTD_GUARD", "1", 1);
    open();
  }
  void TearDown() override {
    HeapTest::TearDown();
    unsetenv("BTD_GUARD");
  }
  unsigned char* block(std::size_t bytes) {
    auto* const got = static_cast<unsigned char*>(btd_malloc(heap_, bytes));
    EXPECT_NE(got, nullptr) << why();
    return got;
  }
  static int free_error(void* at) {
    errno = 0;
    btd_free(at);
    return errno;
  }
  // What standard error is told meanwhile.
  static std::string told(const std::function<void()>& what) {
    testing::internal::CaptureStderr();
    what();
    return testing::internal::GetCapturedStderr();
  }
  static std::string text(const void* at) {
    char text[24];
    std::snprintf(text, sizeof text, "%p", at);
    return text;
  }
  static bool has(const std::string& where, const std::string& what) {
    return where.find(what) != std::string::npos;
  }
};

TEST_F(GuardTest, CleanUseIsNotReported) {
  const std::string said = told([&] {
    std::mt19937 random(3);
    std::vector<std::pair<unsigned char*, std::size_t>> blocks;
    for (int i = 0; i < 3000; ++i) {
      const std::size_t bytes = i % 50 == 0 ? random() % 300'000 : random() % 700;
      unsigned char* const at = block(bytes);
      EXPECT_EQ(btd_usable_size(at), std::max<std::size_t>(bytes, 1));
      std::memset(at, 0xAA, bytes);
      blocks.emplace_back(at, bytes);
      if (i % 3 != 0) continue;
      std::swap(blocks[random() % blocks.size()], blocks.back());
      auto& [old, old_bytes] = blocks.back();
      const std::size_t now = 1 + random() % 900;
      old = static_cast<unsigned char*>(btd_realloc(heap_, old, now));
      ASSERT_NE(old, nullptr) << why();
      EXPECT_TRUE(
          std::all_of(old, old + std::min(now, old_bytes), [](auto c) { return c == 0xAA; }));
      std::memset(old, 0xAA, now);
      old_bytes = now;
      if (i % 2 == 0) continue;
      EXPECT_EQ(free_error(old), 0) << why();
      blocks.pop_back();
    }
    for (const auto& each : blocks) EXPECT_EQ(free_error(each.first), 0) << why();
    EXPECT_EQ(statistics().allocated_bytes, 0U);
    close();
  });
  EXPECT_EQ(said, "");
}

TEST_F(GuardTest, AnOverrunOfOneByteIsToldOnceAndTheBlockIsNotFreed) {
  for (const std::size_t bytes : {1UL, 16UL, 100UL, 4096UL, 32'768UL, 65'536UL, 200'001UL}) {
    unsigned char* const at = block(bytes);
    std::memset(at, 1, bytes);
    at[bytes] = 0;
    const std::string said = told([&] { EXPECT_EQ(free_error(at), EUCLEAN) << bytes; });
    EXPECT_TRUE(has(said, "libbtd: guard: heap " + directory_ + "/h: the block at " + text(at) +
                              " of " + std::to_string(bytes) + " bytes was overrun: 1 bytes"))
        << said;
    // This very program is where it was allocated.
    EXPECT_TRUE(has(said, "libbtd_guard_test+0x")) << said;
    EXPECT_TRUE(has(why(), "behind its end")) << why();
    EXPECT_EQ(told([&] { EXPECT_EQ(free_error(at), EUCLEAN); }), "");
    errno = 0;
    EXPECT_EQ(told([&] { EXPECT_EQ(btd_realloc(heap_, at, bytes + 8), nullptr); }), "");
    EXPECT_EQ(errno, EUCLEAN);
    EXPECT_EQ(btd_usable_size(at), bytes);
    EXPECT_TRUE(std::all_of(at, at + bytes, [](auto c) { return c == 1; }));
  }
  EXPECT_EQ(told([&] { close(); }), "");  // all were told
}

TEST_F(GuardTest, AnUnderrunMeetsTheCanaryOfTheNeighbour) {
  std::set<unsigned char*> blocks;
  for (int i = 0; i < 20; ++i) blocks.insert(block(40));
  unsigned char* const first = *blocks.begin();
  unsigned char* const second = *std::next(blocks.begin());
  ASSERT_EQ(second - first, 64);
  second[-1] = 0;
  const std::string said = told([&] {
    for (unsigned char* each : blocks) EXPECT_EQ(free_error(each), each == first ? EUCLEAN : 0);
  });
  EXPECT_TRUE(has(said, text(first))) << said;
}

TEST_F(GuardTest, ReallocLooksAtTheCanaryAndSetsItAnew) {
  unsigned char* at = block(100);
  EXPECT_EQ(btd_realloc(heap_, at, 90), at);
  EXPECT_EQ(btd_usable_size(at), 90U);
  at[90] = 7;  // would have been right before
  const std::string said = told([&] {
    errno = 0;
    EXPECT_EQ(btd_realloc(heap_, at, 50), nullptr);
    EXPECT_EQ(errno, EUCLEAN);
  });
  EXPECT_TRUE(has(said, "of 90 bytes was overrun")) << said;
}

TEST_F(GuardTest, WhatIsStillAllocatedIsLookedAtWhenTheHeapIsClosed) {
  unsigned char* const bad = block(33);
  block(33);
  bad[33 + 9] = 0;
  const std::string said = told([&] { close(); });
  EXPECT_TRUE(has(said, text(bad) + " of 33 bytes was overrun: 1 bytes behind it were written, "
                                    "the first 9 after its end"))
      << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(GuardTest, AtExitHeapsAreLookedAtToo) {
#ifdef BTD_SANITIZE_thread
  GTEST_SKIP() << "ThreadSanitizer has a thread of its own: heaps stay open at exit";
#endif
  close();
  const std::string said = told([&] {
    EXPECT_EQ(in_child([&] {
                btd_config with = config("other");
                btd_cluster* const heap = btd_cluster_create(&with);
                static_cast<volatile char*>(btd_malloc(heap, 10))[10] = 0;
                std::exit(0);
                return 1;
              }),
              0);
  });
  EXPECT_TRUE(has(said, "of 10 bytes was overrun")) << said;
}

TEST_F(GuardTest, AWriteAfterFreeIsToldWhenTheBlockLeaves) {
  unsigned char* const at = block(100);
  EXPECT_EQ(free_error(at), 0);
  EXPECT_EQ(at[0], 0xDF);
  at[5] = 1;
  at[7] = 1;
  const std::string said = told([&] {
    for (int i = 0; i < 4095; ++i) EXPECT_EQ(free_error(block(100)), 0);
  });
  EXPECT_EQ(said, "");
  const std::string later = told([&] { EXPECT_EQ(free_error(block(100)), 0); });
  EXPECT_TRUE(has(later, text(at) + " of 100 bytes was written to after it was freed: 2 bytes, "
                                    "the first at +5"))
      << later;
  EXPECT_TRUE(std::regex_search(later, std::regex("allocated by .*\\+0x.* freed by .*\\+0x")))
      << later;
}

TEST_F(GuardTest, AFreedBlockComesBackOnlyWhenItLeft) {
  unsigned char* const at = block(1 << 20);
  EXPECT_EQ(free_error(at), 0);
  const btd_statistics kept = statistics();
  EXPECT_EQ(kept.allocated_bytes, 0U);
  EXPECT_GE(kept.waiting_bytes, 1U << 20);
  for (int i = 0; i < 14; ++i) {
    unsigned char* const other = block(1 << 20);
    EXPECT_NE(other, at);
    EXPECT_EQ(free_error(other), 0);
  }
  EXPECT_LE(statistics().waiting_bytes, 16 * kMiB);
  std::set<unsigned char*> blocks;
  for (int i = 0; i < 28; ++i) {
    unsigned char* const other = block(1 << 20);
    blocks.insert(other);
    EXPECT_EQ(free_error(other), 0);
  }
  EXPECT_LE(statistics().waiting_bytes, 16 * kMiB);
  EXPECT_TRUE(blocks.contains(at));
}

TEST_F(GuardTest, ABlockLargerThanAllThatMayWaitLeavesAtOnce) {
  unsigned char* const at = block(20 * kMiB);
  EXPECT_EQ(free_error(at), 0);
  EXPECT_EQ(statistics().waiting_bytes, 0U);
  EXPECT_EQ(block(20 * kMiB), at);
}

TEST_F(GuardTest, AFullHeapServesFromWhatWaits) {
  close();
  btd_config limited = config("small");
  limited.max_bytes = 32 * kMiB;
  open(limited);
  std::vector<void*> blocks;
  while (void* const at = btd_malloc(heap_, 1 << 20)) blocks.push_back(at);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(free_error(blocks.back()), 0);
  EXPECT_NE(btd_malloc(heap_, 1 << 20), nullptr) << why();
}

TEST_F(GuardTest, FreeingTwiceIsStillNamed) {
  unsigned char* const at = block(100);
  EXPECT_EQ(free_error(at), 0);
  EXPECT_EQ(free_error(at), EINVAL);
  EXPECT_TRUE(has(why(), "not allocated")) << why();
  EXPECT_EQ(btd_usable_size(at), 0U);
  errno = 0;
  EXPECT_EQ(btd_realloc(heap_, at, 10), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(free_error(block(300) + 16), EINVAL);
  EXPECT_TRUE(has(why(), "points inside")) << why();
}

TEST_F(GuardTest, ADurableStoreBeyondWhatWasAskedForIsRefused) {
  unsigned char* const at = block(100);  // in a slot of 128
  unsigned char* const freed = block(100);
  EXPECT_EQ(free_error(freed), 0);
  const std::string bytes(128, 'x');
  EXPECT_EQ(btd_memcpy(at, bytes.data(), 100), at) << why();
  for (void* const wrong : {btd_memcpy(at, bytes.data(), 101), btd_memcpy(freed, bytes.data(), 8),
                            btd_memset(at + 100, 1, 1)}) {
    EXPECT_EQ(wrong, nullptr);
    EXPECT_TRUE(has(why(), "not inside the bytes that were asked for")) << why();
  }
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(btd_tx_add(at + 96, 8), nullptr);
  EXPECT_EQ(btd_tx_set(at + 100, bytes.data(), 4), -1);
  EXPECT_NE(btd_tx_add(at + 96, 4), nullptr) << why();
  EXPECT_EQ(btd_tx_commit(), 0) << why();
  EXPECT_EQ(told([&] { close(); }), "");
}

TEST_F(GuardTest, FreedBlocksAreNotVisited) {
  unsigned char* const kept = block(100);
  EXPECT_EQ(free_error(block(100)), 0);
  std::vector<btd_object> found;
  const auto note = [](const btd_object* object, void* to) {
    static_cast<std::vector<btd_object>*>(to)->push_back(*object);
    return 0;
  };
  ASSERT_EQ(btd_foreach(heap_, note, &found), 0) << why();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].at, kept);
  EXPECT_EQ(found[0].bytes, 100U);
}

TEST_F(GuardTest, AlignmentsAreKept) {
  for (std::size_t alignment = 1; alignment <= 65'536; alignment *= 2) {
    for (const std::size_t bytes : {0UL, 1UL, 64UL, 100UL, 3008UL, 32'768UL, 100'000UL}) {
      void* const at = btd_aligned_alloc(heap_, alignment, bytes);
      ASSERT_NE(at, nullptr) << why();
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % alignment, 0U) << alignment << " " << bytes;
      EXPECT_EQ(btd_usable_size(at), std::max<std::size_t>(bytes, 1));
    }
  }
  for (std::size_t bytes = 64; bytes < 40'000; bytes += 64) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block(bytes)) % 64, 0U) << bytes;
  }
}

TEST_F(GuardTest, BlocksOfOtherRunsAreFreedAsEver) {
  unsigned char* const guarded = block(100);
  ASSERT_EQ(btd_set_root(heap_, "r", guarded), 0) << why();
  close();
  unsetenv("BTD_GUARD");
  open();
  EXPECT_EQ(btd_root(heap_, "r"), guarded);
  const std::uint64_t roots = statistics().allocated_bytes - btd_usable_size(guarded);
  EXPECT_GE(btd_usable_size(guarded), 100U);
  unsigned char* const plain = block(100);
  close();
  setenv("BTD_GUARD", "1", 1);
  open();
  plain[101] = 0;  // its slot's slack, which no canary stands in
  EXPECT_EQ(told([&] {
              EXPECT_EQ(free_error(plain), 0) << why();
              EXPECT_EQ(free_error(guarded), 0) << why();
            }),
            "");
  EXPECT_EQ(statistics().waiting_bytes, 0U);
  EXPECT_EQ(statistics().allocated_bytes, roots);
}

TEST_F(GuardTest, AnotherProcessMayFreeAGuardedBlock) {
  unsigned char* const small = block(100);
  unsigned char* const large = block(1 << 20);
  unsigned char* const waits = block(100);
  std::memset(large, 1, 1 << 20);
  EXPECT_EQ(free_error(waits), 0);
  // It comes by a pointer, after an exec or an open of its own; here the parent's heap is left
  // first.
  const auto free_all = [&] {
    btd_config with = config();
    btd_cluster* const heap = btd_cluster_create(&with);
    if (heap == nullptr) return 2;
    unsetenv("BTD_QUIET");
    for (unsigned char* const each : {small, large, waits}) {
      if (free_error(each) != 0) return 3;
    }
    return 0;
  };
  ASSERT_EQ(in_child(free_all), 0);
  EXPECT_EQ(told([&] {
              EXPECT_EQ(free_error(small), EINVAL);
              for (int i = 0; i < 5000; ++i) EXPECT_EQ(free_error(block(100)), 0) << why();
              unsigned char* const again = block(1 << 20);
              EXPECT_EQ(btd_usable_size(again), 1U << 20);
              EXPECT_EQ(free_error(again), 0);
              close();
            }),
            "");
}

TEST_F(GuardTest, ACrashLosesNothingOfWhatARootReaches) {
  close();
  const int code = in_child([&] {
    btd_config with = config("other");
    btd_cluster* const heap = btd_cluster_create(&with);
    auto* const at = static_cast<char*>(btd_malloc(heap, 100));
    std::strcpy(at, "kept");
    btd_free(btd_malloc(heap, 500'000));  // waits when the process dies
    return btd_set_root(heap, "r", at);
  });
  ASSERT_EQ(code, 0);
  open(config("other"));
  EXPECT_STREQ(static_cast<char*>(btd_root(heap_, "r")), "kept");
  EXPECT_LT(statistics().allocated_bytes, 500'000U);
  EXPECT_EQ(free_error(btd_root(heap_, "r")), 0) << why();
}

TEST_F(GuardTest, WhatACollectionTookIsForgotten) {
  for (int i = 0; i < 100; ++i) {
    static_cast<volatile unsigned char*>(block(100))[100] = 0;  // nobody asks any more
    EXPECT_EQ(free_error(block(200)), 0);
  }
  unsigned char* const kept = block(100);
  ASSERT_EQ(btd_set_root(heap_, "r", kept), 0);
  ASSERT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(statistics().waiting_bytes, 0U);
  EXPECT_EQ(told([&] {
              for (int i = 0; i < 50; ++i) EXPECT_EQ(free_error(block(200)), 0) << why();
            }),
            "");
  static_cast<volatile unsigned char*>(kept)[100] = 0;
  EXPECT_TRUE(has(told([&] { EXPECT_EQ(free_error(kept), EUCLEAN); }), text(kept)));
  EXPECT_EQ(told([&] { close(); }), "");
}

TEST_F(GuardTest, ADamagedHeaderIsToldAtClose) {
  unsigned char* const at = block(1 << 20);
  // The headers lie before all blocks. Its own says that it is large, and how many segments it has.
  SegmentWord own{.kind = SegmentKind::kLarge, .contract = Contract::kRecoverable, .span = 17};
  const std::uint64_t word = checked_word(own.pack());
  auto* const base = static_cast<unsigned char*>(btd_cluster_base(heap_));
  unsigned char* header = base;
  while (header < at && std::memcmp(header, &word, sizeof word) != 0) header += kLineBytes;
  ASSERT_LT(header, at);
  header[3] ^= 1;
  const std::string said = told([&] { close(); });
  EXPECT_TRUE(has(said, "guard: heap ") && has(said, "its header does not say so")) << said;
}

TEST_F(GuardTest, ItSaysWhatItDoesWhereThatIsAskedFor) {
  close();
  setenv("BTD_GUARD", "verbose", 1);
  const std::string said = told([&] { open(); });
  EXPECT_TRUE(has(said, "canaries")) << said;
  EXPECT_TRUE(has(said, "not write-protected")) << said;
  close();
  for (const char* const off : {"", "0"}) {
    setenv("BTD_GUARD", off, 1);
    open();
    EXPECT_GE(btd_usable_size(block(100)), 112U);
    close();
  }
  for (const char* const wrong : {"2", "yes"}) {
    setenv("BTD_GUARD", wrong, 1);
    EXPECT_EQ(open_error(config()), EINVAL);
  }
}

TEST_F(GuardTest, ThreadsFreeEachOthersBlocksAndOneOfTwoFreesSucceeds) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kBlocks = 3000;
  std::vector<std::atomic<unsigned char*>> blocks(kBlocks);
  std::atomic<std::size_t> freed{0};
  const std::string said = told([&] {
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (std::size_t i = t; i < kBlocks; i += kThreads) blocks[i] = block(16 + i % 500);
      });
    }
    for (std::thread& each : threads) each.join();
    threads.clear();
    for (std::size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (auto& each : blocks) {
          if (free_error(each) == 0) ++freed;
        }
      });
    }
    for (std::thread& each : threads) each.join();
  });
  EXPECT_EQ(said, "");
  EXPECT_EQ(freed, kBlocks);
  EXPECT_EQ(statistics().allocated_bytes, 0U);
}

}  // namespace
}  // namespace btd::test
