// Random schedules of three and four nodes with sixteen pages. BTD_SCHEDULES says how many,
// BTD_SEED which is the first.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tests/coherence/simulate.h"

namespace btd::coherence::model {
namespace {

#ifdef NDEBUG
constexpr std::uint64_t kSchedules = 100'000;
#else
constexpr std::uint64_t kSchedules = 200;  // a sanitizer is watching
#endif
constexpr std::uint64_t kSteps = 250, kMutated = 200;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

Scope everything() {
  return {.nodes = 4,
          .pages = 16,
          .openers = 2,
          .opening = 2,
          .busy = true,
          .mmap = true,
          .direct_write = true,
          .direct_read = true,
          .resize = true,
          .lose_node = true,
          .refuse_store = true,
          .notices = 4,
          .limits = {.units = {1, 4, 16}, .calm = std::chrono::microseconds(500)}};
}

TEST(CoherenceSchedules, NothingIsStaleOrLost) {
  const std::uint64_t first = from_environment("BTD_SEED", 1);
  const std::uint64_t count = from_environment("BTD_SCHEDULES", kSchedules);
  Scope scope = everything();
  SimulationReport sum;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    scope.nodes = 3 + seed % 2;
    scope.readers = seed % 4 < 2 ? 3 : 0;
    scope.lose_node = seed % 3 == 0;
    const SimulationReport report = simulate(scope, seed, kSteps);
    ASSERT_EQ(report.violation, "") << "seed " << seed;
    sum.steps += report.steps;
    sum.stores += report.stores;
    sum.faults += report.faults;
  }
  std::printf("%llu schedules: %llu steps, %llu faults, %llu stores\n",
              static_cast<unsigned long long>(count), static_cast<unsigned long long>(sum.steps),
              static_cast<unsigned long long>(sum.faults),
              static_cast<unsigned long long>(sum.stores));
  EXPECT_GT(sum.faults, 5 * count);
  EXPECT_GT(sum.stores, count / 2);
}

TEST(CoherenceSchedules, AForgottenSharerIsSeen) {
  Scope scope = everything();
  scope.readers = 3;
  scope.rules.remember_all_sharers = false;
  std::uint64_t seen = 0;
  for (std::uint64_t seed = 1; seed <= kMutated; ++seed)
    seen += simulate(scope, seed, 4 * kSteps).violation.empty() ? 0 : 1;
  EXPECT_GT(seen, 0U);
}

}  // namespace
}  // namespace btd::coherence::model
