#include "fs/cli/size.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace btd::cli {
namespace {

constexpr std::uint64_t kKi = 1024;
constexpr std::uint64_t kK = 1000;
constexpr std::pair<std::string_view, std::uint64_t> kUnits[] = {
    {"", 1},
    {"B", 1},
    {"K", kKi},
    {"KiB", kKi},
    {"M", kKi* kKi},
    {"MiB", kKi* kKi},
    {"G", kKi* kKi* kKi},
    {"GiB", kKi* kKi* kKi},
    {"T", kKi* kKi* kKi* kKi},
    {"TiB", kKi* kKi* kKi* kKi},
    {"kB", kK},
    {"MB", kK* kK},
    {"GB", kK* kK* kK},
    {"TB", kK* kK* kK* kK},
};
// What off_t holds: no file, and so no pool, is larger.
constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  const auto* known = std::find_if(std::begin(kUnits), std::end(kUnits),
                                   [&](const auto& candidate) { return candidate.first == unit; });
  if (error == std::errc::invalid_argument || known == std::end(kUnits)) {
    return fail(EINVAL, fmt::format("'{}' is no size; write a whole number of bytes, or one with "
                                    "K, M, G or T, such as 512M",
                                    text));
  }
  if (error == std::errc::result_out_of_range || number > kMax / known->second) {
    return fail(ERANGE, fmt::format("'{}' is larger than any file can be; write less", text));
  }
  return number * known->second;
}

std::string format_size(std::uint64_t bytes) {
  constexpr std::array kNames = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // 999.5 and more would show as four digits.
  while (value >= 999.5 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return fmt::format("{} B", bytes);
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kNames[unit]);
}

}  // namespace btd::cli
