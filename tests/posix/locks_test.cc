// SPDX-License-Identifier: BSD-3-Clause
// flock, fcntl locks and open-file-description locks between processes.
#include <sys/file.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Locks = PosixTest;

int Fcntl(int fd, int command, short type, off_t start = 0, off_t length = 0) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return ::fcntl(fd, command, &lock);
}

/// Error of the same try in another process.
int TryElsewhere(int command, short type, off_t start = 0, off_t length = 0) {
  return RunChild([=] {
    const Fd fd(::open("x", O_RDWR));
    return Err([&] { return Fcntl(fd.get(), command, type, start, length); });
  });
}

int FlockElsewhere(int operation) {
  return RunChild([=] {
    const Fd fd(::open("x", O_RDWR));
    return Err([&] { return ::flock(fd.get(), operation | LOCK_NB); });
  });
}

TEST_F(Locks, FlockBetweenProcesses) {
  Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(::flock(fd.get(), LOCK_SH));
  EXPECT_EQ(0, FlockElsewhere(LOCK_SH));
  EXPECT_EQ(EWOULDBLOCK, FlockElsewhere(LOCK_EX));
  ASSERT_OK(::flock(fd.get(), LOCK_EX));
  EXPECT_EQ(EWOULDBLOCK, FlockElsewhere(LOCK_SH));
  const Fd second = OpenFd("x", O_RDWR);
  EXPECT_ERR(EWOULDBLOCK, ::flock(second.get(), LOCK_SH | LOCK_NB));
  ASSERT_OK(::flock(fd.get(), LOCK_UN));
  EXPECT_EQ(0, FlockElsewhere(LOCK_EX));
  ASSERT_OK(::flock(fd.get(), LOCK_EX));
  fd.Close();
  EXPECT_EQ(0, FlockElsewhere(LOCK_EX)) << "close gives the lock back";
}

TEST_F(Locks, FcntlRangesBetweenProcesses) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_WRLCK, 100, 50));
  EXPECT_EQ(EAGAIN, TryElsewhere(F_SETLK, F_WRLCK, 120, 1));
  EXPECT_EQ(EAGAIN, TryElsewhere(F_SETLK, F_RDLCK, 149, 100));
  EXPECT_EQ(0, TryElsewhere(F_SETLK, F_WRLCK, 0, 100));
  EXPECT_EQ(0, TryElsewhere(F_SETLK, F_WRLCK, 150, 0));
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_UNLCK, 110, 10));
  EXPECT_EQ(0, TryElsewhere(F_SETLK, F_WRLCK, 110, 10)) << "the middle is free";
  EXPECT_EQ(EAGAIN, TryElsewhere(F_SETLK, F_WRLCK, 109, 1));
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_RDLCK, 100, 50));
  EXPECT_EQ(0, TryElsewhere(F_SETLK, F_RDLCK, 100, 50));
  EXPECT_EQ(EAGAIN, TryElsewhere(F_SETLK, F_WRLCK, 100, 50));
}

TEST_F(Locks, GetlkNamesTheHolder) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_WRLCK, 10, 5));
  const pid_t holder = ::getpid();
  EXPECT_EQ(0, RunChild([&] {
              const Fd own(::open("x", O_RDWR));
              struct flock lock{};
              lock.l_type = F_RDLCK;
              lock.l_whence = SEEK_SET;
              if (::fcntl(own.get(), F_GETLK, &lock) != 0) return 1;
              if (lock.l_type != F_WRLCK || lock.l_start != 10 || lock.l_len != 5) return 2;
              return lock.l_pid == holder ? 0 : 3;
            }));
}

TEST_F(Locks, AnyCloseDropsThePosixLocksOfTheProcess) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_WRLCK));
  EXPECT_EQ(EAGAIN, TryElsewhere(F_SETLK, F_WRLCK));
  EXPECT_OK(TryOpen("x", O_RDONLY));
  EXPECT_EQ(0, TryElsewhere(F_SETLK, F_WRLCK));
}

