// The mounts of this process, as /proc/self/mountinfo tells, and which of them are bartender's.
// Reads only; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"

namespace btd::cli {

inline constexpr std::string_view kFileSystemType = "fuse.bartender";

struct MountEntry {
  std::string directory;
  std::string type;
  std::string source;  // of a bartender: the path of its pool
  std::string options;
};

// Lines that do not have mountinfo's form are passed over.
std::vector<MountEntry> parse_mountinfo(std::string_view text);

// The bartender mount that `path` lies in; with nullopt the only one there is.
// Errors: ENOENT none, EINVAL several and no path to choose by; the path's own errors.
Result<MountEntry> choose_mount(const std::vector<MountEntry>& mounts,
                                const std::optional<std::string>& path);

Result<MountEntry> find_mount(const std::optional<std::string>& path);

}  // namespace btd::cli
