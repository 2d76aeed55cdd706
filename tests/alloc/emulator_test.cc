// The emulator itself: what a crash may keep and must not lose.
#include "alloc/emulator.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "alloc/crash_harness.h"

namespace btd {
namespace {

std::uint64_t load(EmulatedNvram& region, std::size_t at) {
  std::uint64_t value = 0;
  std::memcpy(&value, region.base() + at, sizeof(value));
  return value;
}
void store(EmulatedNvram& region, std::size_t at, std::uint64_t value) {
  std::memcpy(region.base() + at, &value, sizeof(value));
}

class Emulator : public testing::Test {
 protected:
  void SetUp() override {
    region_ = std::move(*EmulatedNvram::create(kSegmentBytes, 2));
    image_ = std::move(*EmulatedNvram::create(kSegmentBytes, 2));
  }
  // All the values that `count` words at `at` took, over many crashes.
  std::set<std::vector<std::uint64_t>> outcomes(std::size_t at, std::size_t count) {
    std::set<std::vector<std::uint64_t>> seen;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      region_->crash_into(*image_, seed);
      std::vector<std::uint64_t> words;
      for (std::size_t i = 0; i < count; ++i) words.push_back(load(*image_, at + i * 8));
      seen.insert(words);
    }
    return seen;
  }

  std::unique_ptr<EmulatedNvram> region_;
  std::unique_ptr<EmulatedNvram> image_;
};

TEST_F(Emulator, FencedLinesAlwaysSurvive) {
  store(*region_, 64, 5);
  ASSERT_TRUE(region_->persist().persist(region_->base() + 64, 8));
  EXPECT_EQ(outcomes(64, 1), (std::set<std::vector<std::uint64_t>>{{5}}));
}

TEST_F(Emulator, UnfencedLinesAreDroppedEvictedOrTornAtWords) {
  store(*region_, 0, 1);
  store(*region_, 8, 2);
  EXPECT_EQ(outcomes(0, 2), (std::set<std::vector<std::uint64_t>>{{0, 0}, {1, 0}, {0, 2}, {1, 2}}));
  region_->persist().flush(region_->base(), 16);
  EXPECT_EQ(outcomes(0, 2).size(), 4U);
}

TEST_F(Emulator, AFenceMakesDurableWhatTheFlushSaw) {
  store(*region_, 0, 1);
  region_->persist().flush(region_->base(), 8);
  store(*region_, 0, 2);
  ASSERT_TRUE(region_->persist().drain());
  EXPECT_EQ(outcomes(0, 1), (std::set<std::vector<std::uint64_t>>{{1}, {2}}));
}

TEST_F(Emulator, AFenceOfAnotherThreadDoesNotCount) {
  store(*region_, 0, 1);
  region_->persist().flush(region_->base(), 8);
  std::thread([&] { EXPECT_TRUE(region_->persist().drain()); }).join();
  EXPECT_EQ(outcomes(0, 1).size(), 2U);
}

TEST_F(Emulator, AnArenaThatARecoveryAddsIsZero) {
  ASSERT_TRUE(image_->extend());
  store(*image_, kSegmentBytes, 9);
  ASSERT_TRUE(image_->persist().persist(image_->base() + kSegmentBytes, 8));
  region_->crash_into(*image_, 1);
  EXPECT_EQ(image_->count(), 1U);
  ASSERT_TRUE(image_->extend());
  EXPECT_EQ(load(*image_, kSegmentBytes), 0U);
}

TEST_F(Emulator, MutationsDoWhatTheySay) {
  struct Case {
    Mutation::Kind kind;
    std::size_t outcomes_after_one_fence;
    std::size_t outcomes_after_two_fences;
  };
  for (const Case& each :
       {Case{Mutation::Kind::kIgnoreFlush, 2, 2}, Case{Mutation::Kind::kSkipFence, 2, 1},
        Case{Mutation::Kind::kDelayFlush, 2, 1}}) {
    SetUp();
    region_->arm({.kind = each.kind, .at = 1});
    store(*region_, 0, 1);
    ASSERT_TRUE(region_->persist().persist(region_->base(), 8));
    EXPECT_EQ(outcomes(0, 1).size(), each.outcomes_after_one_fence);
    ASSERT_TRUE(region_->persist().drain());
    EXPECT_EQ(outcomes(0, 1).size(), each.outcomes_after_two_fences);
  }
}

TEST(CrashHarness, CrashesAtEveryFenceAndInRecovery) {
  CrashHarness harness({.arena_bytes = kSegmentBytes, .seeds = 3});
  const auto nothing = [](ArenaSource&) { return Status{}; };
  const auto report = harness.run(
      nothing,
      [](ArenaSource& source) -> Status {
        for (int i = 0; i < 4; ++i) static_cast<void>(source.persist().drain());
        return {};
      },
      [](ArenaSource& source) -> Status {
        static_cast<void>(source.persist().drain());
        return {};
      });
  EXPECT_EQ(report.fences, 5U);
  EXPECT_EQ(report.nested, 15U);
  EXPECT_EQ(report.crashes, 30U);
}

TEST(CrashHarness, ReportsErrorsOfEveryStep) {
  const auto good = [](ArenaSource&) { return Status{}; };
  const auto bad = [](ArenaSource&) -> Status { return fail(EIO, "bad"); };
  const CrashHarness::Options options{.arena_bytes = kSegmentBytes};
  EXPECT_FALSE(CrashHarness(options).run(bad, good, good).ok());
  EXPECT_FALSE(CrashHarness(options).run(good, bad, good).ok());
  EXPECT_FALSE(CrashHarness(options).run(good, good, bad).ok());
  EXPECT_TRUE(CrashHarness(options).run(good, good, good).ok());
}

}  // namespace
}  // namespace btd
