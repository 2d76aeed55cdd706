// The configuration file, /etc/bartender.toml: defaults for `btd format` and `btd mount`.
// Strict: an unknown key or a value of the wrong type is an error that names its line, because a
// setting that is silently ignored is worse than none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "alloc/result.h"
#include "fs/daemon/daemon.h"
#include "fs/pool/pool.h"

namespace btd::cli {

inline constexpr const char* kDefaultConfig = "/etc/bartender.toml";

struct Config {
  FormatOptions format;  // [format]: size, emulate
  MountOptions mount;    // [mount]: pool, directory, options, and those of mount_args.h
};

// `path` is for messages. Errors: EILSEQ, "PATH:LINE: what is wrong and what is known".
Result<Config> parse_config(std::string_view text, const std::string& path);

// With nullopt the default file, which may be absent. Errors: as parse_config, or the file's own.
Result<Config> load_config(const std::optional<std::string>& path);

// "none", "ram" or "disk".
std::optional<Emulation> parse_emulation(std::string_view name);

}  // namespace btd::cli
