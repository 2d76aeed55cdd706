// SPDX-License-Identifier: BSD-3-Clause
// power_load files|heap DIRECTORY [--acknowledged K] [--ahead N] [--operations N] [--reports FILE]
// First verifies what DIRECTORY holds: K operations that were acknowledged before a power cut,
// whole, and of what came after them each whole or not at all. Then does N more (default: none),
// each reported to FILE (default: standard output) before the next begins. Exit code: 0; 1 what is
// there is wrong, or an operation failed; 2 usage.
#include <fcntl.h>

#include <cinttypes>

#include "tests/stress/stress_util.h"
#include "tests/vm/guest/load.h"

namespace btd::vm {

namespace {

constexpr const char* kUsage =
    "power_load files|heap DIRECTORY [--acknowledged K] [--ahead N] [--operations N] "
    "[--reports FILE]";
// What may be done and unheard of: the serial port's queue, and one operation.
constexpr std::uint64_t kAhead = 2048;

Status tell(int fd, const std::string& line) {
  if (write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size())) return {};
  return fail(errno, std::string("the report cannot be written: ") + std::strerror(errno));
}

Status run(const std::string& kind, const stress::Options& options, int reports) {
  const std::string directory = options.Positional(1);
  auto opened = kind == "files" ? open_file_load(directory) : open_heap_load(directory);
  BTD_ASSIGN(const std::unique_ptr<Load> load, std::move(opened));
  const std::uint64_t acknowledged = options.Number("acknowledged", 0);
  BTD_ASSIGN(std::uint64_t count, load->verify(acknowledged, options.Number("ahead", kAhead)));
  BTD_TRY(tell(reports, "@btd fact " + kind + " " + std::to_string(count) + "\n"));
  for (std::uint64_t left = options.Number("operations", 0); left > 0; --left) {
    BTD_TRY(load->step());
    BTD_TRY(tell(reports, "@btd ack " + kind + " " + std::to_string(++count) + "\n"));
  }
  return {};
}

int main_of(int argc, char** argv) {
  const stress::Options options(argc, argv, kUsage);
  const std::string kind = options.Positional(0);
  if (kind != "files" && kind != "heap") {
    std::fprintf(stderr, "usage: %s\n", kUsage);
    return 2;
  }
  const std::string path = options.Text("reports", "");
  const stress::Fd reports(path.empty()
                               ? dup(STDOUT_FILENO)
                               : open(path.c_str(), O_WRONLY | O_APPEND | O_NOCTTY | O_CLOEXEC));
  if (!reports.valid()) {
    std::fprintf(stderr, "%s: %s\n", path.c_str(), std::strerror(errno));
    return 2;
  }
  const Status status = run(kind, options, reports.get());
  if (status) return 0;
  std::fprintf(stderr, "power_load %s: %s\n", kind.c_str(), status.error().message.c_str());
  return 1;
}

}  // namespace

}  // namespace btd::vm

int main(int argc, char** argv) { return btd::vm::main_of(argc, argv); }
