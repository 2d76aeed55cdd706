// SPDX-License-Identifier: BSD-3-Clause
// Hard links, unlink and rmdir: link counts, times, sticky directories, files that stay open after
// their last name is gone, and O_TMPFILE files that get a name later.
#include <sys/mman.h>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Link = PosixTest;
using Unlink = PosixTest;
using Rmdir = PosixTest;
using Sticky = PosixTest;
using OpenUnlinked = PosixTest;
using Tmpfile = PosixTest;

TEST_F(Link, EveryKindButDirectoriesCanHaveMoreNames) {
  for (const Kind kind : kNonDirs) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "a"));
    ASSERT_OK(::mkdir("d", 0755));
    EXPECT_EQ(0, Touching("a", kCtime, [] {
                return Touching("d", kMtime | kCtime, [] { return ::link("a", "d/b"); });
              }));
    EXPECT_EQ(Stat("a").st_ino, Stat("d/b").st_ino);
    EXPECT_EQ(2U, Stat("a").st_nlink);
    EXPECT_EQ(0, Touching("a", kCtime, [] {
                return Touching("d", kMtime | kCtime, [] { return ::unlink("d/b"); });
              }));
    EXPECT_EQ(1U, Stat("a").st_nlink);
    ASSERT_OK(::rmdir("d"));
    ASSERT_OK(::unlink("a"));
  }
}

TEST_F(Link, NamesShareContentAndAttributes) {
  ASSERT_EQ(0, WriteFile("a", "one"));
  ASSERT_OK(::link("a", "b"));
  ASSERT_OK(::chmod("b", 0600));
  ASSERT_EQ(0, WriteFile("b", "longer content"));
  EXPECT_EQ("longer content", ReadFile("a"));
  EXPECT_EQ(0600U, ModeOf("a"));
  EXPECT_EQ(14, Stat("a").st_size);
  ASSERT_OK(::unlink("a"));
  EXPECT_EQ("longer content", ReadFile("b"));
}

TEST_F(Link, DirectoryIsEPERM) {
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_ERR(EPERM, ::link("d", "e"));
  EXPECT_FALSE(Exists("e"));
  EXPECT_EQ(2U, Stat("d").st_nlink);
}

TEST_F(Link, ExistingTargetIsEEXIST) {
  ASSERT_OK(Touch("a"));
  for (const Kind kind : kAllKinds) {
    ASSERT_OK(Make(kind, "b"));
    EXPECT_ERR(EEXIST, ::link("a", "b")) << KindName(kind);
    ASSERT_OK(::remove("b"));
  }
  EXPECT_ERR(EEXIST, ::link("a", "a"));
  EXPECT_EQ(1U, Stat("a").st_nlink);
}

TEST_F(Link, SymlinkItselfUnlessFollowed) {
  ASSERT_OK(Touch("a"));
  ASSERT_OK(::symlink("a", "s"));
  ASSERT_OK(::link("s", "t"));
  EXPECT_TRUE(S_ISLNK(Stat("t").st_mode));
  ASSERT_OK(::linkat(AT_FDCWD, "s", AT_FDCWD, "u", AT_SYMLINK_FOLLOW));
  EXPECT_EQ(Stat("a").st_ino, Stat("u").st_ino);
}

TEST_F(Link, ThousandNamesOfOneFile) {
  ASSERT_OK(Touch("a"));
  for (int i = 0; i < 1000; ++i) ASSERT_OK(::link("a", ("l" + std::to_string(i)).c_str()));
  EXPECT_EQ(1001U, Stat("a").st_nlink);
  for (int i = 0; i < 1000; ++i) ASSERT_OK(::unlink(("l" + std::to_string(i)).c_str()));
  EXPECT_EQ(1U, Stat("a").st_nlink);
}

TEST_F(Unlink, EveryKindGoesAndTheDirectoryIsTouched) {
  ASSERT_OK(::mkdir("d", 0755));
  for (const Kind kind : kNonDirs) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "d/x"));
    EXPECT_EQ(0, Touching("d", kMtime | kCtime, [] { return ::unlink("d/x"); }));
    EXPECT_FALSE(Exists("d/x"));
  }
}

