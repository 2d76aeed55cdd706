// btd version: of btd, and of what it stands on.
#include "fs/cli/version.h"

#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <sys/utsname.h>

#include <nlohmann/json.hpp>

#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"

namespace btd::cli {
namespace {

class VersionCommand : public Command {
 public:
  void declare(Arguments& take) override { take.flag("--json", json_, "As JSON"); }

  Result<int> run(const Globals&) override {
    utsname system{};
    ::uname(&system);
    if (json_) {
      const nlohmann::ordered_json facts = {
          {"btd", kVersion}, {"libfuse", fuse_pkgversion()}, {"kernel", system.release}};
      fmt::print("{}\n", facts.dump(2));
    } else {
      fmt::print("btd {}\nlibfuse {}\nLinux {}\n", kVersion, fuse_pkgversion(), system.release);
    }
    return kExitOk;
  }

 private:
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_version_command() { return std::make_unique<VersionCommand>(); }

}  // namespace btd::cli
