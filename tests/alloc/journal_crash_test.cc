// The journal alone under the crash harness: several lanes, several threads, wrap-arounds,
// recovery.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "alloc/crash_harness.h"
#include "alloc/journal.h"
#include "tests/alloc/pinned.h"

namespace btd {
namespace {

constexpr Offset kWhere = kPageBytes;
constexpr Journal::Geometry kGeometry{.lanes = 3, .lane_bytes = 1024};
constexpr Offset kData = kWhere + sizeof(JournalHeader) + 3 * 1024;
constexpr std::size_t kThreads = 3;

Offset word_of(std::size_t thread, std::size_t which) {
  return kData + (thread * 4 + which) * kPageBytes / 2 + which * 8;
}
constexpr Offset kShared = kData + 30 * 1024;

struct Model {
  std::array<std::atomic<std::uint64_t>, kThreads> started{};
  std::array<std::atomic<std::uint64_t>, kThreads> acked{};
};

std::uint64_t load(ArenaSource& source, Offset at) {
  std::uint64_t value = 0;
  std::memcpy(&value, source.base() + at, sizeof(value));
  return value;
}

HeapShared& shared(ArenaSource& source) {
  return reinterpret_cast<ArenaHeader*>(source.base())->heap;
}

// As the only user of the region.
Result<std::unique_ptr<Journal>> open_journal(ArenaSource& source) {
  static Users one;
  static const SharedLock::Context context{one, [](unsigned) {}};
  BTD_ASSIGN(auto journal,
             Journal::open(source.persist(), source.base(), kWhere, shared(source), context));
  BTD_TRY(journal->recover(source.arena_bytes()));
  return journal;
}

Status checkpoint(Journal& journal) {
  std::vector<Slot> ripe;
  return journal.checkpoint(ripe);
}

Result<std::uint64_t> commit(Journal& journal, Record& record) {
  for (;;) {
    Result<std::uint64_t> seq = journal.commit(record);
    if (seq || seq.error().code != EAGAIN) return seq;
    BTD_TRY(checkpoint(journal));
  }
}

Status format(ArenaSource& source) {
  Journal::format(source.persist(), source.base() + kWhere, kGeometry);
  return source.persist().drain() ? Status{} : source.persist().health();
}

// Each thread counts up in two words of its own and flips a bit of a word that all share.
Status count_up(Journal& journal, Model& model, std::size_t thread, int rounds) {
  Record record;
  for (int i = 1; i <= rounds; ++i) {
    const auto value = static_cast<std::uint64_t>(i);
    record.clear();
    record.set64(word_of(thread, 0), value);
    std::array<std::uint64_t, 9> run{};
    run.fill(value);
    record.bytes(word_of(thread, 1), run.data(), sizeof(run));
    const std::uint64_t bit = std::uint64_t{1} << thread;
    if (value % 2 == 1) {
      record.or64(kShared, bit);
    } else {
      record.and64(kShared, ~bit);
    }
    model.started[thread] = value;
    BTD_TRY(commit(journal, record));
    model.acked[thread] = value;
  }
  return {};
}

Status check(ArenaSource& source, const Model& model) {
  std::array<std::uint64_t, kThreads> acked{};
  for (std::size_t t = 0; t < kThreads; ++t) acked[t] = model.acked[t];
  BTD_ASSIGN(auto journal, open_journal(source));
  for (std::size_t t = 0; t < kThreads; ++t) {
    const std::uint64_t value = load(source, word_of(t, 0));
    if (value < acked[t]) return fail(EIO, "an acknowledged record is lost");
    if (value > model.started[t]) return fail(EIO, "a record from nowhere");
    for (std::size_t i = 0; i < 9; ++i) {
      if (load(source, word_of(t, 1) + i * 8) != value) return fail(EIO, "half a record");
    }
    if ((load(source, kShared) >> t & 1U) != value % 2) return fail(EIO, "a shared bit is wrong");
  }
  // It must go on: a record committed now survives its own checkpoint.
  Record record;
  record.clear();
  record.set64(kShared + 64, 1);
  BTD_TRY(commit(*journal, record));
  return checkpoint(*journal);
}

CrashHarness::Report run(CrashHarness::Options options, std::size_t threads, int rounds,
                         Journal::Fault fault = Journal::Fault::kNone) {
  Model model;
  CrashHarness harness(options);
  return harness.run(
      format,
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto journal, open_journal(source));
        journal->inject(fault);
        std::vector<std::thread> others;
        std::atomic<bool> failed{false};
        for (std::size_t t = 1; t < threads; ++t) {
          others.emplace_back([&, t] {
            if (!count_up(*journal, model, t, rounds)) failed = true;
          });
        }
        const Status own = count_up(*journal, model, 0, rounds);
        for (std::thread& other : others) other.join();
        return failed ? fail(EIO, "a thread failed") : own;
      },
      [&](ArenaSource& source) { return check(source, model); });
}

