#include "fs/cli/mount_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <sstream>

#include "fs/cli/paths.h"

namespace btd::cli {
namespace {

bool is_octal(char c) { return c >= '0' && c <= '7'; }

// The kernel writes blanks and backslashes of a path as \ooo.
std::string unescape(std::string_view field) {
  std::string out;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size() && is_octal(field[i + 1]) &&
        is_octal(field[i + 2]) && is_octal(field[i + 3])) {
      out += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 +
                               (field[i + 3] - '0'));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>()};
}

bool is_within(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

// Empty where it cannot be resolved; errno says why.
std::string resolve(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> full(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  return full ? std::string(full.get()) : std::string();
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> mounts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    // id parent major:minor root directory options [optional fields] - type source super-options
    const std::vector<std::string> fields = fields_of(line);
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 3) continue;
    mounts.push_back({unescape(fields[4]), dash[1], unescape(dash[2]), fields[5]});
  }
  return mounts;
}

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
  BTD_ASSIGN(const std::string text, read_file("/proc/self/mountinfo"));
  const std::vector<MountEntry> mounts = parse_mountinfo(text);
  if (!path) return choose_mount(mounts, path);
  // A mount point is named as it is: resolving it would need an answer from its daemon.
  for (const MountEntry& mount : mounts) {
    if (mount.type == kFileSystemType && mount.directory == *path)
      return choose_mount(mounts, path);
  }
  const std::string full = resolve(*path);
  if (full.empty()) return errno_of(*path);
  return choose_mount(mounts, full);
}

}  // namespace btd::cli
