// Small helpers about paths and files, each with a message that names the path.
#pragma once

#include <cerrno>
#include <chrono>
#include <string>

#include "alloc/result.h"

namespace btd::cli {

// `path` from the root, without resolving links or needing it to exist: a daemon changes its
// working directory.
Result<std::string> absolute_path(const std::string& path);

// `path` without links. That reads links only, so it asks no mount that it ends at for anything.
Result<std::string> resolved_path(const std::string& path);

// As btd::read_file(), of a file that a daemon answers for. A daemon that does not answer is not
// waited for: ETIMEDOUT after `limit`, and the read is left behind for the end of this process.
Result<std::string> read_file_within(const std::string& path, std::chrono::milliseconds limit);

}  // namespace btd::cli
