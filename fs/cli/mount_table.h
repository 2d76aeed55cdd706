// Which of the mounts of this process are bartender's.
// Reads only; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "fs/pool/mount_table.h"

namespace btd::cli {

// The bartender mount that `path` lies in; with nullopt the only one there is.
// Errors: ENOENT none, EINVAL several and no path to choose by; the path's own errors.
Result<MountEntry> choose_mount(const std::vector<MountEntry>& mounts,
                                const std::optional<std::string>& path);

Result<MountEntry> find_mount(const std::optional<std::string>& path);

// What the daemon of a mount says of itself, as JSON; no object where that is not understood.
// Errors: those of read_file_within(), after 10 s.
Result<nlohmann::json> daemon_status(const std::string& directory);

}  // namespace btd::cli
