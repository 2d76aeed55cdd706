// Nvram: what a file's mapping is, how it is made durable, and what it then survives.
//
// The answer is what `btd status` shows, so it claims nothing that the kernel did not confirm:
// power loss only where MAP_SYNC was granted, or where pages are synced to a disk.
#pragma once

#include <cstddef>
#include <string_view>

#include "alloc/persist.h"
#include "alloc/result.h"

namespace btd {

struct Nvram {
  Domain domain = Domain::kMsync;
  std::string_view kind;      // "dax", "tmpfs", "file", "private"
  std::string_view survives;  // a phrase: "power loss", "process crash, not power loss", …
};

// Maps `len` bytes of `fd` at `at`, over the mapping that reserves the place, and says what it is.
// Errors: the errno of mmap, with a sentence.
Result<Nvram> map_nvram(int fd, std::byte* at, std::size_t len);

// Maps a private copy: what is stored to it never reaches the file.
Result<Nvram> map_private(int fd, std::byte* at, std::size_t len);

}  // namespace btd