TEST_F(Unlink, Errors) {
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_ERR(EISDIR, ::unlink("d"));
  EXPECT_ERR(EISDIR, ::unlink("."));
  ASSERT_OK(Touch("f"));
  EXPECT_ERR(ENOTDIR, ::unlink("f/"));
  EXPECT_EQ(ENOENT, Err([] { return Touching("d", kNone, [] { return ::unlink("d/none"); }); }));
  EXPECT_EQ((std::vector<std::string>{"d", "f"}), List("."));
}

TEST_F(Unlink, NameCanBeMadeAgainAtOnce) {
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(0, WriteFile("x", std::to_string(i)));
    ASSERT_EQ(std::to_string(i), ReadFile("x"));
    ASSERT_OK(::unlink("x"));
    ASSERT_FALSE(Exists("x"));
    ASSERT_OK(::mkdir("x", 0755));
    ASSERT_OK(::rmdir("x"));
  }
}

TEST_F(Rmdir, EmptyDirectoryGoes) {
  ASSERT_OK(::mkdir("p", 0755));
  ASSERT_OK(::mkdir("p/d", 0755));
  EXPECT_EQ(3U, Stat("p").st_nlink);
  EXPECT_EQ(0, Touching("p", kMtime | kCtime, [] { return ::rmdir("p/d"); }));
  EXPECT_EQ(2U, Stat("p").st_nlink);
  EXPECT_FALSE(Exists("p/d"));
}

TEST_F(Rmdir, Errors) {
  ASSERT_OK(::mkdir("d", 0755));
  for (const Kind kind : kAllKinds) {
    ASSERT_OK(Make(kind, "d/x"));
    EXPECT_ERR(ENOTEMPTY, ::rmdir("d")) << KindName(kind);
    if (kind != Kind::kDir) {
      EXPECT_ERR(ENOTDIR, ::rmdir("d/x")) << KindName(kind);
    }
    ASSERT_OK(::remove("d/x"));
  }
  EXPECT_ERR(EINVAL, ::rmdir("d/."));
  EXPECT_ERR(ENOTEMPTY, ::rmdir("d/.."));
  ASSERT_OK(::symlink("d", "l"));
  EXPECT_ERR(ENOTDIR, ::rmdir("l"));
  EXPECT_OK(::rmdir("d"));
}

TEST_F(Rmdir, WorkingDirectoryThatIsGone) {
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_EQ(0, RunChild([] {
              if (::chdir("d") != 0 || ::rmdir("../d") != 0) return 1;
              struct stat st;
              if (::stat(".", &st) != 0 || st.st_nlink != 0) return 2;
              if (Err([] { return Touch("x"); }) != ENOENT) return 3;
              if (Err([] { return ::mkdir("x", 0755); }) != ENOENT) return 4;
              char buffer[PATH_MAX];
              if (::getcwd(buffer, sizeof buffer) != nullptr || errno != ENOENT) return 5;
              DIR* dir = ::opendir(".");
              if (dir == nullptr) return 6;
              const dirent* entry = ::readdir(dir);
              while (entry != nullptr && entry->d_name[0] == '.') entry = ::readdir(dir);
              return entry == nullptr ? 0 : 7;
            }));
}

