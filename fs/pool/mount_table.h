// The kernel's table of mounts, /proc/PID/mountinfo.
// Reads only; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

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

// Those of this process; none if the table cannot be read.
std::vector<MountEntry> mounts_now();

}  // namespace btd
