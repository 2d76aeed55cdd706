// Errors as values: every fallible call in bartender returns a Result.
// Ownership: a Result owns its value or its Error. No call throws across a library boundary.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <utility>

namespace btd {

// An errno and a sentence for the person who reads it. The sentence says what to do; it is empty
// where the errno alone is the answer (a file that does not exist, on the path of `stat`).
struct Error {
  int code = EIO;
  std::string message;
};

template <class T>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
};

using Status = Result<void>;

[[nodiscard]] inline std::unexpected<Error> fail(int code, std::string message = {}) {
  return std::unexpected<Error>(Error{code, std::move(message)});
}

}  // namespace btd

// Returns the error of `expr` to the caller, if it has one.
#define BTD_TRY(expr)                                                          \
  do {                                                                         \
    if (auto btd_try_status = (expr); !btd_try_status) [[unlikely]]            \
      return std::unexpected<::btd::Error>(std::move(btd_try_status).error()); \
  } while (false)

// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in parentheses.
#define BTD_CONCAT_(a, b) a##b
#define BTD_CONCAT(a, b) BTD_CONCAT_(a, b)
// Declares `decl` from the value of `expr`, or returns its error to the caller.
#define BTD_ASSIGN(decl, expr) BTD_ASSIGN_(BTD_CONCAT(btd_result_, __LINE__), decl, expr)
#define BTD_ASSIGN_(tmp, decl, expr)                              \
  auto tmp = (expr);                                              \
  if (!tmp) [[unlikely]]                                          \
    return std::unexpected<::btd::Error>(std::move(tmp).error()); \
  decl = *std::move(tmp)
// NOLINTEND(bugprone-macro-parentheses)
