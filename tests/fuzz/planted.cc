// A decoder with a bug that a seeded test does not meet and a fuzzer must: the fuzzers' own test.
#include <cstring>

#include "tests/fuzz/target.h"

namespace {

struct Header {
  std::uint32_t magic = 0;
  std::uint32_t kind = 0;
  std::uint16_t length = 0;
  std::uint16_t reserved = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  constexpr std::uint32_t kMagic = 0x58445442;
  constexpr std::uint32_t kMessage = 0x2b171f09;
  Header header;
  if (size < sizeof(header)) return 0;
  std::memcpy(&header, bytes, sizeof(header));
  if (header.magic != kMagic || header.kind != kMessage) return 0;
  std::vector<std::uint8_t> message(size - sizeof(header));
  if (message.empty()) return 0;
  // The length is the peer's, and nobody compared it with what came.
  std::memcpy(message.data(), bytes + sizeof(header), header.length);
  asm volatile("" : : "r"(message.data()) : "memory");  // so that the copy is made
  return 0;
}
