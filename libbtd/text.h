// text: numbers and addresses as messages have them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace btd {

[[nodiscard]] inline std::string hex(std::uintptr_t value) {
  char text[2 + 16 + 1];
  std::snprintf(text, sizeof text, "0x%zx", value);
  return text;
}

// As printf's %p.
[[nodiscard]] inline std::string address_text(const void* at) {
  char text[24];
  std::snprintf(text, sizeof text, "%p", at);
  return text;
}

}  // namespace btd
