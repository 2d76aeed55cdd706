// Every state of small worlds: one writer or many readers, nothing stale, nothing lost, no
// deadlock.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/coherence/explore.h"

namespace btd::coherence::model {
namespace {

#ifdef NDEBUG
constexpr std::uint64_t kMaxStates = 30'000'000;
constexpr bool kAll = true;
#else
constexpr std::uint64_t kMaxStates = 3'000;  // a sanitizer is watching
constexpr bool kAll = false;
#endif

void expect_coherent(const Scope& scope) {
  const auto begin = std::chrono::steady_clock::now();
  const Exploration found = explore(scope, kMaxStates);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%llu states, %llu transitions, %.1f s\n",
              static_cast<unsigned long long>(found.states),
              static_cast<unsigned long long>(found.transitions), took.count());
  EXPECT_EQ(found.violation, "") << found.text();
  EXPECT_TRUE(found.is_complete || !kAll);
}

bool is_all_asked() {
  const char* text = std::getenv("BTD_EXPLORE");
  return text != nullptr && std::strcmp(text, "all") == 0;
}

TEST(CoherenceCheck, TwoWriters) { expect_coherent({}); }
TEST(CoherenceCheck, AReaderAndAWriter) { expect_coherent({.readers = 1}); }
TEST(CoherenceCheck, InvalidationsThatFail) { expect_coherent({.busy = true}); }
TEST(CoherenceCheck, StoresThatHomeCannotTake) { expect_coherent({.refuse_store = true}); }
TEST(CoherenceCheck, OpensBesideAWriter) {
  expect_coherent({.opening = 1, .reclaim = false, .writeback = false});
}
TEST(CoherenceCheck, OpensBesideAReader) {
  expect_coherent({.openers = 2, .opening = 1, .readers = 2, .writeback = false, .notices = 1});
}
TEST(CoherenceCheck, OpensOnBoth) {
  expect_coherent({.opening = 2, .reclaim = false, .writeback = false, .notices = 1});
}
TEST(CoherenceCheck, Mmap) { expect_coherent({.readers = 1, .mmap = true}); }
TEST(CoherenceCheck, DirectWrites) {
  expect_coherent({.readers = 1, .writeback = false, .direct_write = true});
  if (is_all_asked()) expect_coherent({.direct_write = true});
}
TEST(CoherenceCheck, DirectReads) {
  expect_coherent({.reclaim = false, .writeback = false, .direct_read = true});
  if (is_all_asked()) expect_coherent({.direct_read = true});
}
TEST(CoherenceCheck, ALostNode) { expect_coherent({.lose_node = true}); }
TEST(CoherenceCheck, ThreeNodes) { expect_coherent({.nodes = 3, .readers = 1, .notices = 1}); }
TEST(CoherenceCheck, ThreeNodesAndRaces) {
  expect_coherent({.nodes = 3, .readers = 2, .reclaim = false, .writeback = false});
}
TEST(CoherenceCheck, TwoPages) { expect_coherent({.pages = 2, .reclaim = false, .notices = 1}); }
TEST(CoherenceCheck, TwoPagesAndReclaim) {
  expect_coherent({.pages = 2, .readers = 1, .writeback = false, .notices = 1});
}
TEST(CoherenceCheck, Truncation) {
  expect_coherent({.pages = 2, .reclaim = false, .writeback = false, .resize = true, .notices = 1});
}
TEST(CoherenceCheck, Residency) {
  expect_coherent({.limits = {.residency = Time{1}, .units = {1, 2, 2}, .calm = Time{0}}});
}

}  // namespace
}  // namespace btd::coherence::model
