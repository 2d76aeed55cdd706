// btd: the table of its commands, and what all of them share: --help, errors, exit codes.
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string_view>

#include "fs/cli/command.h"
#include "fs/cli/config.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/terminal.h"
#include "fs/cli/version.h"
#include "fs/pool/sentences.h"

namespace btd::cli {
namespace {

struct Entry {
  const char* name;
  const char* summary;  // empty: hidden
  std::unique_ptr<Command> (*make)();
};

constexpr Entry kCommands[] = {
    {"format", "Make a pool", make_format_command},
    {"mount", "Serve a pool at a directory", make_mount_command},
    {"umount", "Stop serving, and close the pool", make_umount_command},
    {"status", "What a mount's daemon says of itself", make_status_command},
    {"df", "How full a mount's pool is", make_df_command},
    {"ls", "List allocations with home, mode, size and extents", make_ls_command},
    {"check", "Verify a pool that is not mounted, and repair it", make_check_command},
    {"heap", "Heaps of programs: list, verify, and see inside", make_heap_command},
    {"net", "Measure the transport between nodes", make_net_command},
    {"cluster", "Nodes that share one namespace", make_cluster_command},
    {"version", "Versions of btd and what it stands on", make_version_command},
    {"worker", "", make_worker_command},
    {"notifier", "", make_notifier_command},
};

constexpr const char* kTour = R"(A first tour, as root:
  btd format /var/lib/bartender --emulate ram --size 1G
  mkdir -p /mnt/bartender && btd mount /var/lib/bartender /mnt/bartender
  cp -a /usr/include /mnt/bartender/ && btd df && btd status
  btd umount
`btd COMMAND --help` explains each command; btd.1 and bartender.7 explain the rest.)";

constexpr const char* kDescription =
    "NVRAM as files that can be mapped, with failure atomicity guaranteed.";

struct Declared {
  Arguments take;
  std::unique_ptr<Command> command;
};

// Says what is wrong and whose --help shows the right way.
int report_usage(const std::vector<Declared>& declared, const std::string& what) {
  const auto named = std::find_if(declared.begin(), declared.end(),
                                  [](const Declared& one) { return one.take.given(); });
  const bool known = named != declared.end();
  print_error("btd", fmt::format("{}; `btd {}--help` shows what it takes", what,
                                 known ? named->take.name() + " " : ""));
  return known ? named->command->usage_exit_code() : kExitUsage;
}

int report(const Error& error) {
  print_error("btd", error.message.empty() ? errno_text(error.code) : error.message);
  return exit_code_for(error.code);
}

int run(int argc, char** argv) {
  Globals globals;
  std::vector<Declared> declared;
  const std::string help = fmt::format("Configuration file (default {})", kDefaultConfig);
  const auto declare = [&](Arguments& take) {
    take.examples(kTour);
    take.option("--config", globals.config, help.c_str());
    for (const Entry& entry : kCommands) {
      declared.push_back({take.command(entry.name, entry.summary), entry.make()});
      declared.back().command->declare(declared.back().take);
    }
  };
  const Parsed parsed =
      parse_arguments(argc, argv, kDescription, std::string("btd ") + kVersion, declare);
  if (parsed.exit_code) return *parsed.exit_code;
  if (!parsed.fault.empty()) return report_usage(declared, parsed.fault);
  for (const Declared& one : declared) {
    if (!one.take.given()) continue;
    const Result<int> code = one.command->run(globals);
    return code ? *code : report(code.error());
  }
  return kExitSoftware;
}

}  // namespace
}  // namespace btd::cli

int main(int argc, char** argv) {
  try {
    const std::string_view self = argc > 0 ? argv[0] : "btd";
    if (self.substr(self.rfind('/') + 1) == "mount.bartender") {
      return btd::cli::run_mount_helper(argc, argv);
    }
    return btd::cli::run(argc, argv);
  } catch (const std::exception& error) {
    btd::cli::print_error("btd",
                          fmt::format("{}; this is a defect, please report it", error.what()));
    return btd::cli::kExitSoftware;
  }
}
