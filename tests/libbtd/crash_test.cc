// What survives: closing, exit, kill -9, fork; and what is reclaimed.
#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

struct Node {
  Node* next;
  std::uint64_t value;
};

class SurvivalTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    setenv("BTD_QUIET", "1", 1);
  }
  // Runs `body` over the open heap in a child that then dies by kill -9.
  void die_after(const std::function<void()>& body) {
    EXPECT_EQ(in_child([&] {
                open();
                body();
                if (!HasFailure()) kill(getpid(), SIGKILL);
                return 1;
              }),
              128 + SIGKILL);
  }
  // A list of contract R: `count` nodes, each persisted, named "list".
  void make_list(std::uint64_t count) {
    Node* head = nullptr;
    for (std::uint64_t i = 0; i < count; ++i) {
      auto* const node = static_cast<Node*>(btd_malloc(heap_, sizeof(Node)));
      *node = {.next = head, .value = i};
      head = node;
      EXPECT_NE(btd_malloc(heap_, sizeof(Node)), nullptr);  // garbage
    }
    EXPECT_EQ(btd_set_root(heap_, "list", head), 0) << why();
  }
  std::uint64_t list_length() {
    std::uint64_t count = 0;
    const auto* node = static_cast<const Node*>(btd_root(heap_, "list"));
    for (; node != nullptr; node = node->next) ++count;
    return count;
  }
  std::uint64_t objects(char contract) {
    struct Count {
      char contract;
      std::uint64_t found = 0;
    } count{contract};
    const auto visit = [](const btd_object* object, void* context) {
      auto* const c = static_cast<Count*>(context);
      if (object->contract == c->contract) ++c->found;
      return 0;
    };
    EXPECT_EQ(btd_foreach(heap_, visit, &count), 0) << why();
    return count.found;
  }
  long problems() {
    return btd_check(
        heap_, [](const char* sentence, void*) { ADD_FAILURE() << sentence; }, nullptr);
  }
};

TEST_F(SurvivalTest, PointersHoldAfterClosing) {
  open();
  make_list(1000);
  EXPECT_EQ(objects('R'), 2000U);
  void* const first = btd_root(heap_, "list");
  close();
  open();
  EXPECT_EQ(statistics().was_clean, 1);
  EXPECT_EQ(btd_root(heap_, "list"), first);
  EXPECT_EQ(list_length(), 1000U);
  EXPECT_EQ(objects('R'), 2000U);  // clean: nothing is reclaimed
  EXPECT_EQ(problems(), 0);
}

