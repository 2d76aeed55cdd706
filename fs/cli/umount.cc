// btd umount: unmounts, and waits until the daemon has closed the pool.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/paths.h"
#include "fs/daemon/mounting.h"
#include "fs/pool/pool.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd umount /mnt/bartender
  btd umount /mnt/bartender --pool     and give the emulated pool's memory back: its data is gone
`umount /mnt/bartender` unmounts too, but does not wait for the daemon to close the pool.)";

// A clean close writes a checkpoint; far less than this, even of a large pool.
constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kPause{10};

Status unmount(const std::string& directory) {
  const Status done = unmount_fuse(directory, false);
  if (done) return {};
  const int code = done.error().code;
  if (code == EBUSY) {
    return fail(code, fmt::format("{} is in use; `fuser -vm {}` shows by whom, close that and try "
                                  "again",
                                  directory, directory));
  }
  return fail(code, fmt::format("{} cannot be unmounted: {}", directory, error_text(code)));
}

// Whose daemon is gone: a plain unmount might wait for it. False: it has one.
bool detach_dead(const MountEntry& mount) {
  const Result<PoolLock> lock = PoolLock::acquire(mount.source);
  if (!lock) return false;
  const std::vector<std::string> detached = detach_dead_mounts(mount.source);
  if (std::ranges::find(detached, mount.directory) == detached.end()) return false;
  fmt::print(stderr, "{} had no daemon any more; it is detached\n", mount.directory);
  return true;
}

// The daemon holds the pool's lock until it has closed it.
Status wait_for_close(const std::string& pool) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    const Result<PoolLock> lock = PoolLock::acquire(pool);
    if (lock) return {};
    if (lock.error().code != EBUSY) return std::unexpected(lock.error());
    if (std::chrono::steady_clock::now() > deadline) {
      return fail(ETIMEDOUT, fmt::format("it is unmounted, but the daemon has not closed {} within "
                                         "{} s; `journalctl -t btd` may tell why",
                                         pool, kPatience.count()));
    }
    std::this_thread::sleep_for(kPause);
  }
}

class UmountCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("DIR", directory_, "The mount; default: the only one there is");
    take.flag("--pool", pool_, "Unmount an emulated pool too; one in RAM loses what it holds");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const MountEntry mount, find_mount(directory_));
    if (!detach_dead(mount)) {
      BTD_TRY(unmount(mount.directory));
      BTD_TRY(wait_for_close(mount.source));
    }
    if (pool_) BTD_TRY(Pool::detach(mount.source));
    return kExitOk;
  }

 private:
  std::optional<std::string> directory_;
  bool pool_ = false;
};

}  // namespace

std::unique_ptr<Command> make_umount_command() { return std::make_unique<UmountCommand>(); }

}  // namespace btd::cli
