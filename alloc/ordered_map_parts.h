// What the files of OrderedMap share and nobody else needs: damage as errors, and overflow blocks.
// Pure functions; they read the heap and change nothing.
#pragma once

#include <string>
#include <string_view>

#include "alloc/heap.h"
#include "alloc/map_page.h"
#include "alloc/result.h"

namespace btd::map_parts {

[[nodiscard]] std::unexpected<Error> damaged(Offset at, std::string_view what);

// Whether the block may be read: inside the heap, aligned to a word.
[[nodiscard]] inline bool readable(const Heap& heap, Offset at, std::size_t bytes) {
  return at != 0 && at % sizeof(std::uint64_t) == 0 && heap.contains(at, bytes);
}

// The value that the overflow reference names, as `tx` sees it if there is one. With `verify`, its
// checksum is checked as well. Errors: EIO.
[[nodiscard]] Result<std::string_view> overflow_value(const Heap& heap, const Tx* tx,
                                                      std::string_view ref, bool verify);
[[nodiscard]] MapOverflowRef load_ref(std::string_view ref);

}  // namespace btd::map_parts
