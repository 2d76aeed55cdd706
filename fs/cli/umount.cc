// btd umount: unmounts, and waits until the daemon has closed the pool.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "alloc/unique_fd.h"
#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/mount_table.h"
#include "fs/daemon/mounting.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"
#include "fs/pool/superblock.h"

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
  return fail(code, fmt::format("{} cannot be unmounted: {}", directory, errno_text(code)));
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

std::optional<std::string> served_pool(const MountEntry& mount) {
  const auto status = daemon_status(mount.directory);
  const auto uuid = nlohmann::json::json_pointer("/pool/uuid");
  if (!status || !status->is_object() || !status->contains(uuid) || !(*status)[uuid].is_string())
    return std::nullopt;
  return (*status)[uuid].get<std::string>();
}

std::optional<std::string> pool_at(const std::string& path) {
  const UniqueFd file(::open((path + "/superblock").c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  const auto superblock = read_superblock(file.get(), path);
  return superblock ? std::optional(uuid_text(*superblock)) : std::nullopt;
}

// Whether the pool that is mounted still lies where it was mounted from; nullopt: that cannot be
// told.
std::optional<bool> is_in_place(const MountEntry& mount) {
  const auto served = served_pool(mount), there = pool_at(mount.source);
  if (!served || !there) return std::nullopt;
  return *served == *there;
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
      const auto in_place = is_in_place(mount);
      if (pool_ && !in_place.value_or(false))
        return fail(EINVAL,
                    fmt::format("{} is left mounted: {}; without --pool the mount alone is ended",
                                mount.directory,
                                in_place ? fmt::format("another pool is at {} now", mount.source)
                                         : "its daemon does not say which pool it serves"));
      BTD_TRY(unmount(mount.directory));
      if (in_place.value_or(true)) BTD_TRY(wait_for_close(mount.source));
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
