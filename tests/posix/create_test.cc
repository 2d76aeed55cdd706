// SPDX-License-Identifier: BSD-3-Clause
// Making things: open with O_CREAT and its flags, mkdir, mknod, mkfifo, symlink, who owns the new
// file, setgid directories, and the times of the directory that holds it.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Create = PosixTest;
using Open = PosixTest;

TEST_F(Create, EveryKindHasItsTypeModeAndOwner) {
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    const bool device = kind == Kind::kBlock || kind == Kind::kChar;
    EXPECT_EQ(0, device ? Err([&] { return Make(kind, "x", 0640); })
                        : ErrAs(kAlice, [&] { return Make(kind, "x", 0640); }));
    const struct stat st = Stat("x");
    const mode_t types[] = {S_IFREG, S_IFDIR, S_IFIFO, S_IFBLK, S_IFCHR, S_IFSOCK, S_IFLNK};
    EXPECT_EQ(types[static_cast<int>(kind)], st.st_mode & S_IFMT);
    EXPECT_EQ(kind == Kind::kSymlink ? 0777U : 0640U, st.st_mode & 07777U);
    EXPECT_EQ(device ? 0U : kAlice.uid, st.st_uid);
    EXPECT_EQ(device ? 0U : kAlice.gid, st.st_gid);
    EXPECT_EQ(kind == Kind::kDir ? 2U : 1U, st.st_nlink);
    if (kind == Kind::kBlock) {
      EXPECT_EQ(makedev(1, 2), st.st_rdev);
    }
    if (kind == Kind::kChar) {
      EXPECT_EQ(makedev(1, 3), st.st_rdev);
    }
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Create, LargeDeviceNumbersSurvive) {
  ASSERT_OK(::mknod("x", S_IFCHR | 0600, makedev(4095, 1048575)));
  EXPECT_EQ(makedev(4095, 1048575), Stat("x").st_rdev);
}

TEST_F(Create, DevicesAreForRoot) {
  EXPECT_ERR_AS(kAlice, EPERM, Make(Kind::kBlock, "x"));
  EXPECT_ERR_AS(kAlice, EPERM, Make(Kind::kChar, "x"));
  EXPECT_FALSE(Exists("x"));
}

TEST_F(Create, TimesOfFileAndDirectoryMove) {
  ASSERT_OK(::mkdir("d", 0755));
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
    EXPECT_EQ(0, Touching("d", kMtime | kCtime, [&] { return Make(kind, "d/x"); }));
    const struct stat st = Stat("d/x");
    for (const timespec& t : {st.st_atim, st.st_mtim, st.st_ctim}) EXPECT_GE(Ns(t), Ns(now));
    EXPECT_EQ(EEXIST, Err([&] { return Touching("d", kNone, [&] { return Make(kind, "d/x"); }); }));
    ASSERT_OK(::remove("d/x"));
  }
}

