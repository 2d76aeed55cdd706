#include "fs/cli/mount_table.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "fs/cli/paths.h"

namespace btd::cli {
namespace {

bool is_within(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace

Result<MountEntry> choose_mount(const std::vector<MountEntry>& mounts,
                                const std::optional<std::string>& path) {
  std::vector<MountEntry> ours;
  const MountEntry* innermost = nullptr;
  for (const MountEntry& mount : mounts) {
    if (mount.type == kFileSystemType) ours.push_back(mount);
    // A later mount over the same directory hides the earlier one.
    if (path && is_within(*path, mount.directory) &&
        (!innermost || mount.directory.size() >= innermost->directory.size())) {
      innermost = &mount;
    }
  }
  if (path) {
    if (innermost && innermost->type == kFileSystemType) return *innermost;
    return fail(ENOENT,
                fmt::format("{} is not on a bartender mount; `findmnt -t {}` lists those there are",
                            *path, kFileSystemType));
  }
  if (ours.empty()) {
    return fail(ENOENT, "no bartender is mounted here; mount one with `btd mount POOL DIR`");
  }
  if (ours.size() > 1) {
    std::string list;
    for (const MountEntry& mount : ours) list += (list.empty() ? "" : ", ") + mount.directory;
    return fail(EINVAL, fmt::format("several bartenders are mounted ({}); name one", list));
  }
  return ours.front();
}

Result<MountEntry> find_mount(const std::optional<std::string>& path) {
  BTD_ASSIGN(const std::vector<MountEntry> mounts, mounts_now());
  if (!path) return choose_mount(mounts, path);
  // A mount point is named as it is: resolving it would need an answer from its daemon.
  for (const MountEntry& mount : mounts) {
    if (mount.type == kFileSystemType && mount.directory == *path)
      return choose_mount(mounts, path);
  }
  BTD_ASSIGN(const std::string full, resolved_path(*path));
  return choose_mount(mounts, full);
}

Result<nlohmann::json> daemon_status(const std::string& directory) {
  BTD_ASSIGN(const std::string text,
             read_file_within(directory + "/.btd/status.json", std::chrono::seconds(10)));
  return nlohmann::json::parse(text, nullptr, false);
}

}  // namespace btd::cli
