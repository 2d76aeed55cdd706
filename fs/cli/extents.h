// How many pieces a file's data is in. Reads metadata only.
#pragma once

#include <cstdint>

#include "alloc/result.h"

namespace btd::cli {

// Extents as the file system has them (FIEMAP); where it does not tell, as tmpfs, the runs of data
// between holes. Moves the file's offset.
Result<std::uint64_t> count_extents(int fd);

}  // namespace btd::cli
