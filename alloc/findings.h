// What an offline check reports, of whatever it checks: findings, and how many there are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace btd {

enum class Severity : std::uint8_t {
  kNote,     // what a crash may leave, and the next use puts in order by itself
  kProblem,  // what no crash leaves: damage, or a fault of a program
};

struct Finding {
  Severity severity = Severity::kProblem;
  std::string sentence;
  bool repaired = false;
};

struct CheckCounts {
  // In the order of finding. At most kMaxFindings are kept; the counts below are of all.
  std::vector<Finding> findings;
  std::uint64_t notes = 0;
  std::uint64_t repaired = 0;
  std::uint64_t uncorrected = 0;  // problems

  static constexpr std::size_t kMaxFindings = 1000;
};

}  // namespace btd
