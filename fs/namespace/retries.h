// Changes of rows that meet another node's.
#pragma once

#include <cerrno>

#include "alloc/result.h"

namespace btd {

// Repeats a change whose requirements another node's commit broke meanwhile.
template <class Change>
auto with_retries(const Change& change) -> decltype(change()) {
  constexpr int kRetries = 64;
  for (int i = 1; i < kRetries; ++i) {
    auto result = change();
    if (result || result.error().code != EAGAIN) return result;
  }
  return change();
}

}  // namespace btd
