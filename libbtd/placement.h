// Placement: which directory a configuration means, and whether its fields are right.
#pragma once

#include <cstdint>
#include <string>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "libbtd/include/bartender.h"

namespace btd {

// A configuration whose fields were checked, with its defaults filled in.
struct Settings {
  std::string directory;  // where heaps lie
  std::string heap = "default";
  std::uint64_t max_bytes = 0;
  std::uint64_t arena_bytes = 0;  // 0: the default
  bool flush = true;
  bool recover_at_open = true;
  unsigned gc_threads = 0;
  bool create = true;
  bool map_on_touch = false;
  bool reader = false;
  bool own_directory = false;  // made if absent, for this user alone
  bool watched = true;         // by what looks at C calls, where that is asked for
};

// Errors: EINVAL a field is wrong, and which.
Result<Settings> read_config(const btd_config& config);

// Opens the directory where heaps lie. Errors: ENOENT, ENOTDIR, EACCES: also where a directory that
// should be this user's own is another's, or open to others.
Result<UniqueFd> open_directory(const Settings& settings);

}  // namespace btd
