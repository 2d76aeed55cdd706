// Checksums of the on-media structures.
//
// CRC32C guards whole records. A checked word guards 8 bytes that must change in one store: 56 bits
// of value and a CRC-8 (polynomial 0x07, Hamming distance 4 up to 119 bits, so every error of up to
// three bits is seen). Both are pure functions.
#pragma once

#include <isa-l/crc.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace btd {

namespace detail {

extern const bool kHasCrcInstruction;
[[nodiscard]] std::uint32_t crc32c_by_instruction(const void* data, std::size_t len,
                                                  std::uint32_t seed);

}  // namespace detail

// CRC32C of `len` bytes, continuing from `seed`. `len` fits an int: records are far smaller.
[[nodiscard]] inline std::uint32_t crc32c(const void* data, std::size_t len,
                                          std::uint32_t seed = 0xFFFFFFFFU) {
  // Up to so much the library's choice of a way costs more than the sum.
  constexpr std::size_t kShort = 256;
  if (len <= kShort && detail::kHasCrcInstruction)
    return detail::crc32c_by_instruction(data, len, seed);
  // libisal takes a non-const pointer but only reads.
  auto* bytes = static_cast<unsigned char*>(const_cast<void*>(data));
  return crc32_iscsi(bytes, static_cast<int>(len), seed);
}

namespace detail {

inline constexpr std::array<std::uint8_t, 256> kCrc8Table = [] {
  std::array<std::uint8_t, 256> table{};
  for (unsigned i = 0; i < 256; ++i) {
    unsigned crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x80U) != 0 ? ((crc << 1) ^ 0x07U) : crc << 1;
    table.at(i) = static_cast<std::uint8_t>(crc);
  }
  return table;
}();

}  // namespace detail

[[nodiscard]] constexpr std::uint8_t crc8_of56(std::uint64_t value) {
  std::uint8_t crc = 0x5A;  // not 0, so that an all-zero word is not a valid one
  for (int shift = 48; shift >= 0; shift -= 8) {
    crc = detail::kCrc8Table[crc ^ static_cast<std::uint8_t>(value >> shift)];
  }
  return crc;
}

inline constexpr std::uint64_t kCheckedMax = (std::uint64_t{1} << 56) - 1;

// Packs a value of up to 56 bits with its CRC-8 into one word.
[[nodiscard]] constexpr std::uint64_t checked_word(std::uint64_t value) {
  return (value << 8) | crc8_of56(value);
}

// The value of a checked word, or nullopt if the word is damaged.
[[nodiscard]] constexpr std::optional<std::uint64_t> checked_value(std::uint64_t word) {
  const std::uint64_t value = word >> 8;
  if ((word & 0xFFU) != crc8_of56(value)) return std::nullopt;
  return value;
}

static_assert(checked_value(checked_word(kCheckedMax)) == kCheckedMax);
static_assert(!checked_value(0));

}  // namespace btd
