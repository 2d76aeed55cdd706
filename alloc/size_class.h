// Size classes: 16-byte steps to 128, then four to a doubling, to 32 KiB; at most 25 % is wasted.
//
// A class of at least 512 bytes has at most 128 slots a segment, so its bitmap fits the segment's
// header. A smaller one keeps its bitmap at the segment's head, with room for two bits a slot. A
// recoverable segment of a large class spans several of 64 KiB, so that a header that is persisted
// serves many slots. All is computed at compile time.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "alloc/layout.h"

namespace btd {

struct SizeClass {
  std::uint32_t bytes = 0;                          // of a slot
  std::uint32_t slots = 0;                          // in one segment
  std::uint32_t data_offset = 0;                    // of slot 0 in the segment
  std::uint32_t bitmap_words = kInlineBitmapWords;  // of live bits, and as many of freed ones
  std::uint32_t span = 1;     // segments of 64 KiB that a recoverable segment takes
  std::uint64_t inverse = 0;  // slot_of() multiplies by it
  bool inline_bitmap = false;

  // Slots in `segments` neighbouring segments.
  [[nodiscard]] constexpr std::uint32_t slots_in(std::uint32_t segments) const {
    return static_cast<std::uint32_t>((segments * kSegmentBytes - data_offset) / bytes);
  }
};

// ceil(2^40 / bytes): (at * inverse) >> 40 == at / bytes for at < 2^20 and bytes <= 2^15.
inline constexpr unsigned kInverseShift = 40;
[[nodiscard]] constexpr std::uint64_t inverse_of(std::uint64_t bytes) {
  return ((std::uint64_t{1} << kInverseShift) + bytes - 1) / bytes;
}

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
    made.bitmap_words = static_cast<std::uint32_t>((most + 63) / 64);
    const std::uint64_t bitmap = 2 * made.bitmap_words * kWordBytes;
    // Slots stay as aligned as their size: a 128-byte slot lies on two whole lines.
    const std::uint64_t align = std::uint64_t{made.bytes} & (~std::uint64_t{made.bytes} + 1);
    made.data_offset = static_cast<std::uint32_t>((bitmap + align - 1) / align * align);
  }
  made.slots = made.slots_in(1);
  made.inverse = inverse_of(made.bytes);
  // At least 16 slots to a header.
  while (made.slots_in(made.span) < 16) made.span *= 2;
  if (made.bytes > 4096 && made.span < 4) made.span = 4;
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
[[nodiscard]] constexpr std::uint8_t compute_size_class(std::size_t bytes) {
  if (bytes <= 128) return static_cast<std::uint8_t>(bytes == 0 ? 0 : (bytes + 15) / 16 - 1);
  const auto doubling = static_cast<unsigned>(std::bit_width(bytes - 1)) - 1;  // 7 for 129..256
  const std::size_t quarter = ((bytes - 1) >> (doubling - 2)) - 4;
  return static_cast<std::uint8_t>(kLinearClasses + (doubling - 7) * 4 + quarter);
}

inline constexpr std::size_t kTabledBytes = 1024;
inline constexpr std::array<std::uint8_t, kTabledBytes / 16 + 1> kClassTable = [] {
  std::array<std::uint8_t, kTabledBytes / 16 + 1> table{};
  for (std::size_t i = 0; i < table.size(); ++i) table.at(i) = compute_size_class(i * 16);
  return table;
}();

[[nodiscard]] constexpr std::uint8_t size_class_of(std::size_t bytes) {
  if (bytes <= kTabledBytes) [[likely]]
    return kClassTable[(bytes + 15) / 16];
  return compute_size_class(bytes);
}

// A size of at least `bytes` whose blocks all begin at multiples of `alignment`, a power of two of
// at most 64 KiB: slots of a class lie as its size does, extents at segments.
[[nodiscard]] constexpr std::size_t aligned_bytes(std::size_t alignment, std::size_t bytes) {
  if (bytes <= kMaxSmallBytes) {
    for (std::size_t i = size_class_of(bytes); i < kClasses; ++i) {
      if (kSizeClasses.at(i).bytes % alignment == 0) return kSizeClasses.at(i).bytes;
    }
  }
  return bytes > kMaxSmallBytes ? bytes : kMaxSmallBytes + 1;
}

static_assert(kSizeClasses[size_class_of(1)].bytes == 16);
static_assert(kSizeClasses[size_class_of(129)].bytes == 160);
static_assert(kSizeClasses[size_class_of(4096)].bytes == 4096);
static_assert(kSizeClasses[size_class_of(4096)].slots == 16);
static_assert(kSizeClasses[size_class_of(64)].slots == 1020);
static_assert(kSizeClasses[kClasses - 1].bytes == kMaxSmallBytes);
static_assert(kSizeClasses[size_class_of(8192)].slots_in(kSizeClasses[size_class_of(8192)].span) >=
              32);
static_assert([] {
  for (const SizeClass& size : kSizeClasses) {
    if (size.inline_bitmap && size.slots_in(size.span) > kInlineBitmapBits) return false;
    for (std::uint64_t at = 0; at < size.span * kSegmentBytes; at += size.bytes) {
      if (((at * size.inverse) >> kInverseShift) != at / size.bytes) return false;
      const std::uint64_t last = at + size.bytes - 1;
      if (((last * size.inverse) >> kInverseShift) != at / size.bytes) return false;
    }
  }
  return true;
}());

}  // namespace btd
