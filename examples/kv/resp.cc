#include "resp.h"

#include <algorithm>
#include <charconv>

namespace kv {
namespace {

constexpr std::size_t kMaxLineBytes = 64 * 1024;

Parsed error(std::string_view problem) { return {Parsed::Kind::kError, 0, problem}; }

// "<mark><number>\r\n" at `at`, which goes behind it.
enum class Line { kIncomplete, kNumber, kBad };
Line read_number(std::string_view buffer, std::size_t& at, char mark, std::int64_t& number) {
  if (at >= buffer.size()) return Line::kIncomplete;
  if (buffer[at] != mark) return Line::kBad;
  const std::size_t end = buffer.find('\r', at);
  if (end == std::string_view::npos) {
    return buffer.size() - at > 32 ? Line::kBad : Line::kIncomplete;
  }
  if (end + 1 == buffer.size()) return Line::kIncomplete;
  const char* const last = buffer.data() + end;
  const auto [stop, code] = std::from_chars(buffer.data() + at + 1, last, number);
  if (code != std::errc{} || stop != last || buffer[end + 1] != '\n') return Line::kBad;
  at = end + 2;
  return Line::kNumber;
}

Parsed parse_line(std::string_view buffer, std::vector<std::string_view>& arguments) {
  const std::size_t end = buffer.find('\n');
  if (end == std::string_view::npos) {
    if (buffer.size() > kMaxLineBytes) return error("too big inline request");
    return {};
  }
  std::string_view line = buffer.substr(0, end);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  while (!line.empty()) {
    const std::size_t word = line.find_first_not_of(" \t");
    if (word == std::string_view::npos) break;
    line.remove_prefix(word);
    const std::size_t stop = std::min(line.find_first_of(" \t"), line.size());
    if (arguments.size() == kMaxArguments) return error("too many words in a line");
    arguments.push_back(line.substr(0, stop));
    line.remove_prefix(stop);
  }
  return {Parsed::Kind::kRequest, end + 1, {}};
}

// Matches a set "[...]" at the front of the pattern, and takes it away.
bool matches_set(std::string_view& pattern, char c) {
  std::size_t at = 1;
  const bool inverted = at < pattern.size() && pattern[at] == '^';
  if (inverted) ++at;
  bool found = false;
  for (; at < pattern.size() && pattern[at] != ']'; ++at) {
    if (pattern[at] == '\\' && at + 1 < pattern.size()) ++at;
    if (at + 2 < pattern.size() && pattern[at + 1] == '-' && pattern[at + 2] != ']') {
      found = found || (pattern[at] <= c && c <= pattern[at + 2]);
      at += 2;
    } else {
      found = found || pattern[at] == c;
    }
  }
  pattern.remove_prefix(std::min(at + 1, pattern.size()));
  return found != inverted;
}

// Matches one character, and takes what matched it from the pattern.
bool matches_one(std::string_view& pattern, char c) {
  if (pattern[0] == '[') return matches_set(pattern, c);
  if (pattern[0] == '?') {
    pattern.remove_prefix(1);
    return true;
  }
  if (pattern[0] == '\\' && pattern.size() > 1) pattern.remove_prefix(1);
  const bool same = pattern[0] == c;
  pattern.remove_prefix(1);
  return same;
}

}  // namespace

Parsed parse(std::string_view buffer, std::vector<std::string_view>& arguments) {
  arguments.clear();
  if (buffer.empty()) return {};
  if (buffer[0] != '*') return parse_line(buffer, arguments);
  std::size_t at = 0;
  std::int64_t count = 0;
  Line line = read_number(buffer, at, '*', count);
  if (line == Line::kIncomplete) return {};
  if (line == Line::kBad || count > static_cast<std::int64_t>(kMaxArguments)) {
    return error("invalid multibulk length");
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t bytes = 0;
    line = read_number(buffer, at, '$', bytes);
    if (line == Line::kIncomplete) return {};
    if (line == Line::kBad || bytes < 0 || bytes > static_cast<std::int64_t>(kMaxArgumentBytes)) {
      return error("invalid bulk length");
    }
    const auto len = static_cast<std::size_t>(bytes);
    if (at + len + 2 > kMaxRequestBytes) return error("request larger than 2 MiB");
    if (buffer.size() < at + len + 2) return {};
    if (buffer.substr(at + len, 2) != "\r\n")
      return error("a bulk string does not end in a line end");
    arguments.push_back(buffer.substr(at, len));
    at += len + 2;
  }
  return {Parsed::Kind::kRequest, at, {}};
}

void reply_simple(std::string& to, std::string_view text) {
  to.append("+").append(text).append("\r\n");
}

void reply_error(std::string& to, std::string_view text) {
  to += '-';
  for (const char c : text) to += c == '\r' || c == '\n' ? ' ' : c;
  to += "\r\n";
}

void reply_integer(std::string& to, std::int64_t value) {
  to.append(":").append(std::to_string(value)).append("\r\n");
}

void reply_bulk(std::string& to, std::string_view bytes) {
  to.append("$").append(std::to_string(bytes.size())).append("\r\n").append(bytes).append("\r\n");
}

void reply_null(std::string& to) { to += "$-1\r\n"; }

void reply_array(std::string& to, std::size_t count) {
  to.append("*").append(std::to_string(count)).append("\r\n");
}

bool matches(std::string_view pattern, std::string_view text) {
  // Where to go on when what followed the last '*' did not match.
  std::string_view retry_pattern;
  std::size_t retry = std::string_view::npos;
  std::size_t at = 0;
  while (at < text.size() || !pattern.empty()) {
    if (!pattern.empty() && pattern[0] == '*') {
      pattern.remove_prefix(1);
      retry_pattern = pattern;
      retry = at;
      continue;
    }
    if (!pattern.empty() && at < text.size() && matches_one(pattern, text[at])) {
      ++at;
      continue;
    }
    if (retry == std::string_view::npos || retry >= text.size()) return false;
    pattern = retry_pattern;
    at = ++retry;
  }
  return true;
}

}  // namespace kv
