// Words for code addresses, by addr2line(1) where it is installed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace btd::cli {

// For each address in the program or library at `path`: "function at file:line"; empty where that
// is not known, as it is everywhere without addr2line. At most kMaxAddresses are asked for.
[[nodiscard]] std::vector<std::string> symbolise(const std::string& path,
                                                 const std::vector<std::uint64_t>& addresses);
inline constexpr std::size_t kMaxAddresses = 1000;

}  // namespace btd::cli
