// btd df: how full the pool of a mount is. The numbers are those of statvfs(3), which the pool's
// own file system gives, so they agree with df(1).
#include <fmt/format.h>
#include <sys/statvfs.h>

#include <nlohmann/json.hpp>

#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/paths.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd df
  btd df /mnt/bartender --json | jq .available)";

struct Space {
  std::uint64_t size = 0, used = 0, available = 0;

  // As df(1) has it: of what users can have, rounded up.
  [[nodiscard]] std::uint64_t percent() const {
    const std::uint64_t all = used + available;
    return all == 0 ? 0 : (used * 100 + all - 1) / all;
  }
};

Result<Space> space_of(const std::string& directory) {
  struct statvfs info{};
  if (::statvfs(directory.c_str(), &info) != 0) {
    return errno_of(directory);
  }
  return Space{info.f_blocks * info.f_frsize, (info.f_blocks - info.f_bfree) * info.f_frsize,
               info.f_bavail * info.f_frsize};
}

class DfCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("DIR", directory_, "A mount, or any path in it; default: the only one there is");
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const MountEntry mount, find_mount(directory_));
    BTD_ASSIGN(const Space space, space_of(mount.directory));
    if (json_) {
      const nlohmann::ordered_json row = {
          {"pool", mount.source},         {"directory", mount.directory},
          {"size", space.size},           {"used", space.used},
          {"available", space.available}, {"used_percent", space.percent()}};
      fmt::print("{}\n", row.dump(2));
      return kExitOk;
    }
    fmt::print("{}", format_table({{"POOL"},
                                   {"SIZE", true},
                                   {"USED", true},
                                   {"AVAILABLE", true},
                                   {"USE%", true},
                                   {"MOUNTED ON"}},
                                  {{mount.source, format_size(space.size), format_size(space.used),
                                    format_size(space.available),
                                    fmt::format("{}%", space.percent()), mount.directory}}));
    return kExitOk;
  }

 private:
  std::optional<std::string> directory_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_df_command() { return std::make_unique<DfCommand>(); }

}  // namespace btd::cli