TEST_F(Locks, DescriptionLocksBelongToTheOpen) {
  Fd one = OpenFd("x", O_CREAT | O_RDWR);
  const Fd two = OpenFd("x", O_RDWR);
  ASSERT_OK(Fcntl(one.get(), F_OFD_SETLK, F_WRLCK, 0, 10));
  EXPECT_ERR(EAGAIN, Fcntl(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10));
  EXPECT_OK(TryOpen("x", O_RDONLY));
  EXPECT_ERR(EAGAIN, Fcntl(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10)) << "another close keeps it";
  one.Close();
  EXPECT_OK(Fcntl(two.get(), F_OFD_SETLK, F_WRLCK, 5, 10));
}

/// Starts a child that takes the lock, tells so, and holds it until it is killed.
template <class Take>
pid_t Holder(Take take) {
  int ready[2];
  if (::pipe(ready) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    const Fd fd(::open("x", O_RDWR));
    const char result = take(fd.get()) == 0 ? 'y' : 'n';
    if (::write(ready[1], &result, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char result = 'n';
  EXPECT_EQ(1, ::read(ready[0], &result, 1));
  EXPECT_EQ('y', result);
  ::close(ready[0]);
  ::close(ready[1]);
  return child;
}

/// Kills the holder after a while, from a child of its own.
void KillSoon(pid_t holder) {
  if (::fork() == 0) {
    ::usleep(150'000);
    ::kill(holder, SIGKILL);
    ::_exit(0);
  }
}

template <class Take, class Wait>
void BlockedUntilTheHolderDies(Take take, Wait wait) {
  const pid_t holder = Holder(take);
  const auto start = std::chrono::steady_clock::now();
  KillSoon(holder);
  ::alarm(20);
  EXPECT_OK(wait());
  ::alarm(0);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
  while (::waitpid(-1, nullptr, 0) > 0) {
  }
}

TEST_F(Locks, WaitersGetTheLockWhenTheHolderIsKilled) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  BlockedUntilTheHolderDies([](int own) { return ::flock(own, LOCK_EX); },
                            [&] { return ::flock(fd.get(), LOCK_EX); });
  ASSERT_OK(::flock(fd.get(), LOCK_UN));
  BlockedUntilTheHolderDies([](int own) { return Fcntl(own, F_SETLK, F_WRLCK); },
                            [&] { return Fcntl(fd.get(), F_SETLKW, F_WRLCK); });
}

TEST_F(Locks, DeadlockIsFound) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(Fcntl(fd.get(), F_SETLK, F_WRLCK, 0, 1));
  int ready[2];
  ASSERT_OK(::pipe(ready));
  const pid_t child = ::fork();
  if (child == 0) {
    const Fd own(::open("x", O_RDWR));
    if (Fcntl(own.get(), F_SETLK, F_WRLCK, 1, 1) != 0) ::_exit(1);
    if (::write(ready[1], "x", 1) != 1) ::_exit(2);
    ::alarm(20);
    ::_exit(Err([&] { return Fcntl(own.get(), F_SETLKW, F_WRLCK, 0, 1); }));
  }
  char c = 0;
  ASSERT_EQ(1, ::read(ready[0], &c, 1));
  ::usleep(100'000);
  ::alarm(20);
  EXPECT_ERR(EDEADLK, Fcntl(fd.get(), F_SETLKW, F_WRLCK, 1, 1));
  EXPECT_OK(Fcntl(fd.get(), F_SETLK, F_UNLCK));
  ::alarm(0);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(0, WEXITSTATUS(status));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(Locks, ModesMustFit) {
  ASSERT_OK(Touch("x"));
  const Fd reader = OpenFd("x", O_RDONLY);
  EXPECT_ERR(EBADF, Fcntl(reader.get(), F_SETLK, F_WRLCK));
  EXPECT_OK(Fcntl(reader.get(), F_SETLK, F_RDLCK));
  EXPECT_OK(::flock(reader.get(), LOCK_EX));
}

}  // namespace
}  // namespace btd::posix