constexpr std::uint64_t kSmallRegion = 64 * 1024;

TEST(JournalCrash, EveryFenceOfOneThread) {
  const auto report = run({.arena_bytes = kSmallRegion, .seeds = 5}, 1, 120);
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GT(report.nested, 1000U) << report.summary();
}

TEST(JournalCrash, EveryFenceOfSeveralThreads) {
  const auto report = run({.arena_bytes = kSmallRegion, .seeds = 3}, kThreads, 80);
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GT(report.crashes, 500U) << report.summary();
}

TEST(JournalCrash, HarnessSeesAFaultyProtocol) {
  const test::PinnedThread pinned;
  for (const auto fault :
       {Journal::Fault::kApplyBeforeCommit, Journal::Fault::kWatermarkBeforeFlush}) {
    const auto report = run({.arena_bytes = kSmallRegion, .seeds = 5}, 1, 60, fault);
    EXPECT_FALSE(report.ok()) << static_cast<int>(fault);
  }
}

TEST(JournalCrash, HarnessSeesEveryDroppedRecordFlush) {
  const test::PinnedThread pinned;
  // The first commits: each is one flush and one fence.
  for (std::uint64_t n = 1; n <= 4; ++n) {
    for (const auto kind :
         {Mutation::Kind::kIgnoreFlush, Mutation::Kind::kSkipFence, Mutation::Kind::kDelayFlush}) {
      const auto report = run(
          {.arena_bytes = kSmallRegion, .seeds = 12, .mutation = {.kind = kind, .at = n}}, 1, 8);
      EXPECT_FALSE(report.ok()) << "flush or fence " << n << ", kind " << static_cast<int>(kind);
    }
  }
}

TEST(JournalCrash, HarnessSeesADroppedCheckpointFence) {
  const test::PinnedThread pinned;
  // One of the fences of the first laps is the checkpoint's; dropping any must be seen.
  const auto sound = run({.arena_bytes = kSmallRegion, .seeds = 1}, 1, 16);
  ASSERT_TRUE(sound.ok());
  for (std::uint64_t n = 1; n < sound.fences; ++n) {
    const auto report = run({.arena_bytes = kSmallRegion,
                             .seeds = 24,
                             .nested = false,
                             .mutation = {.kind = Mutation::Kind::kSkipFence, .at = n}},
                            1, 16);
    EXPECT_FALSE(report.ok()) << "fence " << n << " of " << sound.fences;
  }
}

TEST(Journal, SaysThatACommittedRecordIsDamaged) {
  auto source = EmulatedNvram::create(kSmallRegion, 1);
  ASSERT_TRUE(source);
  ASSERT_TRUE(format(**source));
  Model model;
  {
    auto journal = open_journal(**source);
    ASSERT_TRUE(journal);
    ASSERT_TRUE(count_up(**journal, model, 0, 3));
  }
  std::byte* first = nullptr;  // of the lane that was used
  for (int lane = 0; lane < 3; ++lane) {
    std::byte* at = (*source)->base() + kWhere + sizeof(JournalHeader) + lane * 1024;
    if (at[0] != std::byte{0}) first = at;
  }
  ASSERT_NE(first, nullptr);
  first[40] ^= std::byte{1};
  EXPECT_EQ(open_journal(**source).error().code, EUCLEAN);
}

TEST(Journal, RefusesARecordThatNoLaneHolds) {
  auto source = EmulatedNvram::create(kSmallRegion, 1);
  ASSERT_TRUE(source);
  ASSERT_TRUE(format(**source));
  auto journal = open_journal(**source);
  ASSERT_TRUE(journal);
  Record record;
  record.clear();
  const std::array<std::byte, 1024> data{};
  record.bytes(kData, data.data(), data.size());
  EXPECT_EQ((*journal)->commit(record).error().code, E2BIG);
  EXPECT_EQ((*journal)->commits(), 0U);
}

}  // namespace
}  // namespace btd
