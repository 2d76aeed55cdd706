#include "fs/pool/mount_table.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <sstream>

#include "fs/pool/text_file.h"

namespace btd {

namespace {

bool is_octal(char c) { return c >= '0' && c <= '7'; }

// The kernel writes blanks and backslashes of a path as \ooo.
std::string unescape(std::string_view field) {
  std::string out;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size() && is_octal(field[i + 1]) &&
        is_octal(field[i + 2]) && is_octal(field[i + 3])) {
      out += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 +
                               (field[i + 3] - '0'));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>()};
}

// Of a device "0:minor", which no disk has.
unsigned minor_in(std::string_view device) {
  unsigned minor = 0;
  if (device.starts_with("0:"))
    std::from_chars(device.data() + 2, device.data() + device.size(), minor);
  return minor;
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> mounts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    // id parent major:minor root directory options [optional fields] - type source super-options
    const std::vector<std::string> fields = fields_of(line);
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 3) continue;
    mounts.push_back({.directory = unescape(fields[4]),
                      .type = dash[1],
                      .source = unescape(dash[2]),
                      .options = fields[5],
                      .device = minor_in(fields[2])});
  }
  return mounts;
}

Result<std::vector<MountEntry>> mounts_now() {
  const auto table = read_file("/proc/self/mountinfo");
  if (!table) return fail(table.error().code, table.error().message + "; is /proc mounted?");
  return parse_mountinfo(*table);
}

std::optional<MountEntry> uppermost_mount(std::string_view directory) {
  std::optional<MountEntry> found;
  auto mounts = mounts_now();
  if (!mounts) return found;
  for (MountEntry& mount : *mounts)
    if (mount.directory == directory) found = std::move(mount);
  return found;
}

bool is_uppermost(const MountEntry& mount) {
  const auto there = uppermost_mount(mount.directory);
  return there && there->device == mount.device && there->source == mount.source;
}

}  // namespace btd
