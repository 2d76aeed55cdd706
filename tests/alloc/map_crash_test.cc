// The ordered map under the crash harness: at every fence, with torn lines, and in recovery, the
// map is as it was before or after the batch in flight, its structure sound, and no block lost.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "alloc/crash_harness.h"
#include "alloc/embedded_store.h"

namespace btd {
namespace {

constexpr unsigned kSlot = 2;
constexpr Heap::Options kSmallLanes{.lanes = 2, .lane_bytes = 64 * 1024};

struct Plan {
  CrashHarness::Options crash;
  unsigned steps = 150;
  std::uint64_t seed = 1;
  unsigned key_bytes = 60;     // at most; long keys make small fanouts and high trees
  unsigned value_bytes = 300;  // at most
  bool ascending = false;
  Journal::Fault fault = Journal::Fault::kNone;
};

// Random batches, the contents that were acknowledged, and those of the batch in flight.
class Workload {
 public:
  explicit Workload(const Plan& plan) : plan_(plan), rng_(plan.seed) {}

  Status step(EmbeddedStore& store) {
    // Grows for a third, shrinks for a third, then grows again.
    const bool shrink = step_ * 3 / plan_.steps == 1;
    ++step_;
    Batch batch;
    next_ = now_;
    for (std::uint64_t n = 1 + rng_() % 6; n > 0; --n) {
      const std::string key = pick_key();
      if (rng_() % 8 < (shrink ? 7U : 1U)) {
        batch.erase(key);
        next_.erase(key);
      } else {
        const std::string value(rng_() % (plan_.value_bytes + 1), static_cast<char>(rng_()));
        batch.put(key, value);
        next_[key] = value;
      }
    }
    in_flight_ = true;
    BTD_TRY(store.commit(batch));
    in_flight_ = false;
    now_ = next_;
    return {};
  }

  Status judge(Heap& heap) const {
    BTD_ASSIGN(const auto store, EmbeddedStore::open(heap, kSlot));
    std::uint64_t used = 0;
    const auto report = store->check([&](Offset block, std::size_t) {
      if (const auto bytes = heap.block_bytes(block)) used += *bytes;
    });
    if (!report.damage.empty()) return fail(EIO, report.damage.front());
    if (used != heap.stats().used_bytes)
      return fail(EIO, "leak: " + std::to_string(heap.stats().used_bytes) + " bytes in use, " +
                           std::to_string(used) + " of the map");
    std::map<std::string, std::string> found;
    BTD_TRY(store->scan({}, {}, [&](std::string_view k, std::string_view v) {
      found.emplace(k, v);
      return true;
    }));
    if (found == now_ || (in_flight_ && found == next_)) return {};
    return fail(EIO, "the map is neither before nor after the batch");
  }

 private:
  std::string pick_key() {
    if (rng_() % 2 == 0 && !now_.empty()) {
      auto it = now_.begin();
      std::advance(it, rng_() % now_.size());
      return it->first;
    }
    if (plan_.ascending) {
      std::string digits = std::to_string(ascending_++);
      return "inode" + std::string(8 - digits.size(), '0') + digits;
    }
    std::string key(1 + rng_() % plan_.key_bytes, 'k');
    for (std::size_t i = rng_() % key.size(); i < key.size(); ++i)
      key[i] = static_cast<char>('a' + rng_() % 20);
    return key;
  }

  const Plan plan_;
  std::mt19937_64 rng_;
  unsigned step_ = 0;
  unsigned ascending_ = 0;
  bool in_flight_ = false;
  std::map<std::string, std::string> now_;
  std::map<std::string, std::string> next_;
};

CrashHarness::Report run(const Plan& plan) {
  Workload work(plan);
  CrashHarness harness(plan.crash);
  return harness.run(
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        BTD_TRY(EmbeddedStore::create(*heap, kSlot));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        heap->inject(plan.fault);
        BTD_ASSIGN(auto store, EmbeddedStore::open(*heap, kSlot));
        for (unsigned i = 0; i < plan.steps; ++i) BTD_TRY(work.step(*store));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        return work.judge(*heap);
      });
}

TEST(MapCrash, SplitsAndMergesAtEveryFence) {
  const auto report = run({.steps = 150, .seed = 1});
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GT(report.nested, 300U) << report.summary();
}

TEST(MapCrash, HighTreesAtEveryFence) {
  const auto report = run({.steps = 120, .seed = 2, .key_bytes = 512, .value_bytes = 900});
  EXPECT_TRUE(report.ok()) << report.summary();
}

TEST(MapCrash, AscendingKeysAtEveryFence) {
  const auto report = run({.steps = 150, .seed = 3, .ascending = true});
  EXPECT_TRUE(report.ok()) << report.summary();
}

TEST(MapCrash, LargeValuesAtEveryFence) {
  const auto report =
      run({.crash = {.arena_bytes = 4 << 20}, .steps = 60, .seed = 4, .value_bytes = 20000});
  EXPECT_TRUE(report.ok()) << report.summary();
}

TEST(MapCrash, RandomCrashPointsOfALongRun) {
  const auto report =
      run({.crash = {.arena_bytes = 2 << 20, .seeds = 3, .seed = 5, .probability = 0.05},
           .steps = 2500,
           .seed = 5});
  EXPECT_TRUE(report.ok()) << report.summary();
  EXPECT_GT(report.crashes, 200U) << report.summary();
}

TEST(MapCrash, CreateAtEveryFence) {
  bool done = false;
  CrashHarness harness({.seeds = 6});
  const auto report = harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kSmallLanes));
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        BTD_TRY(EmbeddedStore::create(*heap, kSlot));
        done = true;
        return heap->close();
      },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        const auto store = EmbeddedStore::open(*heap, kSlot);
        if (store) return (*store)->check().damage.empty() ? Status{} : fail(EIO, "damaged");
        if (done) return fail(EIO, "the map is gone: " + store.error().message);
        if (store.error().code != ENOENT) return fail(EIO, store.error().message);
        return heap->stats().used_bytes == 0 ? Status{} : fail(EIO, "leak");
      });
  EXPECT_TRUE(report.ok()) << report.summary();
}

// What the tests above would say if the protocol below were broken.
TEST(MapCrash, HarnessSeesAFaultyProtocol) {
  for (const auto fault :
       {Journal::Fault::kApplyBeforeCommit, Journal::Fault::kWatermarkBeforeFlush}) {
    const auto report =
        run({.crash = {.seeds = 6, .nested = false}, .steps = 200, .seed = 6, .fault = fault});
    EXPECT_FALSE(report.ok()) << static_cast<int>(fault) << ": " << report.summary();
  }
}

}  // namespace
}  // namespace btd