TEST_F(SurvivalTest, KilledWhatIsReachableStaysAndTheRestIsReclaimed) {
  die_after([&] { make_list(20'000); });
  open();
  EXPECT_EQ(statistics().was_clean, 0);
  EXPECT_EQ(list_length(), 20'000U);
  EXPECT_EQ(objects('R'), 20'000U);
  EXPECT_GE(statistics().reclaimed_bytes, 20'000 * sizeof(Node));
  EXPECT_EQ(statistics().recovering, 0);
  EXPECT_EQ(problems(), 0);
  for (int i = 0; i < 30'000; ++i) ASSERT_NE(btd_malloc(heap_, sizeof(Node)), nullptr);
  EXPECT_EQ(list_length(), 20'000U);
}

TEST_F(SurvivalTest, MemoryIsServedConcurrentlyWithRecovery) {
  die_after([&] { make_list(200'000); });
  open();
  for (int i = 0; i < 1000; ++i) {
    auto* const block = static_cast<unsigned char*>(btd_malloc(heap_, 16 + i));
    ASSERT_NE(block, nullptr) << why();
    std::memset(block, 0xEE, 16 + i);
    if (i % 2 == 0) btd_free(block);
  }
  EXPECT_EQ(list_length(), 200'000U);
  EXPECT_EQ(objects('R'), 200'500U);
}

TEST_F(SurvivalTest, AnOpenThatIsKilledWhileRecoveringIsRecoveredAgain) {
  die_after([&] { make_list(100'000); });
  for (int i = 0; i < 5; ++i) die_after([&] { EXPECT_NE(btd_malloc(heap_, 100), nullptr); });
  open();
  EXPECT_EQ(list_length(), 100'000U);
  EXPECT_EQ(objects('R'), 100'000U);
  EXPECT_EQ(problems(), 0);
}

TEST_F(SurvivalTest, ByHandNothingIsReclaimedBeforeItIsAskedFor) {
  die_after([&] { make_list(1000); });
  btd_config manual = config();
  manual.gc = BTD_GC_MANUAL;
  open(manual);
  EXPECT_EQ(list_length(), 1000U);
  EXPECT_EQ(statistics().reclaimed_bytes, 0U);
  errno = 0;
  btd_free(btd_root(heap_, "list"));
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(objects('R'), 1000U);
  // Garbage made since then goes too.
  for (int i = 0; i < 500; ++i) EXPECT_NE(btd_malloc(heap_, 64), nullptr);
  EXPECT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(objects('R'), 1000U);
  EXPECT_EQ(list_length(), 1000U);
}

TEST_F(SurvivalTest, TypesTellPointersFromNumbers) {
  struct Pair {
    void* followed;
    void* ignored;
  };
  die_after([&] {
    const std::uint64_t first_word[] = {1};
    ASSERT_EQ(btd_register_type(heap_, 2, sizeof(Pair), first_word), 0);
    auto* const pair = static_cast<Pair*>(btd_malloc_typed(heap_, sizeof(Pair), 2));
    *pair = {.followed = btd_malloc(heap_, 64), .ignored = btd_malloc(heap_, 64)};
    auto* const opaque = static_cast<void**>(btd_malloc_typed(heap_, 64, BTD_TYPE_NO_POINTERS));
    opaque[0] = btd_malloc(heap_, 64);
    ASSERT_EQ(btd_set_root(heap_, "pair", pair), 0);
    ASSERT_EQ(btd_set_root(heap_, "opaque", opaque), 0);
  });
  open();
  auto* const pair = static_cast<Pair*>(btd_root(heap_, "pair"));
  auto* const opaque = static_cast<void**>(btd_root(heap_, "opaque"));
  ASSERT_NE(pair, nullptr);
  EXPECT_NE(btd_usable_size(pair->followed), 0U);
  EXPECT_EQ(btd_usable_size(pair->ignored), 0U);
  EXPECT_EQ(btd_usable_size(opaque[0]), 0U);
  EXPECT_EQ(objects('R'), 3U);
}

TEST_F(SurvivalTest, PublishedBlocksAreExactAfterAKill) {
  constexpr int kSlots = 64;
  die_after([&] {
    auto** const at = static_cast<void**>(btd_calloc(heap_, kSlots, sizeof(void*)));
    ASSERT_EQ(btd_persist(at, kSlots * sizeof(void*)), 0);
    ASSERT_EQ(btd_set_root(heap_, "slots", at), 0);
    for (int i = 0; i < kSlots; ++i) ASSERT_NE(btd_malloc_to(&at[i], 40 + i), nullptr);
    for (int i = 0; i < kSlots; i += 2) ASSERT_EQ(btd_free_from(&at[i]), 0);
    for (int i = 0; i < 10; ++i) ASSERT_NE(btd_reserve(heap_, 100), nullptr);  // gone after a crash
    ASSERT_EQ(btd_tx_begin(heap_), 0);                                         // open when it dies
    ASSERT_NE(btd_tx_alloc(100), nullptr);
    void* const none = nullptr;
    ASSERT_EQ(btd_tx_set(&at[1], &none, sizeof none), 0);
  });
  open();
  auto** const at = static_cast<void**>(btd_root(heap_, "slots"));
  ASSERT_NE(at, nullptr) << why();
  for (int i = 0; i < kSlots; ++i) EXPECT_EQ(at[i] == nullptr, i % 2 == 0) << i;
  EXPECT_EQ(objects('T'), kSlots / 2U);
  EXPECT_EQ(objects('R'), 1U);
  EXPECT_EQ(problems(), 0);
}

// Random transfers between accounts, killed at any moment: the sum holds, and nothing leaks.
TEST_F(SurvivalTest, TransactionsAreWholeWhenKilledAtAnyMoment) {
  constexpr std::uint64_t kAccounts = 16;
  open();
  auto** const accounts = static_cast<std::uint64_t**>(btd_calloc(heap_, kAccounts, sizeof(void*)));
  for (std::uint64_t i = 0; i < kAccounts; ++i) {
    auto* const account = static_cast<std::uint64_t*>(btd_malloc_to(&accounts[i], 48));
    ASSERT_NE(account, nullptr);
    const std::uint64_t start = 1000;
    ASSERT_NE(btd_memcpy(account, &start, 8), nullptr);
  }
  ASSERT_EQ(btd_persist(accounts, kAccounts * 8), 0);
  ASSERT_EQ(btd_set_root(heap_, "accounts", accounts), 0);
  close();
  for (unsigned round = 0; round < 30; ++round) {
    fflush(nullptr);
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      open();
      auto** const mine = static_cast<std::uint64_t**>(btd_root(heap_, "accounts"));
      for (unsigned i = round * 7919;; i = i * 1664525 + 1013904223) {
        // One account moves to a new block, with one unit less; another gets that unit.
        const unsigned from = (i >> 8) % kAccounts;
        const unsigned to = (from + 1 + (i >> 16) % (kAccounts - 1)) % kAccounts;
        BTD_TX(heap_) {
          auto* const moved = static_cast<std::uint64_t*>(btd_tx_alloc(48));
          if (moved == nullptr) _exit(3);
          const std::uint64_t less = *mine[from] - 1;
          const std::uint64_t more = *mine[to] + 1;
          btd_tx_set(moved, &less, 8);
          btd_tx_set(mine[to], &more, 8);
          btd_tx_free(mine[from]);
          btd_tx_set(&mine[from], &moved, 8);
        }
        if (btd_tx_result() != 0) _exit(4);
      }
    }
    usleep(2000 + round * 700);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
    open();
    auto** const found = static_cast<std::uint64_t**>(btd_root(heap_, "accounts"));
    ASSERT_NE(found, nullptr) << why();
    std::uint64_t sum = 0;
    for (std::uint64_t i = 0; i < kAccounts; ++i) sum += *found[i];
    ASSERT_EQ(sum, kAccounts * 1000);
    ASSERT_EQ(objects('T'), kAccounts);
    ASSERT_EQ(problems(), 0);
    close();
  }
}

TEST_F(SurvivalTest, ExitClosesTheHeap) {
#ifdef BTD_SANITIZE_thread
  GTEST_SKIP() << "ThreadSanitizer's own thread makes every process one of several threads";
#endif
  EXPECT_EQ(in_child([&] {
              open();
              make_list(10);
              fflush(nullptr);
              exit(HasFailure() ? 1 : 0);
              return 1;
            }),
            0);
  open();
  EXPECT_EQ(statistics().was_clean, 1);
  EXPECT_EQ(objects('R'), 20U);
}

TEST_F(SurvivalTest, ExitBesideAThreadAtWorkLeavesARecoverableHeap) {
  EXPECT_EQ(in_child([&] {
              open();
              make_list(1000);
              std::thread([&] {
                for (;;) btd_free(btd_malloc(heap_, 100));
              }).detach();
              usleep(20'000);
              exit(0);
              return 1;
            }),
            0);
  open();
  EXPECT_EQ(statistics().was_clean, 0);
  EXPECT_EQ(list_length(), 1000U);
  EXPECT_EQ(problems(), 0);
}

TEST_F(SurvivalTest, AChildOfAForkIsTold) {
  open();
  void* const block = btd_malloc(heap_, 100);
  std::memset(block, 7, 100);
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(in_child([&] {
              const auto expect_dead = [](const char* what, bool failed) {
                EXPECT_TRUE(failed) << what;
                EXPECT_EQ(errno, EOWNERDEAD) << what;
                errno = 0;
              };
              btd_statistics stats;
              errno = 0;
              expect_dead("malloc", btd_malloc(heap_, 10) == nullptr);
              btd_free(block);
              expect_dead("free", errno != 0);
              expect_dead("usable", btd_usable_size(block) == 0);
              expect_dead("realloc", btd_realloc(heap_, block, 1000) == nullptr);
              expect_dead("memcpy", btd_memcpy(block, "x", 1) == nullptr);
              expect_dead("root", btd_root(heap_, "r") == nullptr);
              expect_dead("set_root", btd_set_root(heap_, "r", block) == -1);
              expect_dead("stats", btd_stats(heap_, &stats) == -1);
              expect_dead("gc", btd_gc(heap_) == -1);
              expect_dead("begin", btd_tx_begin(heap_) == -1);
              expect_dead("destroy", btd_cluster_destroy(heap_) == -1);
              EXPECT_EQ(btd_tx_depth(), 0U);
              EXPECT_EQ(btd_tx_commit(), -1);
              // The memory itself is not there, so that no plain store can harm the parent.
              unsigned char resident = 0;
              EXPECT_EQ(mincore(reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(block) &
                                                        ~std::uintptr_t{4095}),
                                4096, &resident),
                        -1);
              // It may open the heap as any other process may.
              EXPECT_EQ(open_error(config()), 0) << why();
              EXPECT_EQ(open_error(config("another")), 0) << why();
              fflush(nullptr);
              if (!HasFailure()) exit(0);  // destructors and all
              return 1;
            }),
            0);
  EXPECT_EQ(btd_tx_commit(), 0);
  EXPECT_EQ(static_cast<unsigned char*>(block)[99], 7);
  btd_free(block);
  EXPECT_EQ(problems(), 0);
}

TEST_F(SurvivalTest, AChildOfAForkKeepsNoLock) {
  int go[2];
  int forked[2];
  ASSERT_EQ(pipe(go), 0);
  ASSERT_EQ(pipe(forked), 0);
  auto* const shared = static_cast<pid_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  die_after([&] {
    const pid_t child = fork();
    char byte = 0;
    if (child == 0) {
      [[maybe_unused]] const ssize_t put = write(forked[1], "x", 1);
      ::close(go[1]);  // so that it ends with the test
      [[maybe_unused]] const ssize_t got = read(go[0], &byte, 1);
      _exit(0);
    }
    EXPECT_EQ(read(forked[0], &byte, 1), 1);
    *shared = child;
  });
  const pid_t grandchild = *shared;
  ASSERT_GT(grandchild, 0);
  open();
  EXPECT_EQ(kill(grandchild, 0), 0);
  [[maybe_unused]] const ssize_t put = write(go[1], "x", 1);
  munmap(shared, 4096);
}

}  // namespace
}  // namespace btd::test
