// Simulated schedules with faults: no completion is lost, repeated or out of order, nothing takes
// effect twice or late. BTD_SCHEDULES says how many, BTD_SEED which is the first.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/net/schedule.h"

namespace btd::net::sim {
namespace {

#ifdef NDEBUG
constexpr std::uint64_t kSchedules = 100'000;
#else
constexpr std::uint64_t kSchedules = 500;  // a sanitizer is watching
#endif
constexpr std::uint64_t kForged = 30;  // fewer may show nothing, by chance

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

TEST(NetSchedules, NothingIsLostRepeatedOrReordered) {
  const std::uint64_t first = from_environment("BTD_SEED", 1);
  const std::uint64_t count = from_environment("BTD_SCHEDULES", kSchedules);
  ScheduleReport sum;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    const ScheduleReport report = run_schedule({.seed = seed});
    ASSERT_EQ(report.violation, "");
    sum.completed += report.completed;
    sum.failed += report.failed;
    sum.connections += report.connections;
  }
  std::printf("%llu schedules: %llu operations done, %llu failed as they may, %llu connections\n",
              static_cast<unsigned long long>(count),
              static_cast<unsigned long long>(sum.completed),
              static_cast<unsigned long long>(sum.failed),
              static_cast<unsigned long long>(sum.connections));
  EXPECT_GT(sum.completed, 10 * count);
  EXPECT_GT(sum.failed, count / 10) << "the faults were none";
  EXPECT_GT(sum.connections, 2 * count);
}

// The mutation of the harness: requests that are repeated under a new number take effect twice.
TEST(NetSchedules, ARequestThatRunsTwiceIsSeen) {
  std::uint64_t seen = 0;
  for (std::uint64_t seed = 1; seed <= kForged; ++seed)
    seen += run_schedule({.seed = seed, .forge = true}).violation.empty() ? 0 : 1;
  EXPECT_GT(seen, kForged / 2);
}

}  // namespace
}  // namespace btd::net::sim
