// Making, reading and judging superblocks. Touches the descriptor that it is given and nothing
// else. Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "alloc/result.h"
#include "fs/pool/layout.h"

namespace btd {

inline constexpr std::uint64_t kMinPoolBytes = std::uint64_t{16} << 20;

// Arenas of 1/16 of the pool: small enough to leave a small pool to its files, large enough that a
// large pool needs few of them.
[[nodiscard]] std::uint64_t choose_arena_bytes(std::uint64_t capacity);

// Draws the uuid, takes the time, computes the checksum.
Result<media::Superblock> make_superblock(media::EmulationKind emulation, std::uint64_t capacity);
[[nodiscard]] std::uint32_t superblock_checksum(const media::Superblock& superblock);
[[nodiscard]] std::string uuid_text(const media::Superblock& superblock);

// Reads and judges. `pool` names it in sentences. EUCLEAN truncated, not ours or damaged; EPROTO a
// version or a flag that this program does not know; EIO.
Result<media::Superblock> read_superblock(int fd, const std::string& pool);
// The judgement alone, of `size` bytes that were read.
Status judge_superblock(const media::Superblock& superblock, std::size_t size,
                        const std::string& pool);
// Writes at offset 0 and syncs the file.
Status write_superblock(int fd, const media::Superblock& superblock, const std::string& pool);

}  // namespace btd
