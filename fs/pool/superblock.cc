#include "fs/pool/superblock.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "alloc/crc.h"
#include "fs/pool/sentences.h"

namespace btd {

using media::EmulationKind;
using media::Superblock;

namespace {

// What the two ways out of a damaged superblock are.
std::string repair_hint(const std::string& pool) {
  return "btd check --repair " + pool + " restores it from its copy";
}

bool is_known(EmulationKind kind) {
  return kind == EmulationKind::kNone || kind == EmulationKind::kRam ||
         kind == EmulationKind::kDisk;
}

}  // namespace

std::uint64_t choose_arena_bytes(std::uint64_t capacity) {
  constexpr std::uint64_t kSmallest = std::uint64_t{2} << 20;  // room for the journal's lanes
  constexpr std::uint64_t kLargest = std::uint64_t{64} << 20;
  return std::bit_floor(std::clamp(capacity / 16, kSmallest, kLargest));
}

std::uint32_t superblock_checksum(const Superblock& superblock) {
  return ~crc32c(&superblock, offsetof(Superblock, crc32c));
}

Result<Superblock> make_superblock(EmulationKind emulation, std::uint64_t capacity) {
  Superblock made{};
  std::memcpy(made.magic, media::kPoolMagic, sizeof made.magic);
  made.version = media::kPoolVersion;
  made.emulation = emulation;
  made.capacity = capacity;
  made.arena_bytes = choose_arena_bytes(capacity);
  if (::getrandom(made.uuid, sizeof made.uuid, 0) != sizeof made.uuid)
    return cannot("draw a random number", errno);
  made.uuid[6] = static_cast<std::uint8_t>((made.uuid[6] & 0x0f) | 0x40);  // RFC 9562, version 4
  made.uuid[8] = static_cast<std::uint8_t>((made.uuid[8] & 0x3f) | 0x80);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  made.created_ns = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  made.crc32c = superblock_checksum(made);
  return made;
}

std::string uuid_text(const Superblock& superblock) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < sizeof superblock.uuid; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[superblock.uuid[i] >> 4];
    text += kDigits[superblock.uuid[i] & 15];
  }
  return text;
}

Status judge_superblock(const Superblock& superblock, std::size_t size, const std::string& pool) {
  if (size != sizeof superblock)
    return fail(EUCLEAN, "the superblock of " + pool + " is truncated: it has " +
                             std::to_string(size) + " of " + std::to_string(sizeof superblock) +
                             " bytes; " + repair_hint(pool));
  if (std::memcmp(superblock.magic, media::kPoolMagic, sizeof superblock.magic) != 0)
    return fail(EUCLEAN, "the superblock of " + pool +
                             " does not begin as one does: either this is no pool, or it is "
                             "damaged, and then " +
                             repair_hint(pool));
  if (superblock.crc32c != superblock_checksum(superblock))
    return fail(EUCLEAN, "the superblock of " + pool + " is damaged, its checksum is wrong; " +
                             repair_hint(pool));
  if (superblock.version != media::kPoolVersion)
    return fail(EPROTO, "the pool " + pool + " has version " + std::to_string(superblock.version) +
                            " and this program knows version " +
                            std::to_string(media::kPoolVersion) +
                            "; use the program that formatted it, or a newer one");
  if (superblock.flags != 0 || !is_known(superblock.emulation))
    return fail(EPROTO, "the pool " + pool +
                            " uses features that this program does not know; use the program that "
                            "formatted it, or a newer one");
  if (!std::has_single_bit(superblock.arena_bytes) ||
      superblock.arena_bytes != choose_arena_bytes(superblock.arena_bytes * 16))
    return fail(EUCLEAN, "the superblock of " + pool + " names an impossible arena size; " +
                             repair_hint(pool));
  return {};
}

Result<Superblock> read_superblock(int fd, const std::string& pool) {
  Superblock superblock{};
  std::size_t size = 0;
  while (size < sizeof superblock) {
    const ssize_t got = ::pread(fd, reinterpret_cast<char*>(&superblock) + size,
                                sizeof superblock - size, static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return cannot("read the superblock of " + pool, errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  BTD_TRY(judge_superblock(superblock, size, pool));
  return superblock;
}

Status write_superblock(int fd, const Superblock& superblock, const std::string& pool) {
  const ssize_t put = ::pwrite(fd, &superblock, sizeof superblock, 0);
  if (put != static_cast<ssize_t>(sizeof superblock))
    return cannot("write the superblock of " + pool, put < 0 ? errno : ENOSPC);
  if (::fsync(fd) != 0) return cannot("sync the superblock of " + pool, errno);
  return {};
}

}  // namespace btd
