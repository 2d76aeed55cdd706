#include "fs/cli/mount_run.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "fs/cli/config.h"
#include "fs/cli/paths.h"
#include "fs/cli/version.h"
#include "fs/pool/mount_table.h"
#include "fs/pool/sentences.h"

namespace btd::cli {
namespace {

// A mount of the pool itself that is left there is the supervisor's, which has the pool's lock: to
// look at it might be to wait for an answer that nobody gives.
Status check_mountpoint(const std::string& directory, const std::string& pool) {
  const auto where = resolved_path(directory), what = resolved_path(pool);
  BTD_ASSIGN(const auto mounts, mounts_now());
  for (const MountEntry& mount : mounts)
    if (where && what && mount.directory == *where && mount.is_of_pool(*what)) return {};
  struct stat info{};
  if (::stat(directory.c_str(), &info) != 0) {
    const int code = errno;
    if (code == ENOENT) {
      return fail(code,
                  fmt::format("{} is not there; make it with `mkdir -p {}`", directory, directory));
    }
    if (code == ENOTCONN) {
      return fail(code, fmt::format("{} is a mount whose daemon is gone; free it with `umount {}`",
                                    directory, directory));
    }
    return errno_of(directory, code);
  }
  if (!S_ISDIR(info.st_mode)) {
    return fail(ENOTDIR, fmt::format("{} is not a directory; mount at one", directory));
  }
  return {};
}

Status check_fuse_device() {
  if (::access("/dev/fuse", R_OK | W_OK) == 0) return {};
  if (errno == EACCES) return fail(EACCES, "/dev/fuse may not be opened; run this as root");
  return fail(ENODEV,
              "/dev/fuse is not there; load its module with `modprobe fuse`, or give the "
              "device to this container");
}

}  // namespace

Result<int> mount_pool(MountOptions options, const std::optional<std::string>& config) {
  if (options.pool.empty() || options.mountpoint.empty()) {
    return fail(EINVAL, fmt::format("name the pool and the directory: btd mount POOL DIR (or set "
                                    "both in [mount] of {})",
                                    config.value_or(kDefaultConfig)));
  }
  BTD_ASSIGN(options.pool, absolute_path(options.pool));
  BTD_ASSIGN(options.mountpoint, absolute_path(options.mountpoint));
  BTD_TRY(check_mountpoint(options.mountpoint, options.pool));
  BTD_TRY(check_fuse_device());
  std::optional<std::string> reread = config;
  if (reread) {
    BTD_ASSIGN(reread, absolute_path(*reread));
  }
  // A file that has become wrong changes nothing in a running daemon.
  options.reload_log_level = [reread, level = options.log_level] {
    const Result<Config> fresh = load_config(reread);
    return fresh ? fresh->mount.log_level : level;
  };
  options.version = kVersion;
  return run_supervisor(options);
}

}  // namespace btd::cli
