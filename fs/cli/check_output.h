// What the commands that check share: exit codes as fsck(8)'s, findings as JSON, the last lines.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "fs/check/check.h"
#include "fs/cli/terminal.h"

namespace btd::cli {

// The counts and findings of a report, with its own figures between them.
inline nlohmann::ordered_json report_json(const CheckCounts& report,
                                          const nlohmann::ordered_json& figures) {
  nlohmann::ordered_json out = {
      {"notes", report.notes}, {"repaired", report.repaired}, {"uncorrected", report.uncorrected}};
  out.update(figures);
  out["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : report.findings) {
    out["findings"].push_back(
        {{"severity", finding.severity == Severity::kNote ? "note" : "problem"},
         {"sentence", finding.sentence},
         {"repaired", finding.repaired}});
  }
  return out;
}

// How many findings a long report left out.
inline void print_left_out(const CheckCounts& report) {
  const std::uint64_t all = report.notes + report.repaired + report.uncorrected;
  if (all > report.findings.size())
    fmt::print("and {} more findings\n", all - report.findings.size());
}

// Shows the report, or why there is none; returns the exit code. to_json(report), print(report).
template <class Report, class ToJson, class Print>
int finish_check(const Result<Report>& report, bool json, ToJson&& to_json, Print&& print) {
  if (!report) {
    print_error("btd", report.error().message);
  } else if (json) {
    fmt::print("{}\n",
               to_json(*report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print(*report);
  }
  return static_cast<int>(exit_of(report));
}

}  // namespace btd::cli
