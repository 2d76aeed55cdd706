// Errors of system calls as sentences: "cannot <doing>: <what the errno says>".
#pragma once

#include <cstring>
#include <string>

#include "alloc/result.h"

namespace btd {

[[nodiscard]] inline std::string errno_text(int code) {
  const char* text = ::strerrordesc_np(code);
  return text != nullptr ? text : "error " + std::to_string(code);
}

// `doing` ends with what it is done to: "create the directory /pools/a".
[[nodiscard]] inline std::unexpected<Error> cannot(const std::string& doing, int code) {
  return fail(code, "cannot " + doing + ": " + errno_text(code));
}

}  // namespace btd
