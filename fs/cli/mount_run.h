// The last step that `btd mount` and mount.bartender share: complete the options and hand over to
// the supervisor.
#pragma once

#include <optional>
#include <string>

#include "alloc/result.h"
#include "fs/daemon/daemon.h"

namespace btd::cli {

// `config` is read again for its log level on SIGHUP. Errors: EINVAL without a pool or a
// directory, ENODEV without /dev/fuse, and those of run_supervisor.
Result<int> mount_pool(MountOptions options, const std::optional<std::string>& config);

}  // namespace btd::cli
