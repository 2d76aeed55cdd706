// btd status: what the daemon of a mount says of itself.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/paths.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd status                                 of the only bartender mounted here
  btd status /mnt/bartender --json | jq .nvram
The same is in the files .btd/status and .btd/status.json of every mount.)";

// A worker that died is replaced far sooner.
constexpr std::chrono::seconds kPatience{10};

class StatusCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("DIR", directory_, "A mount, or any path in it; default: the only one there is");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const MountEntry mount, find_mount(directory_));
    const std::string file = mount.directory + (json_ ? "/.btd/status.json" : "/.btd/status");
    BTD_ASSIGN(const std::string text, read_file_within(file, kPatience));
    if (json_ && !nlohmann::json::accept(text)) {
      return fail(EBADMSG, fmt::format("{} is not JSON; the daemon is of another version", file));
    }
    fmt::print("{}{}", text, text.ends_with('\n') ? "" : "\n");
    return kExitOk;
  }

 private:
  std::optional<std::string> directory_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_status_command() { return std::make_unique<StatusCommand>(); }

}  // namespace btd::cli
