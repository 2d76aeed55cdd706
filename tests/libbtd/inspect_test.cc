// Looking at a heap: objects, statistics, checks.
#include <set>
#include <vector>

#include "tests/libbtd/heap_fixture.h"

namespace btd::test {
namespace {

class InspectTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    open();
  }
};

TEST_F(InspectTest, EachObjectIsVisitedOnceByAddress) {
  std::set<void*> blocks;
  auto** const slots = static_cast<void**>(btd_calloc(heap_, 100, sizeof(void*)));
  blocks.insert(slots);
  for (std::size_t i = 0; i < 100; ++i) {
    blocks.insert(btd_malloc(heap_, 1 + i * i * 20));
    blocks.insert(btd_malloc_to(&slots[i], 1 + i * i * 20));
    ASSERT_EQ(btd_set_root(heap_, ("r" + std::to_string(i)).c_str(), slots), 0);
  }
  const std::uint64_t word[] = {1};
  ASSERT_EQ(btd_register_type(heap_, 7, 8, word), 0);
  void* const typed = btd_malloc_typed(heap_, 64, 7);
  blocks.insert(typed);
  std::vector<btd_object> found;
  const auto note = [](const btd_object* object, void* to) {
    static_cast<std::vector<btd_object>*>(to)->push_back(*object);
    return 0;
  };
  ASSERT_EQ(btd_foreach(heap_, note, &found), 0) << why();
  ASSERT_EQ(found.size(), blocks.size());
  auto expected = blocks.begin();
  for (const btd_object& object : found) {
    EXPECT_EQ(object.at, *expected++);
    EXPECT_EQ(object.bytes, btd_usable_size(object.at));
    EXPECT_EQ(object.type, object.at == typed ? 7U : BTD_TYPE_UNTYPED);
  }
  const auto first = [](const btd_object*, void*) { return 5; };
  EXPECT_EQ(btd_foreach(heap_, first, nullptr), 5);
}

TEST_F(InspectTest, StatisticsFollowWhatIsDone) {
  const btd_statistics fresh = statistics();
  EXPECT_EQ(fresh.arenas, 1U);
  EXPECT_EQ(fresh.allocated_bytes, 0U);
  EXPECT_EQ(fresh.generation, 1U);
  EXPECT_LT(fresh.mapped_bytes, 8 * kMiB);  // it grows as it is used
  void* const block = btd_malloc(heap_, kMiB);
  EXPECT_GT(statistics().mapped_bytes, kMiB);
  EXPECT_EQ(statistics().allocated_bytes, kMiB);
  auto** const slot = static_cast<void**>(btd_calloc(heap_, 1, 8));
  ASSERT_NE(btd_malloc_to(slot, kMiB), nullptr);
  btd_free_from(slot);
  EXPECT_EQ(statistics().commits, 2U);
  EXPECT_EQ(statistics().waiting_bytes, kMiB);
  EXPECT_EQ(btd_checkpoint(heap_), 0) << why();
  EXPECT_EQ(statistics().waiting_bytes, 0U);
  btd_free(block);
  close();
  open();
  EXPECT_EQ(statistics().generation, 2U);
  EXPECT_EQ(statistics().was_clean, 1);
}

TEST_F(InspectTest, ASoundHeapHasNoProblems) {
  auto** const slot = static_cast<void**>(btd_calloc(heap_, 2, 8));
  for (int i = 0; i < 2000; ++i) {
    ASSERT_NE(btd_malloc_to(&slot[i % 2], 1 + i * 37 % 90'000), nullptr);
    if (i % 3 == 0) {
      ASSERT_NE(btd_malloc(heap_, i), nullptr);
    }
    if (i % 2 == 0) btd_free_from(&slot[0]);
    btd_set_root(heap_, std::to_string(i % 50).c_str(), slot);
  }
  EXPECT_EQ(
      btd_check(heap_, [](const char* sentence, void*) { ADD_FAILURE() << sentence; }, nullptr), 0);
}

TEST_F(InspectTest, TheVersionIsTheProjects) { EXPECT_STREQ(btd_version(), BTD_PROJECT_VERSION); }

}  // namespace
}  // namespace btd::test
