// btd check: verifies a pool that is not mounted, and repairs it. Exit codes are those of fsck(8).
#include "fs/check/check.h"

#include <fmt/format.h>

#include "fs/cli/check_output.h"
#include "fs/cli/command.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd check /var/lib/bartender
  btd check /var/lib/bartender --repair
  btd check /var/lib/bartender --json | jq .uncorrected

The pool must not be mounted. Without --repair nothing on it changes.
Exit codes, as fsck's: 0 clean, 1 problems were repaired, 4 problems are left, 8 the check could
not be made, 16 wrong arguments.)";

nlohmann::ordered_json to_json(const CheckReport& report) {
  return report_json(report, {{"files", report.files},
                              {"directories", report.directories},
                              {"symlinks", report.symlinks},
                              {"others", report.others},
                              {"entries", report.entries},
                              {"xattrs", report.xattrs},
                              {"orphans", report.orphans},
                              {"backing_files", report.backing_files},
                              {"backing_bytes", report.backing_bytes},
                              {"files_without_backing", report.files_without_backing},
                              {"heap_blocks", report.heap_blocks},
                              {"heap_bytes", report.heap_bytes}});
}

void print_finding(const Finding& finding) {
  if (finding.severity == Severity::kNote) {
    fmt::print("note: {}\n", finding.sentence);
    return;
  }
  const Colour colour = finding.repaired ? Colour::kYellow : Colour::kRed;
  fmt::print("{} {}\n", paint(stdout, colour, finding.repaired ? "repaired:" : "problem:"),
             finding.sentence);
}

void print_report(const CheckReport& report, const std::string& pool) {
  for (const Finding& finding : report.findings) print_finding(finding);
  print_left_out(report);
  fmt::print("{} files, {} directories, {} symbolic links, {} others; {} entries, {} attributes\n",
             report.files, report.directories, report.symlinks, report.others, report.entries,
             report.xattrs);
  fmt::print("{} in {} backing files; {} of metadata in {} blocks\n",
             format_size(report.backing_bytes), report.backing_files,
             format_size(report.heap_bytes), report.heap_blocks);
  if (report.uncorrected != 0) {
    fmt::print("{}: {}, {} left; `btd check --repair` mends what can be mended\n", pool,
               paint(stdout, Colour::kRed, "problems"), report.uncorrected);
  } else if (report.repaired != 0) {
    fmt::print("{}: {}, {} problems\n", pool, paint(stdout, Colour::kYellow, "repaired"),
               report.repaired);
  } else {
    fmt::print("{}: {}\n", pool, paint(stdout, Colour::kGreen, "clean"));
  }
}

class CheckCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("POOL", pool_, "The pool");
    take.flag("--repair", repair_, "Mend what can be mended");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string pool, absolute_path(pool_));
    return finish_check(check(pool), json_, to_json,
                        [&](const CheckReport& report) { print_report(report, pool); });
  }

  // As fsck says it.
  [[nodiscard]] int usage_exit_code() const override { return static_cast<int>(CheckExit::kUsage); }

 private:
  [[nodiscard]] Result<CheckReport> check(const std::string& pool) const {
    ProgressBar bar("Checking");
    CheckOptions options;
    options.repair = repair_;
    options.progress = [&bar](std::string_view phase, std::uint64_t done, std::uint64_t total) {
      bar.show(phase, done, total);
    };
    return check_pool(pool, options);
  }

  std::string pool_;
  bool repair_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_check_command() { return std::make_unique<CheckCommand>(); }

}  // namespace btd::cli
