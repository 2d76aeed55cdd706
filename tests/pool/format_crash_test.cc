// Format is atomic: killed before or after any of its system calls, it leaves a whole pool or none,
// and can be repeated. A traced child is stopped at each call and killed at the chosen one.
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <set>

#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"
#include "fs/pool/superblock.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

// Formats in a child that dies at its `stop`th entry to or exit from a system call. Returns how
// many it made if it came to its end, else 0.
long format_until(const std::string& path, const FormatOptions& options, long stop) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    ::_exit(Pool::format(path, options).has_value() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL);
  for (long calls = 1;; ++calls) {
    if (calls == stop) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return 0;
    }
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (WIFSTOPPED(status)) continue;
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "format failed";
    return calls;
  }
}

// True: a whole pool. False: none, and it says so.
bool is_whole_pool(const std::string& path) {
  auto lock = PoolLock::acquire(path);
  if (!lock) {
    EXPECT_TRUE(lock.error().code == EINVAL || lock.error().code == ENOENT) << lock.error().message;
    return false;
  }
  auto pool = Pool::open(path, *std::move(lock));
  EXPECT_TRUE(pool.has_value()) << pool.error().message;
  if (!pool) return true;
  auto names = Namespace::open((*pool)->meta());
  EXPECT_TRUE(names.has_value());
  EXPECT_TRUE((*names)->get(kRootId).has_value());
  for (const InodeId id : {0, 255})
    EXPECT_TRUE((*pool)->backing().create(id).has_value()) << "data is not complete";
  EXPECT_TRUE((*pool)->close().has_value());
  return true;
}

// The last calls, where the pool begins to be one, and a sample of all others.
std::set<long> stops(long total) {
  std::mt19937 random(7);
  std::set<long> chosen;
  for (long stop = std::max(1L, total - 24); stop < total; ++stop) chosen.insert(stop);
  for (int i = 0; i < 26; ++i) chosen.insert(std::uniform_int_distribution<long>(1, total)(random));
  return chosen;
}

void expect_atomic(const Scratch& scratch, const FormatOptions& first, const FormatOptions& traced,
                   bool over_pool) {
  const auto prepare = [&] {
    scratch.unmount_all();
    std::filesystem::remove_all(scratch.pool());
    std::filesystem::remove(scratch.pool() + ".img");
    if (over_pool) ASSERT_WORKS(Pool::format(scratch.pool(), first));
  };
  // The first format and check leave the sanitizers' allocator as the later ones find it: only then
  // does the number of calls repeat.
  prepare();
  ASSERT_GT(format_until(scratch.pool(), traced, -1), 0);
  ASSERT_TRUE(is_whole_pool(scratch.pool()));
  prepare();
  const long total = format_until(scratch.pool(), traced, -1);
  ASSERT_GT(total, 0);
  int whole = 0, none = 0;
  for (const long stop : stops(total)) {
    SCOPED_TRACE("killed at call " + std::to_string(stop) + " of " + std::to_string(total));
    prepare();
    if (format_until(scratch.pool(), traced, stop) != 0) continue;
    const bool is_pool = is_whole_pool(scratch.pool());
    ++(is_pool ? whole : none);
    FormatOptions again = traced;
    again.force = is_pool;
    ASSERT_WORKS(Pool::format(scratch.pool(), again));
    ASSERT_TRUE(is_whole_pool(scratch.pool()));
  }
  EXPECT_GT(none, 0);
  EXPECT_GT(whole, 0);
}

TEST(FormatCrash, OfAPlainDirectory) {
  const Scratch scratch;
  expect_atomic(scratch, {}, {}, false);
}

TEST(FormatCrash, OverAPool) {
  const Scratch scratch;
  expect_atomic(scratch, {}, {.force = true}, true);
}

TEST(FormatCrash, InRam) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  const Scratch scratch;
  expect_atomic(scratch, {}, {.emulate = Emulation::kRam, .capacity = kMinPoolBytes}, false);
}

TEST(FormatCrash, OverAPoolInRam) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  const Scratch scratch;
  const FormatOptions options{.emulate = Emulation::kRam, .capacity = kMinPoolBytes};
  FormatOptions again = options;
  again.force = true;
  expect_atomic(scratch, options, again, true);
}

TEST(FormatCrash, OnDisk) {
  if (!is_root() || ::access("/dev/loop-control", F_OK) != 0) GTEST_SKIP() << "no loop devices";
  const Scratch scratch;
  expect_atomic(scratch, {}, {.emulate = Emulation::kDisk, .capacity = kMinPoolBytes}, false);
}

}  // namespace
}  // namespace btd
