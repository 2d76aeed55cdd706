// Contracts P and T, durable stores and roots: what they do, and what they refuse.
#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

class DurableTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    setenv("BTD_QUIET", "1", 1);
    open();
  }
  // Pointer variables in a block of the heap, all NULL.
  void** slots(std::size_t count = 8) {
    return static_cast<void**>(btd_calloc(heap_, count, sizeof(void*)));
  }
  template <class Call>
  static int error_of(Call&& call) {
    errno = 0;
    call();
    return errno;
  }
};
using StoreTest = DurableTest;
using RootTest = DurableTest;
using PublishTest = DurableTest;
using TransactionTest = DurableTest;

TEST_F(StoreTest, CopiesOfAnyLengthArrive) {
  for (const std::size_t bytes :
       {1UL, 7UL, 8UL, 100UL, 5000UL, 128 * 1024UL, 128 * 1024 + 1UL, 5 * kMiB}) {
    std::vector<unsigned char> source(bytes);
    std::iota(source.begin(), source.end(), static_cast<unsigned char>(bytes));
    auto* const block = static_cast<unsigned char*>(btd_malloc(heap_, bytes + 1));
    ASSERT_EQ(btd_memcpy(block + 1, source.data(), bytes), block + 1) << why();
    EXPECT_TRUE(std::equal(source.begin(), source.end(), block + 1));
    EXPECT_EQ(btd_memset(block, 0x5C, bytes), block) << why();
    EXPECT_EQ(std::count(block, block + bytes, 0x5C), static_cast<std::ptrdiff_t>(bytes));
  }
}

TEST_F(StoreTest, MovesWithinABlockOverlap) {
  for (const std::size_t bytes : {1000UL, 300'000UL}) {
    auto* const block = static_cast<unsigned char*>(btd_malloc(heap_, bytes + 100));
    std::iota(block, block + bytes + 100, static_cast<unsigned char>(0));
    std::vector<unsigned char> model(block, block + bytes);
    EXPECT_EQ(btd_memmove(block + 100, block, bytes), block + 100);
    EXPECT_TRUE(std::equal(model.begin(), model.end(), block + 100));
    EXPECT_EQ(btd_memmove_nodrain(block, block + 100, bytes), block);
    EXPECT_EQ(btd_drain(heap_), 0);
    EXPECT_TRUE(std::equal(model.begin(), model.end(), block));
  }
}

TEST_F(StoreTest, ACopyCostsOneFence) {
  void* const block = btd_malloc(heap_, 1000);
  const std::array<char, 1000> source{};
  btd_memcpy(block, source.data(), source.size());
  const btd_statistics before = statistics();
  btd_memcpy(block, source.data(), source.size());
  EXPECT_EQ(statistics().fences - before.fences, 1U);
  const btd_statistics between = statistics();
  btd_memcpy_nodrain(block, source.data(), source.size());
  EXPECT_EQ(statistics().fences, between.fences);
  EXPECT_GE(statistics().lines - between.lines, 15U);
}

TEST_F(StoreTest, WhatIsNotInsideABlockIsRefusedAndUnchanged) {
  std::array<char, 64> outside{};
  auto* const block = static_cast<char*>(btd_malloc(heap_, 64));
  std::memset(block, 1, 64);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_memcpy(outside.data(), "x", 1), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_memcpy(block, outside.data(), 65), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_memset(block + 60, 2, 5), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_memset(block, 2, SIZE_MAX), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_persist(outside.data(), 8), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_memset_nodrain(outside.data(), 0, 8), nullptr); }),
            EINVAL);
  EXPECT_TRUE(std::all_of(block, block + 64, [](char each) { return each == 1; }));
  EXPECT_EQ(btd_persist(block, 64), 0);
  EXPECT_EQ(btd_flush(block, 64), 0);
  EXPECT_EQ(btd_drain(heap_), 0);
}