TEST_F(Create, ExistingNameOfAnyKindIsEEXIST) {
  for (const Kind there : kAllKinds) {
    ASSERT_OK(Make(there, "x"));
    for (const Kind kind : kAllKinds) {
      EXPECT_EQ(EEXIST, Err([&] { return Make(kind, "x"); }))
          << KindName(kind) << " over " << KindName(there);
    }
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Create, SetgidDirectoryGivesItsGroup) {
  ASSERT_OK(::mkdir("d", 0777));
  ASSERT_OK(::chown("d", 0, kBob.gid));
  ASSERT_OK(::chmod("d", 02777));
  for (const Kind kind : {Kind::kFile, Kind::kDir, Kind::kFifo, Kind::kSocket, Kind::kSymlink}) {
    SCOPED_TRACE(KindName(kind));
    EXPECT_EQ(0, ErrAs(kAlice, [&] { return Make(kind, "d/x", 0755); }));
    EXPECT_EQ(kBob.gid, Stat("d/x").st_gid);
    EXPECT_EQ(kAlice.uid, Stat("d/x").st_uid);
    EXPECT_EQ(kind == Kind::kDir, (Stat("d/x").st_mode & S_ISGID) != 0);
    ASSERT_OK(::remove("d/x"));
  }
}

TEST_F(Create, SetgidExecutableInAForeignGroupLosesTheBit) {
  ASSERT_OK(::mkdir("d", 0777));
  ASSERT_OK(::chown("d", 0, kBob.gid));
  ASSERT_OK(::chmod("d", 02777));
  EXPECT_OK_AS(kAlice, Touch("d/x", 02775));
  EXPECT_EQ(0775U, ModeOf("d/x"));
}

TEST_F(Create, PlainDirectoryGivesTheGroupOfTheCaller) {
  ASSERT_OK(::mkdir("d", 0777));
  ASSERT_OK(::chown("d", 0, kBob.gid));
  ASSERT_OK(::chmod("d", 0777));
  EXPECT_OK_AS(kAlice, Touch("d/x"));
  EXPECT_EQ(kAlice.gid, Stat("d/x").st_gid);
}

TEST_F(Create, StickyAndSpecialBitsOfTheModeArgument) {
  ASSERT_OK(::mkdir("d", 01777));
  EXPECT_EQ(01777U, ModeOf("d"));
  ASSERT_OK(Touch("f", 06755));
  EXPECT_EQ(06755U, ModeOf("f"));
}

TEST_F(Create, SymlinkKeepsItsTarget) {
  for (const size_t length : {1, 100, 1000, 4095}) {
    const std::string target = LongName(length, 't');
    ASSERT_OK(::symlink(target.c_str(), "l"));
    char buffer[5000];
    const ssize_t n = ::readlink("l", buffer, sizeof buffer);
    ASSERT_EQ(static_cast<ssize_t>(length), n);
    EXPECT_EQ(target, std::string(buffer, length));
    EXPECT_EQ(static_cast<off_t>(length), Stat("l").st_size);
    EXPECT_EQ(1, ::readlink("l", buffer, 1)) << "cut off, not an error";
    ASSERT_OK(::unlink("l"));
  }
  EXPECT_ERR(ENAMETOOLONG, ::symlink(LongName(4096).c_str(), "l"));
  EXPECT_ERR(ENOENT, ::symlink("", "l"));
  EXPECT_FALSE(Exists("l"));
}

TEST_F(Create, ReadlinkOnOthersIsEINVAL) {
  char buffer[10];
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kSymlink) continue;
    ASSERT_OK(Make(kind, "x"));
    EXPECT_ERR(EINVAL, ::readlink("x", buffer, sizeof buffer)) << KindName(kind);
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Create, FifoCarriesData) {
  ASSERT_OK(::mkfifo("p", 0644));
  EXPECT_ERR(ENXIO, TryOpen("p", O_WRONLY | O_NONBLOCK));
  const Fd reader = OpenFd("p", O_RDONLY | O_NONBLOCK);
  const Fd writer = OpenFd("p", O_WRONLY | O_NONBLOCK);
  EXPECT_EQ(3, ::write(writer.get(), "abc", 3));
  char buffer[4] = {};
  EXPECT_EQ(3, ::read(reader.get(), buffer, 3));
  EXPECT_STREQ("abc", buffer);
}

TEST_F(Open, CreateWithExclOnAnythingIsEEXIST) {
  for (const Kind kind : kAllKinds) {
    ASSERT_OK(Make(kind, "x"));
    EXPECT_ERR(EEXIST, TryOpen("x", O_CREAT | O_EXCL | O_RDWR)) << KindName(kind);
    ASSERT_OK(::remove("x"));
  }
  ASSERT_OK(::symlink("missing", "dangling"));
  EXPECT_ERR(EEXIST, TryOpen("dangling", O_CREAT | O_EXCL | O_RDWR));
  EXPECT_OK(TryOpen("dangling", O_CREAT | O_RDWR));
  EXPECT_TRUE(Exists("missing")) << "without O_EXCL the target is made";
}

TEST_F(Open, CreateOnAnExistingFileChangesNothing) {
  ASSERT_EQ(0, WriteFile("x", "content", 0640));
  EXPECT_EQ(0, Touching("x", kNone, [] { return TryOpen("x", O_CREAT | O_RDWR, 0777); }));
  EXPECT_EQ(0640U, ModeOf("x"));
  EXPECT_EQ("content", ReadFile("x"));
}

