// PoolLock: exclusive, inherited, ends with the last holder, names the holder.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "fs/pool/pool.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

class PoolLockTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_WORKS(Pool::format(scratch_.pool(), {})); }
  Scratch scratch_;
};

// A process that has what its parent had, until it is ended.
class Sleeper {
 public:
  Sleeper() : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper() { end(); }
  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

TEST_F(PoolLockTest, ExcludesAndNamesTheHolder) {
  const auto first = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(first);
  EXPECT_FAILS(PoolLock::acquire(scratch_.pool()), EBUSY,
               "(process " + std::to_string(::getpid()) + ")");
}

TEST_F(PoolLockTest, IsFreeWhenItsHolderIsGone) {
  {
    ASSERT_WORKS(PoolLock::acquire(scratch_.pool()));
  }
  ASSERT_WORKS(PoolLock::acquire(scratch_.pool()));
}

TEST_F(PoolLockTest, AnInheritorHoldsItAndIsNamed) {
  auto lock = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(lock);
  Sleeper child;
  {
    const PoolLock gone = *std::move(lock);
  }
  EXPECT_FAILS(PoolLock::acquire(scratch_.pool()), EBUSY,
               "(process " + std::to_string(child.pid()) + ")");
  child.end();
  ASSERT_WORKS(PoolLock::acquire(scratch_.pool()));
}

TEST_F(PoolLockTest, AnInheritedDescriptorOpensThePool) {
  auto lock = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(lock);
  const int copy = ::dup(lock->fd());
  {
    const PoolLock gone = *std::move(lock);
  }
  auto pool = Pool::open(scratch_.pool(), PoolLock::inherited(copy));
  ASSERT_WORKS(pool);
  EXPECT_FAILS(PoolLock::acquire(scratch_.pool()), EBUSY, "in use");
  pool->reset();
  ASSERT_WORKS(PoolLock::acquire(scratch_.pool()));
}

TEST_F(PoolLockTest, ALockOfAnotherPoolIsRefused) {
  const std::string other = scratch_.path("other");
  ASSERT_WORKS(Pool::format(other, {}));
  auto lock = PoolLock::acquire(other);
  ASSERT_WORKS(lock);
  EXPECT_FAILS(Pool::open(scratch_.pool(), *std::move(lock)), EINVAL, "not of the pool");
}

TEST_F(PoolLockTest, APoolInUseIsNotFormatted) {
  const auto lock = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(lock);
  EXPECT_FAILS(Pool::format(scratch_.pool(), {.force = true}), EBUSY, "in use");
}

TEST_F(PoolLockTest, WhatIsNoPool) {
  EXPECT_FAILS(PoolLock::acquire(scratch_.path("none")), ENOENT, "no directory");
  write_whole(scratch_.path("file"), "x");
  EXPECT_FAILS(PoolLock::acquire(scratch_.path("file")), ENOTDIR, "not a directory");
  std::filesystem::create_directory(scratch_.path("empty"));
  EXPECT_FAILS(PoolLock::acquire(scratch_.path("empty")), EINVAL, "not a pool");
  write_whole(scratch_.path("empty/superblock.new"), "x");
  EXPECT_FAILS(PoolLock::acquire(scratch_.path("empty")), EINVAL, "cut short");
}

}  // namespace
}  // namespace btd