TEST_F(StoreTest, AHeapForTheProcessFlushesNothing) {
  close();
  btd_config cache = config("cache");
  cache.durability = BTD_PROCESS;
  open(cache);
  void* const block = btd_malloc(heap_, 1000);
  btd_memset(block, 3, 1000);
  EXPECT_EQ(btd_set_root(heap_, "r", block), 0);
  EXPECT_EQ(statistics().lines, 0U);
  EXPECT_EQ(statistics().fences, 0U);
  close();
  open(cache);
  EXPECT_EQ(btd_root(heap_, "r"), block);
  EXPECT_EQ(static_cast<char*>(block)[999], 3);
}

int note_root(const char* name, void* pointer, void* context) {
  static_cast<std::vector<std::pair<std::string, void*>>*>(context)->emplace_back(name, pointer);
  return 0;
}

TEST_F(RootTest, AreFoundByNameAndInOrderAfterReopening) {
  std::vector<std::pair<std::string, void*>> expected;
  for (int i = 0; i < 1000; ++i) {
    void* const block = btd_malloc(heap_, 32);
    expected.emplace_back("root/" + std::to_string(i), block);
    ASSERT_EQ(btd_set_root(heap_, expected.back().first.c_str(), block), 0) << why();
  }
  for (std::size_t i = 0; i < expected.size(); i += 2) {
    ASSERT_EQ(btd_set_root(heap_, expected[i].first.c_str(), nullptr), 0);
    expected[i].second = nullptr;
  }
  void* const other = btd_malloc(heap_, 8);
  ASSERT_EQ(btd_set_root(heap_, expected[1].first.c_str(), other), 0);
  expected[1].second = other;
  std::erase_if(expected, [](const auto& each) { return each.second == nullptr; });
  std::sort(expected.begin(), expected.end());
  close();
  open();
  std::vector<std::pair<std::string, void*>> found;
  EXPECT_EQ(btd_roots(heap_, note_root, &found), 0);
  EXPECT_EQ(found, expected);
  for (const auto& [name, pointer] : expected) EXPECT_EQ(btd_root(heap_, name.c_str()), pointer);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_root(heap_, "root/0"), nullptr); }), ENOENT);
}

TEST_F(RootTest, SettingAnewCostsOneLineAndFence) {
  void* const block = btd_malloc(heap_, 32);
  ASSERT_EQ(btd_set_root(heap_, "r", block), 0);
  const btd_statistics before = statistics();
  ASSERT_EQ(btd_set_root(heap_, "r", static_cast<char*>(block) + 8), 0);
  EXPECT_EQ(statistics().fences - before.fences, 1U);
  EXPECT_LE(statistics().lines - before.lines, 1U);
}

TEST_F(RootTest, WrongNamesAndPointersAreRefused) {
  int outside = 0;
  const std::string long_name(256, 'n');
  void* const block = btd_malloc(heap_, 8);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_set_root(heap_, "", block), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_set_root(heap_, nullptr, block), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_set_root(heap_, long_name.c_str(), block), -1); }),
            EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_set_root(heap_, "r", &outside), -1); }), EINVAL);
  EXPECT_EQ(btd_set_root(heap_, long_name.substr(1).c_str(), block), 0);
  EXPECT_EQ(btd_set_root(heap_, "absent", nullptr), 0);
}

TEST_F(RootTest, AVisitorMayStopAndMaySetRoots) {
  for (const char* name : {"a", "b", "c"}) btd_set_root(heap_, name, btd_malloc(heap_, 8));
  const auto take_away = [](const char* name, void*, void* heap) {
    EXPECT_EQ(btd_set_root(static_cast<btd_cluster*>(heap), name, nullptr), 0);
    return *name == 'b' ? 42 : 0;
  };
  EXPECT_EQ(btd_roots(heap_, take_away, heap_), 42);
  EXPECT_EQ(btd_root(heap_, "b"), nullptr);
  EXPECT_NE(btd_root(heap_, "c"), nullptr);
}

