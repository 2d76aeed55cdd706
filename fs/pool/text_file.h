// Whole small files, such as those of /proc.
// Reads only; any thread.
#pragma once

#include <string>

#include "alloc/result.h"

namespace btd {

// The whole of a small file. Errors: those of open() and read(), with the path. A process may go
// away while its files in /proc are read: ESRCH.
Result<std::string> read_file(const std::string& path);

// Of the machine: another one each time that it starts.
Result<std::string> boot_id();

}  // namespace btd