TEST_F(Sticky, OnlyOwnersMayRemoveAndRename) {
  struct Row {
    const User& dir;
    const User& file;
    bool may;
  };
  const User root{0, 0};
  const Row rows[] = {{root, root, false},  {root, kBob, false},  {kBob, root, false},
                      {kBob, kBob, false},  {kAlice, kBob, true}, {kAlice, root, true},
                      {root, kAlice, true}, {kBob, kAlice, true}, {kAlice, kAlice, true}};
  ASSERT_OK(::mkdir("out", 0777));
  for (const Row& row : rows) {
    for (const Kind kind : {Kind::kFile, Kind::kDir, Kind::kFifo, Kind::kSymlink}) {
      SCOPED_TRACE(::testing::Message() << "directory of " << row.dir.uid << ", " << KindName(kind)
                                        << " of " << row.file.uid);
      ASSERT_OK(::mkdir("t", 0777));
      ASSERT_OK(::chmod("t", 01777));
      ASSERT_OK(Make(kind, "t/x", 0777));
      ASSERT_OK(::lchown("t/x", row.file.uid, row.file.gid));
      ASSERT_OK(::chown("t", row.dir.uid, row.dir.gid));
      if (row.may) {
        EXPECT_OK_AS(kAlice, ::rename("t/x", "t/y"));
        EXPECT_OK_AS(kAlice, ::rename("t/y", "out/y"));
        EXPECT_OK_AS(kAlice, ::rename("out/y", "t/x"));
        EXPECT_OK_AS(kAlice, ::remove("t/x"));
      } else {
        EXPECT_ERR_AS(kAlice, EPERM, ::remove("t/x"));
        EXPECT_ERR_AS(kAlice, EPERM, ::rename("t/x", "t/y"));
        EXPECT_ERR_AS(kAlice, EPERM, ::rename("t/x", "out/y"));
        ASSERT_OK(Make(kind, "out/z", 0777));
        ASSERT_OK(::lchown("out/z", kAlice.uid, kAlice.gid));
        EXPECT_ERR_AS(kAlice, EPERM, ::rename("out/z", "t/x"));
        EXPECT_TRUE(Exists("t/x"));
        ASSERT_OK(::remove("out/z"));
      }
      RemoveTree("t");
    }
  }
}

TEST_F(OpenUnlinked, StaysUsable) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_EQ(5, ::write(fd.get(), "hello", 5));
  const ino_t ino = Stat("x").st_ino;
  ASSERT_OK(::unlink("x"));
  struct stat st{};
  ASSERT_OK(::fstat(fd.get(), &st));
  EXPECT_EQ(0U, st.st_nlink);
  EXPECT_EQ(ino, st.st_ino);
  EXPECT_EQ(5, st.st_size);
  char buffer[8] = {};
  EXPECT_EQ(5, ::pread(fd.get(), buffer, 8, 0));
  EXPECT_STREQ("hello", buffer);
  EXPECT_EQ(6, ::pwrite(fd.get(), " world", 6, 5));
  EXPECT_OK(::ftruncate(fd.get(), 100'000));
  EXPECT_OK(::fstat(fd.get(), &st));
  EXPECT_EQ(100'000, st.st_size);
  EXPECT_OK(::fchmod(fd.get(), 0600));
  EXPECT_OK(::fchown(fd.get(), 3, 4));
  EXPECT_OK(::fsync(fd.get()));
  EXPECT_OK(::fstat(fd.get(), &st));
  EXPECT_EQ(3U, st.st_uid);
  EXPECT_EQ(0600U, st.st_mode & 07777U);
}

TEST_F(OpenUnlinked, CanBeMapped) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(::ftruncate(fd.get(), 8192));
  ASSERT_OK(::unlink("x"));
  auto* map =
      static_cast<char*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(MAP_FAILED, static_cast<void*>(map));
  map[5000] = 'z';
  char c = 0;
  EXPECT_EQ(1, ::pread(fd.get(), &c, 1, 5000));
  EXPECT_EQ('z', c);
  EXPECT_OK(::msync(map, 8192, MS_SYNC));
  EXPECT_OK(::munmap(map, 8192));
}

TEST_F(OpenUnlinked, DoesNotMeetTheNextFileOfThatName) {
  const Fd old = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_EQ(3, ::write(old.get(), "old", 3));
  ASSERT_OK(::unlink("x"));
  ASSERT_EQ(0, WriteFile("x", "new!"));
  char buffer[8] = {};
  EXPECT_EQ(3, ::pread(old.get(), buffer, 8, 0));
  EXPECT_STREQ("old", buffer);
  EXPECT_EQ("new!", ReadFile("x"));
}

TEST_F(OpenUnlinked, ReplacedByRenameStaysUsable) {
  ASSERT_EQ(0, WriteFile("x", "old"));
  const Fd old = OpenFd("x", O_RDWR);
  ASSERT_EQ(0, WriteFile("y", "new!"));
  ASSERT_OK(::rename("y", "x"));
  char buffer[8] = {};
  EXPECT_EQ(3, ::pread(old.get(), buffer, 8, 0));
  EXPECT_STREQ("old", buffer);
  struct stat st{};
  EXPECT_OK(::fstat(old.get(), &st));
  EXPECT_EQ(0U, st.st_nlink);
}

TEST_F(OpenUnlinked, CanBeOpenedAgainThroughProc) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_EQ(3, ::write(fd.get(), "abc", 3));
  ASSERT_OK(::unlink("x"));
  const Fd again(::open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), O_RDONLY));
  ASSERT_TRUE(again.valid()) << std::strerror(errno);
  char buffer[4] = {};
  EXPECT_EQ(3, ::read(again.get(), buffer, 3));
  EXPECT_STREQ("abc", buffer);
}

