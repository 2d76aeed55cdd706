// Sizes as people write and read them: 1G, 512MiB, 4096.
// Pure functions; strict, because a size misread formats a pool.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "alloc/result.h"

namespace btd::cli {

// A whole number, then nothing or a unit: K, M, G, T (also KiB, MiB, GiB, TiB) are powers of 1024;
// kB, MB, GB, TB are powers of 1000; B is bytes. Errors: EINVAL, ERANGE past 2^63 - 1.
Result<std::uint64_t> parse_size(std::string_view text);

// Three significant digits and a binary unit: "1.50 GiB", "12.0 KiB", "7 B".
std::string format_size(std::uint64_t bytes);

}  // namespace btd::cli
