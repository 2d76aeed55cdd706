// Damaged metadata: whatever bytes are wrong, open and check answer with an error or a report. They
// do not crash, hang, or lose a file of a pool that is whole. Meant to be run under sanitizers too.
#include <fcntl.h>
#include <sys/stat.h>

#include <random>

#include "alloc/layout.h"
#include "alloc/unique_fd.h"
#include "fs/check/check.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

constexpr int kFiles = 400;
constexpr std::uint64_t kLanes = 16;

class Fuzz : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_root()) GTEST_SKIP() << "mounting needs root";
    ASSERT_WORKS(Pool::format(scratch_.pool(),
                              {.emulate = Emulation::kRam, .capacity = std::uint64_t{16} << 20}));
    auto pool = open();
    ASSERT_WORKS(pool);
    auto names = *Namespace::open((*pool)->meta());
    for (int i = 0; i < kFiles; ++i) {
      const InodeId id = *names->allocate_id();
      ASSERT_WORKS(names->create(kRootId, "file " + std::to_string(i), id, {.mode = S_IFREG | 0644},
                                 {.session = 1, .unique = id}));
    }
    ASSERT_WORKS(names->set_xattr(kRootId, "user.large", std::string(9000, 'x'), 0, {}));
    // Not closed: the journal holds records that the next open replays.
    pool->reset();
    arena_ = scratch_.pool() + "/meta/arena.0";
    good_ = read_whole(arena_);
    ASSERT_FALSE(good_.empty());
    for (std::size_t at = 0; at < good_.size(); at += kLineBytes)
      if (std::string_view(good_).substr(at, kLineBytes).find_first_not_of('\0') != good_.npos)
        used_lines_.push_back(at);
    ASSERT_GT(used_lines_.size(), 100U);
  }

  Result<std::unique_ptr<Pool>> open() {
    BTD_ASSIGN(PoolLock lock, PoolLock::acquire(scratch_.pool()));
    return Pool::open(scratch_.pool(), std::move(lock));
  }

  // Every way of using the pool, on damaged bytes and then on those that a repair left.
  void use(const std::string& bytes) {
    write_in_place(bytes);
    const auto report = check_pool(scratch_.pool(), {});
    // What the check does not see must not matter: at most the latest records of the journal's
    // lanes are gone, because a damaged last record looks like one that a crash cut off.
    if (exit_of(report) == CheckExit::kClean) {
      EXPECT_GE(report->files + kLanes, static_cast<std::uint64_t>(kFiles));
    }
    // Without repair nothing changed.
    ASSERT_TRUE(read_whole(arena_) == bytes) << "a check without repair wrote to the pool";
    (void)check_pool(scratch_.pool(), {.repair = true});
    auto pool = open();
    if (!pool) {
      EXPECT_FALSE(pool.error().message.empty());
      return;
    }
    auto names = Namespace::open((*pool)->meta());
    if (!names) return;
    (void)(*names)->list(kRootId, 0, 1000);
    for (int i = 0; i < 4; ++i) {
      const auto id = (*names)->allocate_id();
      if (!id) return;
      (void)(*names)->create(kRootId, "new " + std::to_string(i), *id, {.mode = S_IFREG}, {});
      (void)(*names)->unlink(kRootId, "file " + std::to_string(i), {});
    }
    (void)(*names)->remove_xattr(kRootId, "user.large", {});
    (void)(*pool)->close();
  }

  void write_in_place(const std::string& bytes) const {
    const UniqueFd fd(::open(arena_.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
  }

  // A line that holds something: in an empty one nothing can be damaged.
  std::size_t pick_line() {
    return used_lines_[std::uniform_int_distribution<std::size_t>(0,
                                                                  used_lines_.size() - 1)(random_)];
  }

  Scratch scratch_;
  std::string arena_, good_;
  std::vector<std::size_t> used_lines_;
  std::mt19937 random_{1};
};

TEST_F(Fuzz, NoDamageNoFinding) {
  const auto report = check_pool(scratch_.pool(), {});
  ASSERT_WORKS(report);
  EXPECT_EQ(exit_of(report), CheckExit::kClean);
  EXPECT_EQ(report->files, static_cast<std::uint64_t>(kFiles));
  EXPECT_TRUE(read_whole(arena_) == good_) << "a check without repair wrote to the pool";
}

TEST_F(Fuzz, SingleBits) {
  for (int i = 0; i < 150; ++i) {
    const std::size_t bit = pick_line() * 8 + random_() % (kLineBytes * 8);
    SCOPED_TRACE("bit " + std::to_string(bit));
    std::string bytes = good_;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    use(bytes);
  }
}

TEST_F(Fuzz, EveryByteOfTheHeader) {
  for (std::size_t at = 0; at < 1024; at += 8) {
    SCOPED_TRACE(at);
    std::string bytes = good_;
    bytes[at + random_() % 8] = static_cast<char>(random_());
    use(bytes);
  }
}

TEST_F(Fuzz, LinesOfZerosOnesAndNoise) {
  for (int i = 0; i < 120; ++i) {
    const std::size_t at = pick_line();
    SCOPED_TRACE("line at " + std::to_string(at) + ", round " + std::to_string(i));
    std::string bytes = good_;
    for (std::size_t j = at; j < at + kLineBytes; ++j)
      bytes[j] = i % 3 == 0 ? '\0' : i % 3 == 1 ? '\xff' : static_cast<char>(random_());
    use(bytes);
  }
}

TEST_F(Fuzz, PagesOfAnotherPlace) {
  for (int i = 0; i < 60; ++i) {
    const std::size_t from = pick_line() / kPageBytes * kPageBytes;
    const std::size_t to = pick_line() / kPageBytes * kPageBytes;
    SCOPED_TRACE("page at " + std::to_string(from) + " over " + std::to_string(to));
    std::string bytes = good_;
    bytes.replace(to, kPageBytes, good_, from, kPageBytes);
    use(bytes);
  }
}

TEST_F(Fuzz, ManyBytesAtOnce) {
  for (int i = 0; i < 60; ++i) {
    SCOPED_TRACE(i);
    std::string bytes = good_;
    for (int j = 0; j < 1 << (i % 10); ++j)
      bytes[pick_line() + random_() % kLineBytes] = static_cast<char>(random_());
    use(bytes);
  }
}

TEST_F(Fuzz, ACutOffArena) {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{4096}, good_.size() / 2, good_.size() - 1}) {
    SCOPED_TRACE(size);
    std::filesystem::resize_file(arena_, size);
    EXPECT_FAILS(open(), EUCLEAN, "truncated");
    EXPECT_EQ(exit_of(check_pool(scratch_.pool(), {})), CheckExit::kUncorrected);
    write_whole(arena_, good_);
  }
  std::filesystem::remove(arena_);
  EXPECT_FAILS(open(), EUCLEAN, "arena.0");
  EXPECT_EQ(exit_of(check_pool(scratch_.pool(), {.repair = true})), CheckExit::kUncorrected);
}

}  // namespace
}  // namespace btd
