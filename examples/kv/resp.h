// The Redis protocol, version 2: requests out of a buffer, replies into one. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kv {

constexpr std::size_t kMaxArguments = 1024;
constexpr std::size_t kMaxArgumentBytes = 1024 * 1024;
constexpr std::size_t kMaxRequestBytes = 2 * 1024 * 1024;

struct Parsed {
  enum class Kind { kIncomplete, kRequest, kError };
  Kind kind = Kind::kIncomplete;
  std::size_t bytes = 0;     // of the request
  std::string_view problem;  // of an error
};

// Reads one request, an array of bulk strings or a line of words, from the front of `buffer`. The
// arguments point into it; none: an empty request, to be ignored.
Parsed parse(std::string_view buffer, std::vector<std::string_view>& arguments);

void reply_simple(std::string& to, std::string_view text);
// One line: line ends in `text` become blanks.
void reply_error(std::string& to, std::string_view text);
void reply_integer(std::string& to, std::int64_t value);
void reply_bulk(std::string& to, std::string_view bytes);
void reply_null(std::string& to);
void reply_array(std::string& to, std::size_t count);  // its elements follow

// Whether `text` matches a pattern of '*', '?', [a-z], [^a-z] and '\'. Linear space, and time
// bounded by the product of the lengths.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace kv