TEST_F(OpenUnlinked, ReturnsItsSpaceAtTheLastClose) {
  Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_OK(::fallocate(fd.get(), 0, 0, 4 << 20));
  ASSERT_OK(::unlink("x"));
  EXPECT_OK(::fallocate(fd.get(), 0, 0, 5 << 20));
  fd.Close();
  EXPECT_FALSE(Exists("x"));
}

TEST_F(Tmpfile, HasNoNameUntilLinked) {
  const Fd fd = OpenFd(".", O_TMPFILE | O_RDWR, 0640);
  ASSERT_TRUE(fd.valid());
  EXPECT_TRUE(List(".").empty());
  struct stat st{};
  ASSERT_OK(::fstat(fd.get(), &st));
  EXPECT_EQ(0U, st.st_nlink);
  EXPECT_EQ(0640U, st.st_mode & 07777U);
  ASSERT_EQ(7, ::write(fd.get(), "content", 7));
  ASSERT_OK(::linkat(fd.get(), "", AT_FDCWD, "named", AT_EMPTY_PATH));
  EXPECT_EQ("content", ReadFile("named"));
  EXPECT_EQ(1U, Stat("named").st_nlink);
  EXPECT_EQ(st.st_ino, Stat("named").st_ino);
}

TEST_F(Tmpfile, LinkedThroughProc) {
  const Fd fd = OpenFd(".", O_TMPFILE | O_RDWR, 0600);
  ASSERT_TRUE(fd.valid());
  ASSERT_EQ(7, ::write(fd.get(), "content", 7));
  const std::string proc = "/proc/self/fd/" + std::to_string(fd.get());
  ASSERT_OK(::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
  EXPECT_EQ("content", ReadFile("named"));
  EXPECT_ERR(EEXIST, ::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
  ASSERT_EQ(4, ::pwrite(fd.get(), "CONT", 4, 0));
  EXPECT_EQ("CONTent", ReadFile("named"));
}

TEST_F(Tmpfile, WithExclCanNeverBeLinked) {
  const Fd fd = OpenFd(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
  ASSERT_TRUE(fd.valid());
  EXPECT_ERR(ENOENT, ::linkat(fd.get(), "", AT_FDCWD, "named", AT_EMPTY_PATH));
  EXPECT_FALSE(Exists("named"));
}

TEST_F(Tmpfile, MapsGrowsAndVanishes) {
  {
    const Fd fd = OpenFd(".", O_TMPFILE | O_RDWR, 0600);
    ASSERT_TRUE(fd.valid());
    ASSERT_OK(::ftruncate(fd.get(), 4096));
    void* map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(MAP_FAILED, map);
    std::memcpy(map, "mapped", 6);
    char buffer[8] = {};
    EXPECT_EQ(6, ::pread(fd.get(), buffer, 6, 0));
    EXPECT_STREQ("mapped", buffer);
    EXPECT_OK(::munmap(map, 4096));
  }
  EXPECT_TRUE(List(".").empty());
}

TEST_F(Tmpfile, NeedsADirectoryThatIsWritable) {
  ASSERT_OK(Touch("f"));
  EXPECT_ERR(ENOTDIR, TryOpen("f", O_TMPFILE | O_RDWR));
  EXPECT_ERR(EINVAL, TryOpen(".", O_TMPFILE | O_RDONLY));
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_ERR_AS(kAlice, EACCES, TryOpen("d", O_TMPFILE | O_RDWR));
}

}  // namespace
}  // namespace btd::posix
