// Format is atomic: killed before or after any of its system calls, it leaves a whole pool or none,
// and can be repeated. A traced child is stopped at each call and killed at the chosen one.
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <random>
#include <set>
#include <vector>

#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"
#include "fs/pool/superblock.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

// A stop of the traced child: its `calls`th entry to or exit from a system call since it entered
// its `renames`th renameat. How many calls there are in all varies (a loop device may be busy, the
// sanitizers' allocator asks for memory); what follows the last renameat does not.
struct Stop {
  int renames = 0;
  long calls = 0;
  auto operator<=>(const Stop&) const = default;
};

// Formats in a child that dies at `last`. Returns whether it came to its end; `passed` gets, for
// each number of renames, how many stops there were.
bool format_until(const std::string& path, const FormatOptions& options, const Stop& last,
                  std::vector<long>& passed) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    ::_exit(Pool::format(path, options).has_value() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL);
  passed.assign(1, 0);
  for (bool entry = true;; entry = !entry) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    ::waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) break;
    const long number =
        ::ptrace(PTRACE_PEEKUSER, child, offsetof(user_regs_struct, orig_rax), nullptr);
    if (entry && number == SYS_renameat) passed.push_back(0);
    ++passed.back();
    if (Stop{.renames = static_cast<int>(passed.size()) - 1, .calls = passed.back()} != last)
      continue;
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    return false;
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "format failed";
  return true;
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

// All stops from where the pool begins to be one, those just before, and a sample of the others.
std::set<Stop> stops(const std::vector<long>& passed) {
  std::mt19937 random(7);
  std::set<Stop> chosen;
  const int last = static_cast<int>(passed.size()) - 1;
  for (long calls = 1; calls <= passed.back(); ++calls) chosen.insert({last, calls});
  const long before = passed.at(static_cast<std::size_t>(last) - 1);
  for (long calls = std::max(1L, before - 12); calls <= before; ++calls)
    chosen.insert({last - 1, calls});
  for (int i = 0; i < 14; ++i) {
    const int renames = std::uniform_int_distribution<int>(0, last)(random);
    const long calls = passed.at(static_cast<std::size_t>(renames));
    chosen.insert({renames, std::uniform_int_distribution<long>(1, calls)(random)});
  }
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
  constexpr Stop kNever{-1, 0};
  std::vector<long> passed;
  prepare();
  ASSERT_TRUE(format_until(scratch.pool(), traced, kNever, passed));
  ASSERT_TRUE(is_whole_pool(scratch.pool()));
  ASSERT_GT(passed.size(), 1U) << "no superblock was named";
  int whole = 0, none = 0;
  for (const Stop& stop : stops(passed)) {
    SCOPED_TRACE("killed at call " + std::to_string(stop.calls) + " after renameat " +
                 std::to_string(stop.renames));
    prepare();
    std::vector<long> until;
    if (format_until(scratch.pool(), traced, stop, until)) continue;
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
