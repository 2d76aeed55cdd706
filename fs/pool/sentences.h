// Errors of system calls as sentences, with what the errno says.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>

#include "alloc/result.h"

namespace btd {

[[nodiscard]] inline std::string errno_text(int code) {
  const char* text = ::strerrordesc_np(code);
  return text != nullptr ? text : "error " + std::to_string(code);
}

// "<subject>: <...>", with the code. Errno is read where none is given.
[[nodiscard]] inline std::unexpected<Error> errno_of(const std::string& subject, int code = errno) {
  return fail(code, subject + ": " + errno_text(code));
}

// "cannot <doing>: <...>". `doing` ends with what it is done to: "create the directory /pools/a".
[[nodiscard]] inline std::unexpected<Error> cannot(const std::string& doing, int code) {
  return fail(code, "cannot " + doing + ": " + errno_text(code));
}

}  // namespace btd
