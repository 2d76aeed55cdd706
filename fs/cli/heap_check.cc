// btd heap check: verifies a heap that no program has open. Exit codes are those of fsck(8).
#include "libbtd/tools/heap_check.h"

#include <fmt/format.h>

#include "fs/cli/check_output.h"
#include "fs/cli/heap.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd heap check default
  btd heap check /srv/heaps/index --repair
  cp -r /srv/heaps/index /tmp/copy && btd heap check /tmp/copy

No program may have the heap open; a copy of its directory may be checked at any time. Without
--repair nothing changes. --repair recovers a heap that was not closed, and reclaims what no root
reaches, as the next open would; damage cannot be mended, as it is written down once.
Exit codes, as fsck's: 0 clean, 1 something was repaired, 4 problems are left, 8 the check could
not be made, 16 wrong arguments.)";

bool is_note(const Finding& finding) { return finding.severity == Severity::kNote; }

nlohmann::ordered_json to_json(const HeapReport& report) {
  return report_json(report, {{"arenas", report.arenas},
                              {"segments", report.segments},
                              {"roots", report.roots},
                              {"types", report.types},
                              {"recoverable_blocks", report.recoverable_blocks},
                              {"recoverable_bytes", report.recoverable_bytes},
                              {"transactional_blocks", report.transactional_blocks},
                              {"transactional_bytes", report.transactional_bytes},
                              {"unreached_blocks", report.unreached_blocks},
                              {"unreached_bytes", report.unreached_bytes},
                              {"lost_blocks", report.lost_blocks},
                              {"lost_bytes", report.lost_bytes}});
}

void print_report(const HeapReport& report, const std::string& heap) {
  for (const Finding& finding : report.findings) {
    if (finding.repaired) {
      fmt::print("{} {}\n", paint(stdout, Colour::kYellow, "repaired:"), finding.sentence);
    } else if (is_note(finding)) {
      fmt::print("note: {}\n", finding.sentence);
    } else {
      fmt::print("{} {}\n", paint(stdout, Colour::kRed, "problem:"), finding.sentence);
    }
  }
  print_left_out(report);
  fmt::print("{} of contract R in {} objects, {} of P and T in {} blocks; {} roots, {} types\n",
             format_size(report.recoverable_bytes), report.recoverable_blocks,
             format_size(report.transactional_bytes), report.transactional_blocks, report.roots,
             report.types);
  if (report.uncorrected != 0) {
    fmt::print("{}: {}, {}\n", heap, paint(stdout, Colour::kRed, "problems"), report.uncorrected);
  } else if (report.repaired != 0) {
    fmt::print("{}: {}\n", heap, paint(stdout, Colour::kYellow, "repaired"));
  } else {
    fmt::print("{}: {}\n", heap, paint(stdout, Colour::kGreen, "clean"));
  }
}

class HeapCheckCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("HEAP", heap_, kHeapArgument);
    take.flag("--repair", repair_, "Recover it, and reclaim what no root reaches");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    return finish_check(check(), json_, to_json,
                        [&](const HeapReport& report) { print_report(report, heap_); });
  }

  [[nodiscard]] int usage_exit_code() const override { return static_cast<int>(CheckExit::kUsage); }

 private:
  [[nodiscard]] Result<HeapReport> check() const {
    BTD_ASSIGN(const std::string path, heap_path(heap_));
    ProgressBar bar("Checking");
    const HeapCheckOptions options{
        .repair = repair_, .progress = [&](std::string_view phase) { bar.show(phase, 0, 0); }};
    return check_heap(path, options);
  }

  std::string heap_;
  bool repair_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_heap_check_command() { return std::make_unique<HeapCheckCommand>(); }

}  // namespace btd::cli
