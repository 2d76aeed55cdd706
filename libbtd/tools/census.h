// Census: what the segments of a heap's image are, and how full they are.
//
// Reads headers and bitmaps as they lie, without a Heap: so it works beside the program that uses
// the heap, whose counts may then be a moment apart, and on a damaged table.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "alloc/layout.h"
#include "alloc/size_class.h"
#include "libbtd/tools/heap_image.h"

namespace btd {

// A segment, a large extent, or a run of free segments.
struct SegmentUse {
  enum class Kind : std::uint8_t { kFree, kSmall, kLarge, kDamaged };
  Kind kind = Kind::kFree;
  std::uint32_t arena = 0;
  std::uint32_t index = 0;  // in the arena
  std::uint32_t span = 1;   // segments of 64 KiB
  SegmentWord word;         // kSmall, kLarge
  std::uint32_t slots = 0;
  std::uint32_t used = 0;
  std::uint64_t slot_bytes = 0;
  const char* damage = "";  // kDamaged: what is wrong

  [[nodiscard]] bool recoverable() const { return word.contract == Contract::kRecoverable; }
  [[nodiscard]] std::uint64_t used_bytes() const { return used * slot_bytes; }
};

// Calls visit for all segments, in the order of addresses.
void for_each_segment(const HeapImage& image, const std::function<void(const SegmentUse&)>& visit);

struct Census {
  struct Use {
    std::uint64_t segments = 0;  // of 64 KiB
    std::uint64_t slots = 0;     // of large extents: how many
    std::uint64_t used = 0;

    void add(const SegmentUse& segment) {
      segments += segment.span;
      slots += segment.slots;
      used += segment.used;
    }
  };
  // By contract: [0] transactional, [1] recoverable.
  std::array<std::array<Use, kClasses>, 2> classes{};
  std::array<Use, 2> large{};
  std::uint64_t large_bytes = 0;
  std::uint64_t total_segments = 0;
  std::uint64_t free_segments = 0;
  std::uint64_t free_runs = 0;
  std::uint64_t longest_run = 0;  // segments
  std::uint64_t damaged = 0;
  std::uint64_t used_bytes = 0;  // of blocks, as rounded up to their class

  void add(const SegmentUse& segment);
  [[nodiscard]] std::uint64_t segment_bytes() const {
    return (total_segments - free_segments) * kSegmentBytes;
  }
  // Free inside segments that are in use, bitmaps and rests of slots included.
  [[nodiscard]] std::uint64_t inside_bytes() const { return segment_bytes() - used_bytes; }
};

[[nodiscard]] Census take_census(const HeapImage& image);

}  // namespace btd
