// What every subcommand of btd is: options it declares, and what it does with them.
// A command lives in one file; main.cc has the table of all.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "alloc/result.h"
#include "fs/cli/arguments.h"
#include "fs/cli/exit_code.h"

namespace btd::cli {

// Options that every command has.
struct Globals {
  std::optional<std::string> config;  // --config
};

class Command {
 public:
  Command() = default;
  virtual ~Command() = default;
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // Adds options, arguments and examples.
  virtual void declare(Arguments& take) = 0;
  // The value is the exit code.
  virtual Result<int> run(const Globals& globals) = 0;
  // The exit code for wrong arguments.
  [[nodiscard]] virtual int usage_exit_code() const { return kExitUsage; }
};

std::unique_ptr<Command> make_format_command();
std::unique_ptr<Command> make_mount_command();
std::unique_ptr<Command> make_umount_command();
std::unique_ptr<Command> make_status_command();
std::unique_ptr<Command> make_df_command();
std::unique_ptr<Command> make_ls_command();
std::unique_ptr<Command> make_check_command();
std::unique_ptr<Command> make_heap_command();
std::unique_ptr<Command> make_net_command();
std::unique_ptr<Command> make_cluster_command();
std::unique_ptr<Command> make_version_command();
std::unique_ptr<Command> make_worker_command();
std::unique_ptr<Command> make_notifier_command();

// mount.bartender: what mount(8) calls. Arguments, messages and exit codes are mount(8)'s.
int run_mount_helper(int argc, char** argv);

}  // namespace btd::cli
