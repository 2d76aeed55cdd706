#include "alloc/crc.h"

#include <nmmintrin.h>

#include <cstring>

namespace btd::detail {

const bool kHasCrcInstruction = __builtin_cpu_supports("sse4.2") != 0;

__attribute__((target("sse4.2"))) std::uint32_t crc32c_by_instruction(const void* data,
                                                                      std::size_t len,
                                                                      std::uint32_t seed) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint64_t crc = seed;
  for (; len >= sizeof(std::uint64_t); len -= sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof(word));
    crc = _mm_crc32_u64(crc, word);
    at += sizeof(word);
  }
  for (; len > 0; --len) crc = _mm_crc32_u8(static_cast<std::uint32_t>(crc), *at++);
  return static_cast<std::uint32_t>(crc);
}

}  // namespace btd::detail
