// The kernel's table of mounts, /proc/PID/mountinfo.
// Reads only; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"

namespace btd {

inline constexpr std::string_view kFileSystemType = "fuse.bartender";

struct MountEntry {
  std::string directory;
  std::string type;
  std::string source;  // of a bartender: the path of its pool
  std::string options;
  unsigned device =
      0;  // minor number; of a FUSE mount also that of its connection. 0: it has a disk

  [[nodiscard]] bool is_of_pool(std::string_view pool) const {
    return type == kFileSystemType && source == pool;
  }
};

// In the order of the table: of several at one directory the last is the uppermost. Lines that do
// not have mountinfo's form are passed over.
std::vector<MountEntry> parse_mountinfo(std::string_view text);

// Those of this process. Errors: those of reading the table.
Result<std::vector<MountEntry>> mounts_now();

// The uppermost mount at a canonical path; none also if the table cannot be read.
std::optional<MountEntry> uppermost_mount(std::string_view directory);
// Whether it is the uppermost at its directory.
[[nodiscard]] bool is_uppermost(const MountEntry& mount);

}  // namespace btd
