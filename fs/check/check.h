// Offline check of a pool, like fsck(8): superblock, heap, namespace, backing files.
//
// It takes the pool's lock. Without repair it opens the pool read-only and changes nothing; with
// repair it replays the journal first, as a mount would.
// Thread-safety: one check of one pool at a time, which the lock ensures.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "alloc/findings.h"
#include "alloc/result.h"

namespace btd {

// `repaired` counts problems.
struct CheckReport : CheckCounts {
  std::uint64_t files = 0, directories = 0, symlinks = 0, others = 0;  // inodes
  std::uint64_t entries = 0;
  std::uint64_t xattrs = 0;
  std::uint64_t orphans = 0;
  std::uint64_t backing_files = 0;
  std::uint64_t backing_bytes = 0;          // allocated
  std::uint64_t files_without_backing = 0;  // they are empty, which is no fault
  std::uint64_t heap_blocks = 0;            // that the map uses
  std::uint64_t heap_bytes = 0;
};

// `done` of `total`; total 0: not known. Called often; the callee decides what to show.
using CheckProgress =
    std::function<void(std::string_view phase, std::uint64_t done, std::uint64_t total)>;

struct CheckOptions {
  bool repair = false;
  CheckProgress progress;
};

// As fsck(8) exits. kUsage is the command line's.
enum class CheckExit : int {
  kClean = 0,
  kRepaired = 1,
  kUncorrected = 4,
  kOperational = 8,
  kUsage = 16
};
[[nodiscard]] inline CheckExit exit_of(const CheckCounts& report) {
  if (report.uncorrected != 0) return CheckExit::kUncorrected;
  return report.repaired != 0 ? CheckExit::kRepaired : CheckExit::kClean;
}
template <class Report>
[[nodiscard]] CheckExit exit_of(const Result<Report>& result) {
  return result ? exit_of(*result) : CheckExit::kOperational;
}

// Errors are operational: no pool is there, it is in use, it has another version, it cannot be
// read. Damage is no error but a finding.
Result<CheckReport> check_pool(const std::string& path, const CheckOptions& options);

}  // namespace btd