TEST_F(PublishTest, AllocationAndLinkAreOneStepAndOneFence) {
  void** const at = slots();
  ASSERT_NE(btd_malloc_to(&at[0], 100), nullptr);
  const btd_statistics before = statistics();
  void* const block = btd_malloc_to(&at[1], 100);
  ASSERT_NE(block, nullptr) << why();
  EXPECT_EQ(at[1], block);
  EXPECT_GE(btd_usable_size(block), 100U);
  EXPECT_EQ(statistics().fences - before.fences, 1U);
  const btd_statistics between = statistics();
  EXPECT_EQ(btd_free_from(&at[1]), 0) << why();
  EXPECT_EQ(at[1], nullptr);
  EXPECT_EQ(statistics().fences - between.fences, 1U);
  EXPECT_EQ(btd_free_from(&at[1]), 0);
  EXPECT_EQ(btd_usable_size(block), 0U);
}

TEST_F(PublishTest, ADestinationOutsideABlockIsRefused) {
  void* outside = nullptr;
  void** const at = slots();
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_malloc_to(&outside, 8), nullptr); }), EINVAL);
  void* const unaligned = reinterpret_cast<char*>(at) + 4;
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_malloc_to(unaligned, 8), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_malloc_to(&at[0], SIZE_MAX), nullptr); }), ENOSPC);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_free_from(&outside), -1); }), EINVAL);
  at[2] = &outside;
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_free_from(&at[2]), -1); }), EINVAL);
  EXPECT_EQ(at[2], &outside);
  at[3] = btd_malloc(heap_, 8);  // contract R is not freed so
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_free_from(&at[3]), -1); }), EINVAL);
}

TEST_F(PublishTest, ManyReservationsAreOneStep) {
  constexpr std::size_t kCount = 100;
  void** const at = slots(kCount);
  std::vector<btd_action> actions;
  for (std::size_t i = 0; i < kCount; ++i) {
    void* const block = btd_reserve(heap_, 64);
    ASSERT_NE(block, nullptr);
    btd_memset_nodrain(block, static_cast<int>(i), 64);
    actions.push_back({BTD_ACTION_ALLOCATE, block, 0});
    actions.push_back({BTD_ACTION_SET, &at[i], reinterpret_cast<std::uint64_t>(block)});
  }
  EXPECT_EQ(btd_drain(heap_), 0);
  const btd_statistics before = statistics();
  ASSERT_EQ(btd_publish(heap_, actions.data(), actions.size()), 0) << why();
  EXPECT_EQ(statistics().fences - before.fences, 1U);
  for (std::size_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(static_cast<unsigned char*>(at[i])[63], i);
    const btd_action frees[] = {{BTD_ACTION_FREE, at[i], 0}, {BTD_ACTION_SET, &at[i], 0}};
    EXPECT_EQ(btd_publish(heap_, frees, 2), 0) << why();
  }
}

TEST_F(PublishTest, ARefusedCallKeepsReservations) {
  void** const at = slots();
  void* const block = btd_reserve(heap_, 64);
  int outside = 0;
  const btd_action wrong[][2] = {
      {{BTD_ACTION_ALLOCATE, block, 0}, {BTD_ACTION_SET, &outside, 1}},
      {{BTD_ACTION_ALLOCATE, block, 0}, {BTD_ACTION_FREE, at, 0}},
      {{BTD_ACTION_ALLOCATE, block, 0}, {static_cast<btd_action_kind>(3), at, 0}},
      {{BTD_ACTION_ALLOCATE, block, 0}, {BTD_ACTION_ALLOCATE, at, 0}}};
  for (const auto& actions : wrong) {
    EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_publish(heap_, actions, 2), -1); }), EINVAL);
  }
  // All of them are sets of one word: too much for one record.
  std::vector<btd_action> many(100'000, {BTD_ACTION_SET, &at[0], 1});
  many.front() = {BTD_ACTION_ALLOCATE, block, 0};
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_publish(heap_, many.data(), many.size()), -1); }), E2BIG);
  EXPECT_EQ(at[0], nullptr);
  EXPECT_EQ(btd_cancel(block), 0) << why();
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_cancel(block), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_cancel(&outside), -1); }), EINVAL);
}

