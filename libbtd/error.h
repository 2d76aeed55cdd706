// The last error of the calling thread: errno and a sentence.
//
// All of it is cold: nothing here runs on a path that succeeds. Thread-safety: each thread its own.
#pragma once

#include <cstddef>
#include <exception>
#include <new>
#include <string_view>

#include "alloc/annotate.h"
#include "alloc/result.h"

namespace btd {

// Sets errno and the sentence; where that is empty, the errno's own words. Long ones are cut.
[[gnu::cold, gnu::noinline]] void set_error(int code, std::string_view sentence);
[[gnu::cold, gnu::noinline]] void set_error(const Error& error);
// The same, and returns what a C call returns then.
[[gnu::cold, gnu::noinline]] int failed(int code, std::string_view sentence);
[[gnu::cold, gnu::noinline]] int failed(const Error& error);
[[gnu::cold, gnu::noinline]] void* no_block(int code, std::string_view sentence);
[[gnu::cold, gnu::noinline]] void* no_block(const Error& error);

[[nodiscard]] const char* last_sentence();

// Runs `body`; an exception becomes an error and `otherwise`. What it does is the library's affair.
template <class T, class Body>
T guarded(T otherwise, Body&& body) {
  const annotate::Quiet quiet;
  try {
    return body();
  } catch (const std::bad_alloc&) {
    set_error(ENOMEM, "The process has no memory left; free some, or raise its limit.");
  } catch (const std::exception& error) {
    set_error(EIO, error.what());
  }
  return otherwise;
}

inline int to_int(const Status& status) { return status ? 0 : failed(status.error()); }

}  // namespace btd
