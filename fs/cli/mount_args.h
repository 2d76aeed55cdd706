// The options of a mount as `-o a,b=c` and as keys of [mount] in the configuration: one table.
// Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"
#include "fs/daemon/daemon.h"

namespace btd::cli {

enum class Unknown { kRefuse, kIgnore };  // kIgnore: mount(8)'s "sloppy"

// Applies a comma-separated list; later options win. `noX` turns the switch X off. What concerns
// only mount(8) and fstab (defaults, noauto, nofail, x-…) is accepted and does nothing.
// Errors: EINVAL, with the sentence that names the option.
Status apply_mount_options(std::string_view list, Unknown unknown, MountOptions& options);

// The same by name and typed value, for the configuration file. `apply_number` and `apply_text`
// check the value's range. EINVAL for a wrong value, ENOENT for a name of another kind.
Status apply_switch(std::string_view name, bool value, MountOptions& options);
Status apply_number(std::string_view name, std::int64_t value, MountOptions& options);
Status apply_text(std::string_view name, std::string_view value, MountOptions& options);

enum class OptionKind { kUnknown, kSwitch, kNumber, kText };
[[nodiscard]] OptionKind kind_of_option(std::string_view name);
[[nodiscard]] std::vector<std::string> option_names();

}  // namespace btd::cli
