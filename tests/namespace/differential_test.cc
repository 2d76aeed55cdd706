// Random operations on the real namespace and on the model: same errno, same tree, after each.
#include <gtest/gtest.h>

#include "alloc/memory_store.h"
#include "tests/namespace/model.h"

namespace btd::testing {
namespace {

class Differential : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(Differential, AnswersAndTreesAgree) {
  MemoryStore store;
  ASSERT_TRUE(Namespace::format(store, 0755));
  auto ns = Namespace::open(store);
  ASSERT_TRUE(ns);
  Model model;
  std::mt19937_64 random(GetParam());
  int succeeded = 0;
  for (int i = 0; i < 3000; ++i) {
    const Operation op = model.random(random);
    const auto id = (*ns)->allocate_id();
    ASSERT_TRUE(id);
    const int expected = model.apply(op, *id);
    ASSERT_EQ(apply(**ns, op, *id, {}), expected) << "operation " << i << ": " << op.text();
    (*ns)->id_settled(*id);
    succeeded += expected == 0;
    if (i % 16 == 0) {
      ASSERT_EQ(dump(**ns), model.dump()) << "after " << op.text();
    }
  }
  EXPECT_EQ(dump(**ns), model.dump());
  EXPECT_GT(succeeded, 500) << "the operations must succeed often enough to test anything";
}

INSTANTIATE_TEST_SUITE_P(Seeds, Differential, ::testing::Range<std::uint64_t>(1, 9));

}  // namespace
}  // namespace btd::testing
