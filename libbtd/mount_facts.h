// What a mount of ours says of a file or directory. No allocation and no lock: handlers of signals
// come here.
#pragma once

#include <linux/magic.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

namespace btd {

struct Attribute {
  std::array<char, 32> text{};
  ssize_t length = 0;
  [[nodiscard]] std::string_view value() const {
    return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(length, 0))};
  }
};

// Empty where there is none.
[[nodiscard]] inline Attribute attribute(int fd, const char* name) {
  Attribute found;
  found.length = fgetxattr(fd, name, found.text.data(), found.text.size());
  return found;
}

[[nodiscard]] inline std::optional<unsigned> number_of(const Attribute& attribute) {
  unsigned value = 0;
  const std::string_view text = attribute.value();
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// The node of a cluster whose mount `fd` is of, if the mode of that, or of what will be made in it,
// is `mode`.
[[nodiscard]] inline std::optional<unsigned> node_where(int fd, std::string_view mode) {
  struct statfs fs{};
  if (fstatfs(fd, &fs) != 0 || fs.f_type != FUSE_SUPER_MAGIC) return std::nullopt;
  if (attribute(fd, "user.btd.mode").value() != mode) return std::nullopt;
  return number_of(attribute(fd, "user.btd.node"));
}

}  // namespace btd
