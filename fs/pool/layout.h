// The superblock of a pool as it lies on the media, and nothing else. Little-endian.
//
// It is written once, when a pool is formatted, and never changed: what changes while a pool is in
// use is the business of the heap in POOL/meta. The place of magic, version and checksum is the
// same in every version, so that an older program can tell a newer pool from a damaged one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace btd::media {

static_assert(std::endian::native == std::endian::little, "the superblock is little-endian");

inline constexpr char kPoolMagic[8] = {'B', 'T', 'D', 'P', 'O', 'O', 'L', '\n'};
inline constexpr std::uint32_t kPoolVersion = 1;
inline constexpr std::size_t kSuperblockBytes = 4096;

enum class EmulationKind : std::uint32_t { kNone = 0, kRam = 1, kDisk = 2 };

struct Superblock {
  char magic[8];              // kPoolMagic
  std::uint32_t version;      // kPoolVersion
  std::uint32_t flags;        // none known: all must be 0
  std::uint8_t uuid[16];      // drawn at format
  EmulationKind emulation;    // what enforces the capacity
  std::uint32_t unused0;      // 0
  std::uint64_t capacity;     // bytes of the file system when it was formatted
  std::int64_t created_ns;    // since the epoch
  std::uint64_t arena_bytes;  // of one arena in POOL/meta, a power of two
  std::uint8_t unused[4028];  // 0
  std::uint32_t crc32c;       // of all bytes before it
};

static_assert(std::is_trivially_copyable_v<Superblock> && std::is_standard_layout_v<Superblock>);
static_assert(sizeof(Superblock) == kSuperblockBytes);
static_assert(offsetof(Superblock, magic) == 0);
static_assert(offsetof(Superblock, version) == 8);
static_assert(offsetof(Superblock, flags) == 12);
static_assert(offsetof(Superblock, uuid) == 16);
static_assert(offsetof(Superblock, emulation) == 32);
static_assert(offsetof(Superblock, unused0) == 36);
static_assert(offsetof(Superblock, capacity) == 40);
static_assert(offsetof(Superblock, created_ns) == 48);
static_assert(offsetof(Superblock, arena_bytes) == 56);
static_assert(offsetof(Superblock, unused) == 64);
static_assert(offsetof(Superblock, crc32c) == kSuperblockBytes - 4);

}  // namespace btd::media
