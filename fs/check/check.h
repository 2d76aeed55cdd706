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
#include <vector>

#include "alloc/result.h"

namespace btd {

enum class Severity {
  kNote,     // what a crash may leave and the next mount puts in order by itself
  kProblem,  // what no crash leaves: damage, or a fault of a program
};

struct Finding {
  Severity severity = Severity::kProblem;
  std::string sentence;
  bool repaired = false;
};

struct CheckReport {
  // In the order of finding. At most kMaxFindings are kept; the counts below are of all.
  std::vector<Finding> findings;
  std::uint64_t notes = 0;
  std::uint64_t repaired = 0;     // problems
  std::uint64_t uncorrected = 0;  // problems

  std::uint64_t files = 0, directories = 0, symlinks = 0, others = 0;  // inodes
  std::uint64_t entries = 0;
  std::uint64_t xattrs = 0;
  std::uint64_t orphans = 0;
  std::uint64_t backing_files = 0;
  std::uint64_t backing_bytes = 0;          // allocated
  std::uint64_t files_without_backing = 0;  // they are empty, which is no fault
  std::uint64_t heap_blocks = 0;            // that the map uses
  std::uint64_t heap_bytes = 0;

  static constexpr std::size_t kMaxFindings = 1000;
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
[[nodiscard]] CheckExit exit_of(const Result<CheckReport>& result);

// Errors are operational: no pool is there, it is in use, it has another version, it cannot be
// read. Damage is no error but a finding.
Result<CheckReport> check_pool(const std::string& path, const CheckOptions& options);

}  // namespace btd