TEST_F(PublishTest, AnotherHeapIsRefused) {
  btd_config with = config("other");
  btd_cluster* const other = btd_cluster_create(&with);
  ASSERT_NE(other, nullptr) << why();
  auto** const elsewhere = static_cast<void**>(btd_calloc(other, 1, sizeof(void*)));
  const btd_action action{BTD_ACTION_SET, elsewhere, 5};
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_publish(heap_, &action, 1), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_set_root(heap_, "r", elsewhere), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_realloc(heap_, elsewhere, 4000), nullptr); }), EINVAL);
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_begin(other), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_add(elsewhere, 8), nullptr); }), EINVAL);
  EXPECT_EQ(btd_tx_abort(), 0);
  btd_free(elsewhere);
  EXPECT_EQ(btd_cluster_destroy(other), 0);
}

struct Node {
  Node* next;
  std::uint64_t value;
  char text[48];
};

TEST_F(TransactionTest, IsSeenWhenItCommits) {
  auto* const head = static_cast<Node*>(btd_calloc(heap_, 1, sizeof(Node)));
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  auto* const node = static_cast<Node*>(btd_tx_alloc(sizeof(Node)));
  ASSERT_NE(node, nullptr) << why();
  auto* const copy = static_cast<Node*>(btd_tx_add(node, sizeof(Node)));
  ASSERT_NE(copy, nullptr) << why();
  EXPECT_EQ(copy->value, 0U);
  copy->value = 17;
  std::strcpy(copy->text, "new");
  EXPECT_EQ(btd_tx_set(&head->next, &node, sizeof node), 0) << why();
  EXPECT_EQ(head->next, nullptr);
  EXPECT_EQ(btd_tx_get(node), copy);
  EXPECT_EQ(btd_tx_add(node, sizeof(Node)), copy);
  EXPECT_EQ(btd_tx_get(head), head);
  EXPECT_EQ(btd_tx_depth(), 1U);
  ASSERT_EQ(btd_tx_commit(), 0) << why();
  EXPECT_EQ(btd_tx_result(), 0);
  ASSERT_EQ(head->next, node);
  EXPECT_EQ(node->value, 17U);
  EXPECT_STREQ(node->text, "new");
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(btd_tx_free(node), 0) << why();
  Node* const none = nullptr;
  EXPECT_EQ(btd_tx_set(&head->next, &none, sizeof none), 0);
  ASSERT_EQ(btd_tx_commit(), 0);
  EXPECT_EQ(head->next, nullptr);
  EXPECT_EQ(btd_usable_size(node), 0U);
}

TEST_F(TransactionTest, AnAbortLeavesEverything) {
  auto* const word = static_cast<std::uint64_t*>(btd_calloc(heap_, 4, 8));
  const std::uint64_t before = statistics().allocated_bytes;
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  const std::uint64_t value = 9;
  EXPECT_EQ(btd_tx_set(word, &value, 8), 0);
  *static_cast<std::uint64_t*>(btd_tx_add(word + 1, 8)) = 9;
  EXPECT_NE(btd_tx_alloc(1000), nullptr);
  EXPECT_EQ(btd_tx_abort(), 0);
  EXPECT_EQ(btd_tx_result(), ECANCELED);
  EXPECT_EQ(word[0] + word[1], 0U);
  EXPECT_EQ(statistics().allocated_bytes, before);
}

TEST_F(TransactionTest, SetsOfAnyShapeArrive) {
  auto* const bytes = static_cast<unsigned char*>(btd_calloc(heap_, 1, 4000));
  std::vector<unsigned char> model(4000, 0);
  const std::pair<std::size_t, std::size_t> ranges[] = {
      {0, 8}, {9, 3}, {16, 24}, {101, 900}, {2000, 64}, {2064, 65}, {3992, 8}};
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  for (const auto& [at, len] : ranges) {
    std::vector<unsigned char> source(len);
    std::iota(source.begin(), source.end(), static_cast<unsigned char>(at + 1));
    ASSERT_EQ(btd_tx_set(bytes + at, source.data(), len), 0) << why();
    std::copy(source.begin(), source.end(), model.begin() + static_cast<std::ptrdiff_t>(at));
  }
  ASSERT_EQ(btd_tx_commit(), 0) << why();
  EXPECT_TRUE(std::equal(model.begin(), model.end(), bytes));
}

