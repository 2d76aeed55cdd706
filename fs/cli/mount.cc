// btd mount: serves a pool at a directory.
#include <fmt/format.h>

#include <algorithm>

#include "fs/cli/command.h"
#include "fs/cli/config.h"
#include "fs/cli/mount_args.h"
#include "fs/cli/mount_run.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd mount /var/lib/bartender /mnt/bartender
  btd mount /var/lib/bartender /mnt/bartender -o noatime,log_level=debug -f
  btd mount                       POOL and DIR as in /etc/bartender.toml
  btd mount --cluster /etc/bartender-cluster.toml /var/lib/bartender /mnt/bartender
  mount -t bartender /var/lib/bartender /mnt/bartender
In /etc/fstab:
  /var/lib/bartender  /mnt/bartender  bartender  defaults,nofail  0  0

btd-specific -o options (bartender.5 explains them): log_level=LEVEL, read_only, allow_other,
cluster=FILE, passthrough, io_uring, threads=N, spin_us=N, share_processor, idle_ids=N. A switch takes "no" in front of it.)";

class MountCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("POOL", pool_, "The pool, as made by `btd format`");
    take.option("DIR", directory_, "Where to mount; an existing directory");
    take.options("-o,--options", options_, "Options, separated by commas");
    take.option("--cluster", cluster_, "As a node of the cluster that this file tells of");
    take.flag("-f,--foreground", foreground_, "Stay in the foreground and log to standard error");
    take.examples(kExamples);
  }

  Result<int> run(const Globals& globals) override {
    BTD_ASSIGN(Config config, load_config(globals.config));
    MountOptions& mount = config.mount;
    for (const std::string& list : options_) {
      BTD_TRY(apply_mount_options(list, Unknown::kRefuse, mount));
    }
    mount.foreground = foreground_;
    if (!cluster_.empty()) mount.cluster = cluster_;
    if (!pool_.empty()) mount.pool = pool_;
    if (!directory_.empty()) mount.mountpoint = directory_;
    return mount_pool(std::move(mount), globals.config);
  }

 private:
  std::string pool_, directory_, cluster_;
  std::vector<std::string> options_;
  bool foreground_ = false;
};

}  // namespace

std::unique_ptr<Command> make_mount_command() { return std::make_unique<MountCommand>(); }

}  // namespace btd::cli
