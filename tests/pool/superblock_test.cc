// The superblock: every sentence, and every single flipped bit.
#include "fs/pool/superblock.h"

#include <fcntl.h>

#include <cstring>

#include "alloc/unique_fd.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

media::Superblock sample() {
  auto made = make_superblock(media::EmulationKind::kRam, std::uint64_t{64} << 20);
  EXPECT_TRUE(made.has_value());
  return *made;
}

media::Superblock sealed(media::Superblock superblock) {
  superblock.crc32c = superblock_checksum(superblock);
  return superblock;
}

TEST(Superblock, SurvivesTheMedia) {
  Scratch scratch;
  const UniqueFd fd(::open(scratch.path("s").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const media::Superblock written = sample();
  ASSERT_WORKS(write_superblock(fd.get(), written, "/p"));
  const auto read = read_superblock(fd.get(), "/p");
  ASSERT_WORKS(read);
  EXPECT_EQ(std::memcmp(&*read, &written, sizeof written), 0);
}

TEST(Superblock, ChecksumIsCrc32c) {
  // "123456789" has the CRC-32C 0xe3069283; a known value for 4092 zero bytes follows from it only
  // by computing, so compare against the bitwise definition.
  const media::Superblock superblock = sample();
  const auto* bytes = reinterpret_cast<const unsigned char*>(&superblock);
  std::uint32_t crc = ~0U;
  for (std::size_t i = 0; i < offsetof(media::Superblock, crc32c); ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78U : 0U);
  }
  EXPECT_EQ(superblock_checksum(superblock), ~crc);
}

TEST(Superblock, TwoPoolsDiffer) {
  const auto a = sample(), b = sample();
  EXPECT_NE(uuid_text(a), uuid_text(b));
  EXPECT_EQ(uuid_text(a).size(), 36U);
  EXPECT_EQ(uuid_text(a)[14], '4');
}

TEST(Superblock, EverySentence) {
  const media::Superblock good = sample();
  ASSERT_WORKS(judge_superblock(good, sizeof good, "/p"));
  EXPECT_FAILS(judge_superblock(good, 100, "/p"), EUCLEAN, "truncated");
  EXPECT_FAILS(judge_superblock(good, 0, "/p"), EUCLEAN, "0 of 4096");

  media::Superblock bad = good;
  bad.magic[0] = 'X';
  EXPECT_FAILS(judge_superblock(sealed(bad), sizeof bad, "/p"), EUCLEAN, "no pool");
  bad = good;
  bad.capacity ^= 1;
  EXPECT_FAILS(judge_superblock(bad, sizeof bad, "/p"), EUCLEAN, "checksum");
  bad = good;
  bad.version = 7;
  EXPECT_FAILS(judge_superblock(sealed(bad), sizeof bad, "/p"), EPROTO, "version 7");
  bad = good;
  bad.flags = 1;
  EXPECT_FAILS(judge_superblock(sealed(bad), sizeof bad, "/p"), EPROTO, "features");
  bad = good;
  bad.emulation = static_cast<media::EmulationKind>(9);
  EXPECT_FAILS(judge_superblock(sealed(bad), sizeof bad, "/p"), EPROTO, "features");
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{3} << 20, ~std::uint64_t{0},
                                   std::uint64_t{1} << 63, std::uint64_t{1} << 12}) {
    bad = good;
    bad.arena_bytes = size;
    EXPECT_FAILS(judge_superblock(sealed(bad), sizeof bad, "/p"), EUCLEAN, "arena size");
  }
}

TEST(Superblock, EveryFlippedBitIsFound) {
  media::Superblock superblock = sample();
  auto* bytes = reinterpret_cast<unsigned char*>(&superblock);
  for (std::size_t bit = 0; bit < sizeof superblock * 8; ++bit) {
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1U << (bit % 8)));
    const Status judged = judge_superblock(superblock, sizeof superblock, "/p");
    ASSERT_FALSE(judged.has_value()) << "bit " << bit;
    ASSERT_EQ(judged.error().code, EUCLEAN);
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1U << (bit % 8)));
  }
}

TEST(Superblock, ArenasFitSmallAndLargePools) {
  EXPECT_EQ(choose_arena_bytes(std::uint64_t{16} << 20), std::uint64_t{2} << 20);
  EXPECT_EQ(choose_arena_bytes(std::uint64_t{100} << 20), std::uint64_t{4} << 20);
  EXPECT_EQ(choose_arena_bytes(std::uint64_t{1} << 30), std::uint64_t{64} << 20);
  EXPECT_EQ(choose_arena_bytes(std::uint64_t{1} << 50), std::uint64_t{64} << 20);
}

}  // namespace
}  // namespace btd
