// Size classes: 16-byte steps to 128, then four to a doubling, to 32 KiB; at most 25 % is wasted.
//
// A class of at least 256 bytes has at most 256 slots a segment, so its bitmap fits the segment's
// header. A smaller one keeps its bitmap at the segment's head. All is computed at compile time.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "alloc/layout.h"

namespace btd {

struct SizeClass {
  std::uint32_t bytes = 0;         // of a slot
  std::uint32_t slots = 0;         // in a segment
  std::uint32_t data_offset = 0;   // of slot 0 in the segment
  std::uint32_t bitmap_words = 0;  // of 64 slots
  bool inline_bitmap = false;
};

inline constexpr std::size_t kLinearClasses = 8;
inline constexpr std::size_t kClasses = kLinearClasses + 8 * 4;
inline constexpr std::size_t kMaxSmallBytes = 32 * 1024;

namespace detail {

constexpr SizeClass make_class(std::size_t index) {
  SizeClass made;
  if (index < kLinearClasses) {
    made.bytes = static_cast<std::uint32_t>(16 * (index + 1));
  } else {
    const std::size_t step = (index - kLinearClasses) % 4 + 5;  // 5..8 quarters of the doubling
    made.bytes = static_cast<std::uint32_t>(step * (32U << ((index - kLinearClasses) / 4)));
  }
  made.inline_bitmap = made.bytes >= kSegmentBytes / kInlineBitmapBits;
  if (!made.inline_bitmap) {
    // The bitmap covers the slots it displaces too: a few bits never used, no fixed point to solve.
    const std::uint64_t most = kSegmentBytes / made.bytes;
    const std::uint64_t bitmap = (most + 63) / 64 * kWordBytes;
    // Slots stay as aligned as their size: a 128-byte slot lies on two whole lines.
    const std::uint64_t align = std::uint64_t{made.bytes} & (~std::uint64_t{made.bytes} + 1);
    made.data_offset = static_cast<std::uint32_t>((bitmap + align - 1) / align * align);
  }
  made.slots = static_cast<std::uint32_t>((kSegmentBytes - made.data_offset) / made.bytes);
  made.bitmap_words = (made.slots + 63) / 64;
  return made;
}

constexpr std::array<SizeClass, kClasses> make_classes() {
  std::array<SizeClass, kClasses> all{};
  for (std::size_t i = 0; i < kClasses; ++i) all.at(i) = make_class(i);
  return all;
}

}  // namespace detail

inline constexpr std::array<SizeClass, kClasses> kSizeClasses = detail::make_classes();

// The class of an object of 1..32768 bytes.
[[nodiscard]] constexpr std::uint8_t size_class_of(std::size_t bytes) {
  if (bytes <= 128) return static_cast<std::uint8_t>(bytes == 0 ? 0 : (bytes + 15) / 16 - 1);
  const auto doubling = static_cast<unsigned>(std::bit_width(bytes - 1)) - 1;  // 7 for 129..256
  const std::size_t quarter = ((bytes - 1) >> (doubling - 2)) - 4;
  return static_cast<std::uint8_t>(kLinearClasses + (doubling - 7) * 4 + quarter);
}

static_assert(kSizeClasses[size_class_of(1)].bytes == 16);
static_assert(kSizeClasses[size_class_of(129)].bytes == 160);
static_assert(kSizeClasses[size_class_of(4096)].bytes == 4096);
static_assert(kSizeClasses[size_class_of(4096)].slots == 16);
static_assert(kSizeClasses[size_class_of(64)].slots == 1022);
static_assert(kSizeClasses[kClasses - 1].bytes == kMaxSmallBytes);

}  // namespace btd
