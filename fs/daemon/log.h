// Where the daemon's messages go: stderr in the foreground, else syslog (which a journal reads).
#pragma once

#include <string>

#include "alloc/result.h"

namespace btd {

void start_log(const std::string& name, bool foreground, const std::string& level);
// Errors: EINVAL for a level that does not exist.
Status set_log_level(const std::string& level);

}  // namespace btd
