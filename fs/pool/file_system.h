// What the file systems that a pool may lie on are called and promise. Pure tables.
#pragma once

#include <cstdint>
#include <string>

#include "alloc/result.h"

namespace btd {

// When a new file's directory entry is durable.
enum class EntrySync {
  kVolatile,       // never: nothing outlives the machine there, and nothing needs a sync
  kWithFile,       // with fsync or fdatasync of the file: creating it is in the same journal
  kWithDirectory,  // with fsync of the directory only, as POSIX promises no more
};

// `type` is statfs(2)'s f_type.
[[nodiscard]] EntrySync needs_entry_sync(std::uint64_t type);
[[nodiscard]] std::string file_system_name(std::uint64_t type);
// Whether the total size moves with what others store, so that a smaller one is no damage.
[[nodiscard]] bool total_varies(std::uint64_t type);

}  // namespace btd
