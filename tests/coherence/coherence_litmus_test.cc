// Litmus tests: what two programs may see of each other's stores, over every interleaving.
#include <gtest/gtest.h>

#include "tests/coherence/explore.h"

namespace btd::coherence::model {
namespace {

#ifdef NDEBUG
constexpr std::uint64_t kMaxStates = 10'000'000;
constexpr bool kAll = true;
#else
constexpr std::uint64_t kMaxStates = 3'000;  // a sanitizer is watching
constexpr bool kAll = false;
#endif

using Outcome = std::vector<std::uint8_t>;  // what each node's loads saw, two bits each
constexpr std::uint8_t kX = 0, kY = 1;

Instruction load(std::uint8_t page) { return {Instruction::Do::kLoad, page}; }
Instruction store(std::uint8_t page, std::uint8_t value) {
  return {Instruction::Do::kStore, page, value};
}

std::set<Outcome> outcomes(std::vector<std::vector<Instruction>> programs) {
  Scope scope{.nodes = static_cast<std::uint8_t>(programs.size()),
              .pages = 2,
              .writeback = false,
              .notices = 1,
              .values = true};
  scope.programs = std::move(programs);
  const Exploration found = explore(scope, kMaxStates);
  EXPECT_EQ(found.violation, "") << found.text();
  EXPECT_TRUE(found.is_complete || !kAll);
  return found.outcomes;
}

// The programs are fenced: each instruction takes effect before the next begins.
TEST(CoherenceLitmus, StoreBuffering) {
  const auto seen = outcomes({{store(kX, 1), load(kY)}, {store(kY, 1), load(kX)}});
  EXPECT_FALSE(seen.contains(Outcome{0, 0}));
  EXPECT_EQ(seen.size(), kAll ? 3U : seen.size());
}

TEST(CoherenceLitmus, MessagePassing) {
  const auto seen = outcomes({{store(kX, 1), store(kY, 1)}, {load(kY), load(kX)}});
  EXPECT_FALSE(seen.contains(Outcome{0, 0b0100}));
  EXPECT_EQ(seen.size(), kAll ? 3U : seen.size());
}

TEST(CoherenceLitmus, LoadBuffering) {
  const auto seen = outcomes({{load(kX), store(kY, 1)}, {load(kY), store(kX, 1)}});
  EXPECT_FALSE(seen.contains(Outcome{1, 1}));
  EXPECT_EQ(seen.size(), kAll ? 3U : seen.size());
}

// Two loads of one page never see its stores in the other order.
TEST(CoherenceLitmus, LoadsOfOnePage) {
  const auto seen = outcomes({{store(kX, 1), store(kX, 2)}, {load(kX), load(kX)}});
  for (const auto backwards : std::initializer_list<std::uint8_t>{0b0100, 0b1000, 0b1001})
    EXPECT_FALSE(seen.contains(Outcome{0, backwards}));
  EXPECT_EQ(seen.size(), kAll ? 6U : seen.size());
}

}  // namespace
}  // namespace btd::coherence::model