TEST_F(TransactionTest, NestedOnesAreOne) {
  auto* const word = static_cast<std::uint64_t*>(btd_calloc(heap_, 2, 8));
  const std::uint64_t value = 4;
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(btd_tx_depth(), 2U);
  EXPECT_EQ(btd_tx_set(word, &value, 8), 0);
  EXPECT_EQ(btd_tx_commit(), 0);
  EXPECT_EQ(word[0], 0U);
  EXPECT_EQ(btd_tx_commit(), 0);
  EXPECT_EQ(word[0], 4U);
}

TEST_F(TransactionTest, AnAbortInsideAbortsAll) {
  auto* const word = static_cast<std::uint64_t*>(btd_calloc(heap_, 2, 8));
  const std::uint64_t value = 4;
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(btd_tx_set(word, &value, 8), 0);
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(btd_tx_abort(), 0);
  EXPECT_EQ(btd_tx_depth(), 1U);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_begin(heap_), -1); }), ECANCELED);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_set(word, &value, 8), -1); }), ECANCELED);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_commit(), -1); }), ECANCELED);
  EXPECT_EQ(btd_tx_result(), ECANCELED);
  EXPECT_EQ(btd_tx_depth(), 0U);
  EXPECT_EQ(word[0], 0U);
}

TEST_F(TransactionTest, WithoutOneCallsAreRefused) {
  std::uint64_t value = 0;
  void* const block = btd_malloc(heap_, 64);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_commit(), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_abort(), -1); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_alloc(8), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_add(block, 8), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_set(block, &value, 8), -1); }), EINVAL);
  EXPECT_EQ(btd_tx_get(block), block);
  EXPECT_EQ(btd_tx_depth(), 0U);
}

TEST_F(TransactionTest, WrongRangesAreRefused) {
  auto* const block = static_cast<char*>(btd_calloc(heap_, 1, 256));
  char outside[64];
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_add(outside, 8), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_add(block + 4, 8), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_add(block, 100'000), nullptr); }), EINVAL);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_free(block), -1); }), EINVAL);  // contract R
  EXPECT_NE(btd_tx_add(block, 64), nullptr);
  EXPECT_NE(btd_tx_add(block + 32, 64), nullptr);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_commit(), -1); }), EINVAL);  // they overlap
  EXPECT_EQ(btd_tx_result(), EINVAL);
}

TEST_F(TransactionTest, TooLargeAOneIsRefusedWhole) {
  auto* const block = static_cast<unsigned char*>(btd_calloc(heap_, 1, kMiB));
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  std::memset(btd_tx_add(block, kMiB), 1, kMiB);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_tx_commit(), -1); }), E2BIG);
  EXPECT_EQ(block[0] + block[kMiB - 1], 0);
}

TEST_F(TransactionTest, AHeapIsNotClosedUnderOne) {
  ASSERT_EQ(btd_tx_begin(heap_), 0);
  EXPECT_EQ(error_of([&] { EXPECT_EQ(btd_cluster_destroy(heap_), -1); }), EBUSY);
  EXPECT_EQ(btd_tx_abort(), 0);
}

TEST_F(TransactionTest, BlocksCommitAtTheirEndAndAbortWhenLeft) {
  auto* const word = static_cast<std::uint64_t*>(btd_calloc(heap_, 1, 8));
  const auto set = [&](std::uint64_t value) { EXPECT_EQ(btd_tx_set(word, &value, 8), 0); };
  BTD_TX(heap_) { set(1); }
  EXPECT_EQ(btd_tx_result(), 0);
  EXPECT_EQ(*word, 1U);
  BTD_TX(heap_) {
    set(2);
    break;
  }
  EXPECT_EQ(btd_tx_result(), ECANCELED);
  [&] {
    BTD_TX(heap_) {
      set(3);
      return;
    }
  }();
  EXPECT_EQ(*word, 1U);
  BTD_TX(heap_) {
    set(4);
    BTD_TX(heap_) { set(5); }
  }
  EXPECT_EQ(*word, 5U);
  EXPECT_EQ(btd_tx_depth(), 0U);
  BTD_TX(nullptr) ADD_FAILURE() << "no heap, no body";
  EXPECT_EQ(btd_tx_result(), EINVAL);
}

}  // namespace
}  // namespace btd::test
