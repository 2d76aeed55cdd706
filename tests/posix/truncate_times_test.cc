// SPDX-License-Identifier: BSD-3-Clause
// truncate, ftruncate and posix_fallocate; timestamps: utimensat, what moves which time, ns, range.
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <limits>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Truncate = PosixTest;
using Timestamps = PosixTest;

TEST_F(Truncate, GrowsWithZerosAndShrinks) {
  ASSERT_EQ(0, WriteFile("x", "0123456789"));
  EXPECT_EQ(0, Touching("x", kMtime | kCtime, [] { return ::truncate("x", 10'000); }));
  EXPECT_EQ("0123456789" + std::string(9990, '\0'), ReadFile("x"));
  EXPECT_EQ(0, Touching("x", kMtime | kCtime, [] { return ::truncate("x", 4); }));
  EXPECT_EQ("0123", ReadFile("x"));
  EXPECT_OK(::truncate("x", 8));
  EXPECT_EQ(std::string("0123\0\0\0\0", 8), ReadFile("x")) << "cut bytes must not come back";
  EXPECT_OK(::truncate("x", 0));
  EXPECT_EQ("", ReadFile("x"));
}

TEST_F(Truncate, CutPagesComeBackAsZerosAtEveryBoundary) {
  for (const off_t cut : {1, 511, 4095, 4096, 4097, 12'287}) {
    ASSERT_EQ(0, WriteFile("x", std::string(16'384, 'x')));
    ASSERT_OK(::truncate("x", cut));
    ASSERT_OK(::truncate("x", 16'384));
    const std::string content = ReadFile("x");
    ASSERT_EQ(16'384U, content.size());
    EXPECT_EQ(std::string::npos, content.find('x', static_cast<size_t>(cut)));
    EXPECT_EQ(std::string(static_cast<size_t>(cut), 'x'), content.substr(0, size_t(cut)));
  }
}

TEST_F(Truncate, Errors) {
  ASSERT_EQ(0, WriteFile("x", "content"));
  EXPECT_ERR(EINVAL, ::truncate("x", -1));
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_ERR(EISDIR, ::truncate("d", 0));
  ASSERT_OK(::mkfifo("p", 0644));
  EXPECT_ERR(EINVAL, ::truncate("p", 0));
  const Fd reader = OpenFd("x", O_RDONLY);
  EXPECT_ERR(EINVAL, ::ftruncate(reader.get(), 0));
  const Fd writer = OpenFd("x", O_WRONLY);
  EXPECT_ERR(EINVAL, ::ftruncate(writer.get(), -1));
  Touching("x", kNone, [] {
    EXPECT_ERR_AS(kAlice, EACCES, ::truncate("x", 0));
    return 0;
  });
  EXPECT_EQ("content", ReadFile("x"));
}

TEST_F(Truncate, OpenForWritingIsEnoughWhateverTheModeBecomes) {
  ASSERT_EQ(0, WriteFile("x", "content", 0666));
  EXPECT_EQ(0, RunAs(kAlice, [] {
              const Fd fd(::open("x", O_WRONLY));
              return fd.valid() && ::ftruncate(fd.get(), 3) == 0 ? 0 : 1;
            }));
  const Fd fd = OpenFd("x", O_RDWR);
  ASSERT_OK(::chmod("x", 0));
  EXPECT_OK_AS(kAlice, ::ftruncate(fd.get(), 1));
  EXPECT_EQ("c", ReadFile("x"));
}

TEST_F(Truncate, BeyondTheLargestSizeFails) {
  for (const off_t size : {std::numeric_limits<off_t>::max(), off_t{999'999'999'999'999}}) {
    ASSERT_OK(Touch("x"));
    const int error = Err([size] { return ::truncate("x", size); });
    if (error != 0) {
      EXPECT_TRUE(error == EFBIG || error == EINVAL) << error;
    }
    EXPECT_EQ(error == 0 ? size : 0, Stat("x").st_size);
    ASSERT_OK(::unlink("x"));
  }
}

TEST_F(Truncate, PosixFallocateGrowsAndKeepsContent) {
  ASSERT_EQ(0, WriteFile("x", "content"));
  const Fd fd = OpenFd("x", O_RDWR);
  EXPECT_EQ(0, ::posix_fallocate(fd.get(), 0, 100'000));
  EXPECT_EQ(100'000, Stat("x").st_size);
  EXPECT_GE(Stat("x").st_blocks * 512, 100'000);
  EXPECT_EQ("content", ReadFile("x").substr(0, 7));
  EXPECT_EQ(0, ::posix_fallocate(fd.get(), 0, 10));
  EXPECT_EQ(100'000, Stat("x").st_size);
  EXPECT_EQ(EINVAL, ::posix_fallocate(fd.get(), 0, 0));
  EXPECT_EQ(EINVAL, ::posix_fallocate(fd.get(), -1, 10));
}

struct TimeCase {
  int64_t sec;
  long nsec;
};

TEST_F(Timestamps, NanosecondsAndRangeSurvive) {
  // Before 1970, the 32-bit limits and beyond.
  const TimeCase cases[] = {{0, 0},
                            {1, 1},
                            {1'500'000'000, 123'456'789},
                            {-1, 999'999'999},
                            {-1'000'000, 5},
                            {2'147'483'647, 999'999'999},
                            {2'147'483'648, 0},
                            {4'294'967'296, 7},
                            {8'000'000'000, 1}};
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "x"));
    for (const TimeCase& c : cases) {
      const timespec times[] = {{c.sec, c.nsec}, {c.sec, 999'999'999 - c.nsec}};
      EXPECT_OK(::utimensat(AT_FDCWD, "x", times, AT_SYMLINK_NOFOLLOW));
      const struct stat st = Stat("x");
      EXPECT_EQ(Ns(times[0]), Ns(st.st_atim));
      EXPECT_EQ(Ns(times[1]), Ns(st.st_mtim));
    }
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Timestamps, NowAndOmit) {
  ASSERT_OK(Touch("x"));
  const timespec old[] = {{1000, 1}, {2000, 2}};
  ASSERT_OK(::utimensat(AT_FDCWD, "x", old, 0));
  const struct stat before = Stat("x");
  NextTick();
  const timespec omit_both[] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
  EXPECT_OK(::utimensat(AT_FDCWD, "x", omit_both, 0));
  EXPECT_EQ(Ns(before.st_ctim), Ns(Stat("x").st_ctim)) << "omitting both changes nothing";
  const timespec atime_only[] = {{3000, 3}, {0, UTIME_OMIT}};
  EXPECT_OK(::utimensat(AT_FDCWD, "x", atime_only, 0));
  EXPECT_EQ(Ns(atime_only[0]), Ns(Stat("x").st_atim));
  EXPECT_EQ(Ns(old[1]), Ns(Stat("x").st_mtim));
  EXPECT_GT(Ns(Stat("x").st_ctim), Ns(before.st_ctim));
  const timespec mtime_now[] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  EXPECT_OK(::utimensat(AT_FDCWD, "x", mtime_now, 0));
  EXPECT_EQ(Ns(atime_only[0]), Ns(Stat("x").st_atim));
  EXPECT_GE(Ns(Stat("x").st_mtim), Ns(now));
  EXPECT_LT(Ns(Stat("x").st_mtim), Ns(now) + 5'000'000'000);
}

TEST_F(Timestamps, WhoMaySet) {
  ASSERT_OK(Touch("x", 0666));
  ASSERT_OK(::chown("x", kAlice.uid, kAlice.gid));
  const timespec given[] = {{1, 1}, {2, 2}};
  const timespec now[] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  const timespec half[] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  EXPECT_OK_AS(kAlice, ::utimensat(AT_FDCWD, "x", given, 0));
  EXPECT_ERR_AS(kBob, EPERM, ::utimensat(AT_FDCWD, "x", given, 0));
  EXPECT_ERR_AS(kBob, EPERM, ::utimensat(AT_FDCWD, "x", half, 0));
  EXPECT_OK_AS(kBob, ::utimensat(AT_FDCWD, "x", now, 0));
  EXPECT_OK_AS(kBob, ::utimensat(AT_FDCWD, "x", nullptr, 0));
  ASSERT_OK(::chmod("x", 0644));
  EXPECT_ERR_AS(kBob, EACCES, ::utimensat(AT_FDCWD, "x", nullptr, 0));
  EXPECT_ERR_AS(kBob, EPERM, ::utimensat(AT_FDCWD, "x", given, 0));
  ASSERT_OK(::chmod("x", 0444));
  EXPECT_OK_AS(kAlice, ::utimensat(AT_FDCWD, "x", nullptr, 0));
  const timespec bad[] = {{0, 1'000'000'000}, {0, 0}};
  EXPECT_ERR(EINVAL, ::utimensat(AT_FDCWD, "x", bad, 0));
}

TEST_F(Timestamps, LinksAreFollowedUnlessAsked) {
  ASSERT_OK(Touch("x"));
  ASSERT_OK(::symlink("x", "l"));
  const timespec one[] = {{100, 1}, {200, 2}};
  const timespec two[] = {{300, 3}, {400, 4}};
  EXPECT_OK(::utimensat(AT_FDCWD, "l", one, 0));
  EXPECT_OK(::utimensat(AT_FDCWD, "l", two, AT_SYMLINK_NOFOLLOW));
  EXPECT_EQ(Ns(one[1]), Ns(Stat("x").st_mtim));
  EXPECT_EQ(Ns(two[1]), Ns(Stat("l").st_mtim));
}

TEST_F(Timestamps, FutimensOnDescriptor) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDONLY, 0444);
  const timespec given[] = {{10, 1}, {20, 2}};
  EXPECT_OK(::futimens(fd.get(), given));
  EXPECT_EQ(Ns(given[1]), Ns(Stat("x").st_mtim));
}

TEST_F(Timestamps, WritingMovesMtimeAndReadingDoesNot) {
  ASSERT_EQ(0, WriteFile("x", "content"));
  const Fd fd = OpenFd("x", O_RDWR);
  char c = 0;
  EXPECT_EQ(1, Touching("x", kNone, [&] { return int(::pread(fd.get(), &c, 1, 0)); }));
  EXPECT_EQ(1, Touching("x", kMtime | kCtime, [&] { return int(::pwrite(fd.get(), "a", 1, 0)); }));
  EXPECT_EQ(1, Touching("x", kMtime | kCtime, [&] { return int(::pwrite(fd.get(), "a", 1, 99)); }));
  EXPECT_EQ(0, Touching("x", kNone, [] { return TryOpen("x", O_RDWR); }));
}

TEST_F(Timestamps, GivenMtimeStaysThroughClose) {
  {
    const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
    ASSERT_EQ(3, ::write(fd.get(), "abc", 3));
    const timespec given[] = {{10, 1}, {20, 2}};
    ASSERT_OK(::futimens(fd.get(), given));
  }
  EXPECT_EQ(20'000'000'002, Ns(Stat("x").st_mtim));
  NextTick();
  EXPECT_EQ(20'000'000'002, Ns(Stat("x").st_mtim));
  EXPECT_EQ("abc", ReadFile("x"));
  EXPECT_EQ(20'000'000'002, Ns(Stat("x").st_mtim));
}

TEST_F(Timestamps, StoringToAMappingMovesMtimeByMsync) {
  ASSERT_EQ(0, WriteFile("x", std::string(4096, 'a')));
  const Fd fd = OpenFd("x", O_RDWR);
  const struct stat before = Stat("x");
  NextTick();
  void* map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(MAP_FAILED, map);
  *static_cast<char*>(map) = 'b';
  ASSERT_OK(::msync(map, 4096, MS_SYNC));
  ASSERT_OK(::munmap(map, 4096));
  ASSERT_OK(::fsync(fd.get()));
  EXPECT_GT(Ns(Stat("x").st_mtim), Ns(before.st_mtim));
}

TEST_F(Timestamps, BirthTimeStays) {
  ASSERT_OK(Touch("x"));
  struct statx first{};
  ASSERT_OK(::statx(AT_FDCWD, "x", 0, STATX_BTIME | STATX_BASIC_STATS, &first));
  if ((first.stx_mask & STATX_BTIME) == 0) BTD_UNSUPPORTED("no birth time is kept");
  NextTick();
  ASSERT_EQ(0, WriteFile("x", "more"));
  ASSERT_OK(::rename("x", "y"));
  struct statx second{};
  ASSERT_OK(::statx(AT_FDCWD, "y", 0, STATX_BTIME | STATX_BASIC_STATS, &second));
  EXPECT_EQ(first.stx_btime.tv_sec, second.stx_btime.tv_sec);
  EXPECT_EQ(first.stx_btime.tv_nsec, second.stx_btime.tv_nsec);
}

}  // namespace
}  // namespace btd::posix