TEST_F(Open, ModeOfCreateDoesNotLimitTheOpenItself) {
  const Fd fd = OpenFd("x", O_CREAT | O_EXCL | O_RDWR, 0);
  EXPECT_EQ(3, ::write(fd.get(), "abc", 3));
  EXPECT_EQ(0, RunAs(kAlice, [] {
              if (::chdir(".") != 0) return 1;
              const Fd own(::open("y", O_CREAT | O_EXCL | O_RDWR, 0444));
              return own.valid() && ::write(own.get(), "abc", 3) == 3 ? 0 : 2;
            }));
}

TEST_F(Open, TruncateEmptiesAndTouches) {
  ASSERT_EQ(0, WriteFile("x", "content"));
  EXPECT_EQ(0, Touching("x", kMtime | kCtime, [] { return TryOpen("x", O_WRONLY | O_TRUNC); }));
  EXPECT_EQ(0, Stat("x").st_size);
  ASSERT_EQ(0, WriteFile("x", "content"));
  EXPECT_OK(TryOpen("x", O_RDWR | O_CREAT | O_TRUNC));
  EXPECT_EQ("", ReadFile("x"));
}

TEST_F(Open, DirectoryFlagsAndWriting) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(Touch("f"));
  ASSERT_OK(::symlink("d", "l"));
  EXPECT_ERR(EISDIR, TryOpen("d", O_WRONLY));
  EXPECT_ERR(EISDIR, TryOpen("d", O_RDWR));
  EXPECT_ERR(EISDIR, TryOpen("d", O_RDONLY | O_TRUNC));
  EXPECT_ERR(EISDIR, TryOpen("d", O_RDONLY | O_CREAT));
  EXPECT_OK(TryOpen("d", O_RDONLY));
  EXPECT_OK(TryOpen("d", O_RDONLY | O_DIRECTORY));
  EXPECT_OK(TryOpen("l", O_RDONLY | O_DIRECTORY));
  EXPECT_ERR(ENOTDIR, TryOpen("l", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  EXPECT_ERR(ENOTDIR, TryOpen("f", O_RDONLY | O_DIRECTORY));
}

TEST_F(Open, NofollowAndPath) {
  ASSERT_EQ(0, WriteFile("f", "content"));
  ASSERT_OK(::symlink("f", "l"));
  EXPECT_ERR(ELOOP, TryOpen("l", O_RDONLY | O_NOFOLLOW));
  const Fd link = OpenFd("l", O_PATH | O_NOFOLLOW);
  struct stat st{};
  EXPECT_OK(::fstat(link.get(), &st));
  EXPECT_TRUE(S_ISLNK(st.st_mode));
  char buffer[8] = {};
  EXPECT_EQ(1, ::readlinkat(link.get(), "", buffer, sizeof buffer));
  EXPECT_ERR(EBADF, ::read(link.get(), buffer, 1));
  const Fd path = OpenFd("f", O_PATH);
  EXPECT_ERR(EBADF, ::read(path.get(), buffer, 1));
  EXPECT_ERR(EBADF, ::fchmod(path.get(), 0600));
  const std::string proc = "/proc/self/fd/" + std::to_string(path.get());
  EXPECT_EQ("content", ReadFile(proc));
  ASSERT_OK(::chmod("f", 0));
  EXPECT_OK_AS(kAlice, TryOpen("f", O_PATH));
}

TEST_F(Open, SocketsAreENXIO) {
  ASSERT_OK(Make(Kind::kSocket, "s"));
  EXPECT_ERR(ENXIO, TryOpen("s", O_RDONLY));
  EXPECT_ERR(ENXIO, TryOpen("s", O_WRONLY));
}

TEST_F(Open, AppendWritesAtTheEndWhateverTheOffset) {
  const Fd one = OpenFd("x", O_CREAT | O_RDWR | O_APPEND);
  const Fd two = OpenFd("x", O_RDWR | O_APPEND);
  EXPECT_EQ(2, ::write(one.get(), "ab", 2));
  EXPECT_EQ(2, ::write(two.get(), "cd", 2));
  EXPECT_EQ(0, ::lseek(one.get(), 0, SEEK_SET));
  EXPECT_EQ(2, ::write(one.get(), "ef", 2));
  EXPECT_EQ(1, ::pwrite(two.get(), "g", 1, 0)) << "Linux appends here too";
  EXPECT_EQ("abcdefg", ReadFile("x"));
}

TEST_F(Open, AppendFromManyProcessesLosesNothing) {
  constexpr int kProcs = 4;
  constexpr int kRecords = 500;
  ASSERT_OK(Touch("log"));
  std::vector<pid_t> children;
  for (int p = 0; p < kProcs; ++p) {
    const pid_t child = ::fork();
    if (child == 0) {
      const Fd fd(::open("log", O_WRONLY | O_APPEND));
      const std::string line = std::string(15, static_cast<char>('a' + p)) + "\n";
      for (int i = 0; i < kRecords; ++i) {
        if (::write(fd.get(), line.data(), line.size()) != 16) ::_exit(1);
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(0, status);
  }
  const std::string all = ReadFile("log");
  ASSERT_EQ(size_t{kProcs} * kRecords * 16, all.size());
  std::vector<int> seen(kProcs);
  for (size_t at = 0; at < all.size(); at += 16) {
    const char c = all[at];
    ASSERT_TRUE(c >= 'a' && c < 'a' + kProcs);
    ASSERT_EQ(std::string(15, c) + "\n", all.substr(at, 16));
    ++seen[static_cast<size_t>(c - 'a')];
  }
  EXPECT_EQ(std::vector<int>(kProcs, kRecords), seen);
}

TEST_F(Open, RunningProgramIsETXTBSY) {
  std::ifstream in("/bin/sleep", std::ios::binary);
  const std::string program((std::istreambuf_iterator<char>(in)), {});
  ASSERT_EQ(0, WriteFile("prog", program, 0755));
  {
    const Fd writer = OpenFd("prog", O_WRONLY);
    EXPECT_EQ(ETXTBSY, RunChild([] {
                const char* argv[] = {"prog", "0", nullptr};
                ::execv("./prog", const_cast<char* const*>(argv));
                return errno;
              }));
  }
  // Closed by the exec. Before it, an open for writing would be what stops the program.
  int running[2];
  ASSERT_OK(::pipe2(running, O_CLOEXEC));
  const pid_t child = ::fork();
  if (child == 0) {
    const char* argv[] = {"prog", "30", nullptr};
    ::execv("./prog", const_cast<char* const*>(argv));
    ::_exit(127);
  }
  ::close(running[1]);
  char none = 0;
  EXPECT_EQ(0, ::read(running[0], &none, 1));
  ::close(running[0]);
  int error = 0;
  for (int i = 0; i < 500 && (error = Err([] { return TryOpen("prog", O_WRONLY); })) == 0; ++i) {
    ::usleep(10'000);
  }
  EXPECT_EQ(ETXTBSY, error);
  EXPECT_ERR(ETXTBSY, ::truncate("prog", 0));
  EXPECT_OK(::unlink("prog"));
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "the program did not run";
}

TEST_F(Open, FileSizeLimitIsEFBIG) {
  ASSERT_OK(Touch("x"));
  const auto limited = [](const std::function<int()>& call) {
    return RunChild([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{4096, 4096};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 250;
      return Err(call);
    });
  };
  EXPECT_EQ(0, limited([] { return ::truncate("x", 4096); }));
  EXPECT_EQ(EFBIG, limited([] { return ::truncate("x", 4097); }));
  EXPECT_EQ(EFBIG, limited([] {
              const Fd fd(::open("x", O_WRONLY));
              return static_cast<int>(::pwrite(fd.get(), "a", 1, 4096));
            }));
  EXPECT_EQ(0, limited([] {
              const Fd fd(::open("x", O_WRONLY));
              return ::pwrite(fd.get(), "abcdefgh", 8, 4092) == 4 ? 0 : -1;
            }));
  EXPECT_EQ(4096, Stat("x").st_size);
}

}  // namespace
}  // namespace btd::posix
