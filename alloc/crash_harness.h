// CrashHarness: crashes a workload at every fence, recovers, and checks an invariant.
//
// The workload runs once, on an EmulatedNvram. At the entry of each of its fences, and at its end,
// the harness builds crash images for several seeds, each on another region at another address, and
// calls `check` on it: check opens (recovers) and compares with what the workload had been told.
// The fences of that recovery are crash points again, one level deep. The workload is never
// unwound.
//
//   CrashHarness harness({.seeds = 3});
//   const auto report = harness.run(setup, workload, check);
//   EXPECT_TRUE(report.ok()) << report.summary();
//
// `check` runs in the middle of the workload's call, on a thread of its own while the workload's
// waits; it may read the workload's model but not its heap.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "alloc/emulator.h"

namespace btd {

class CrashHarness {
 public:
  struct Options {
    std::uint64_t arena_bytes = 1 << 20;
    std::uint32_t max_arenas = 1;
    unsigned seeds = 3;            // crash images a crash point
    std::uint64_t seed = 1;        // of everything random
    double probability = 1.0;      // of a fence to be a crash point: lower it for long workloads
    bool nested = true;            // crash in recovery too
    Mutation mutation{};           // of the workload's flushes and fences
    std::size_t max_failures = 1;  // after so many, the workload runs on without crashes
  };
  struct Report {
    std::uint64_t fences = 0;   // of the workload
    std::uint64_t flushes = 0;  // of the workload
    std::uint64_t crashes = 0;  // images checked
    std::uint64_t nested = 0;   // images checked that crashed in recovery
    std::vector<std::string> failures;

    [[nodiscard]] bool ok() const { return failures.empty() && crashes > 0; }
    [[nodiscard]] std::string summary() const;
  };
  using Step = std::function<Status(ArenaSource&)>;

  explicit CrashHarness(Options options) : options_(options), random_(options.seed) {}

  // `setup` is not crashed. Every step returns an error to say what is wrong.
  Report run(const Step& setup, const Step& workload, const Step& check);

 private:
  Status make_regions();
  void crash_here(const Step& check);
  static Status run_apart(const Step& check, ArenaSource& region);
  void check_image(const Step& check, const std::string& where);
  [[nodiscard]] bool enough() const { return report_.failures.size() >= options_.max_failures; }
  [[nodiscard]] bool chosen();

  const Options options_;
  std::mt19937_64 random_;
  Report report_;
  std::unique_ptr<EmulatedNvram> region_;        // the workload's
  std::unique_ptr<EmulatedNvram> image_;         // after a crash
  std::unique_ptr<EmulatedNvram> nested_image_;  // after a crash in the recovery of image_
};

}  // namespace btd
