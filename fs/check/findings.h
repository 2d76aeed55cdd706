// Findings: collects what the passes of a check find, over several rounds of repair.
//
// A round finds and repairs; the next one looks again, because a repair may bring up what follows
// from it. What was repaired counts from every round, what was not only from the last one.
#pragma once

#include <string>
#include <vector>

#include "fs/check/check.h"

namespace btd {

class Findings {
 public:
  Findings(CheckReport& report, const CheckOptions& options) : report_(report), options_(options) {}

  void note(std::string sentence, bool repaired = false) {
    add({Severity::kNote, std::move(sentence), repaired});
  }
  void problem(std::string sentence, bool repaired = false) {
    add({Severity::kProblem, std::move(sentence), repaired});
  }

  [[nodiscard]] bool repair() const { return options_.repair; }
  void progress(std::string_view phase, std::uint64_t done, std::uint64_t total) const {
    if (options_.progress) options_.progress(phase, done, total);
  }
  CheckReport& counts() { return report_; }

  // Keeps what was found so far: later rounds do not look at it again.
  void settle() {
    for (Finding& finding : open_) keep(std::move(finding));
    report_.uncorrected += open_problems_;
    report_.notes += open_notes_;
    begin_round();
  }
  // Forgets what the last round found and did not repair: this one finds it again.
  void begin_round() {
    open_.clear();
    open_problems_ = open_notes_ = fixed_ = 0;
  }
  // Whether another round is worth it: something was repaired in this one.
  [[nodiscard]] bool changed() const { return fixed_ != 0; }

 private:
  void add(Finding finding) {
    const bool problem = finding.severity == Severity::kProblem;
    if (finding.repaired) {
      ++fixed_;
      ++(problem ? report_.repaired : report_.notes);
      keep(std::move(finding));
      return;
    }
    ++(problem ? open_problems_ : open_notes_);
    if (open_.size() < CheckReport::kMaxFindings) open_.push_back(std::move(finding));
  }
  void keep(Finding finding) {
    if (report_.findings.size() < CheckReport::kMaxFindings)
      report_.findings.push_back(std::move(finding));
  }

  CheckReport& report_;
  const CheckOptions& options_;
  std::vector<Finding> open_;  // of this round, not repaired
  std::uint64_t open_problems_ = 0, open_notes_ = 0, fixed_ = 0;
};

}  // namespace btd
