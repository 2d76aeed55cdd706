// SPDX-License-Identifier: BSD-3-Clause
// rename and renameat2: what may replace what, NOREPLACE and EXCHANGE, directories that move.
#include <sys/syscall.h>

#include <cstdio>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Rename = PosixTest;

int Rename2(const char* from, const char* to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

TEST_F(Rename, EveryKindMovesWithItsInode) {
  ASSERT_OK(::mkdir("from", 0755));
  ASSERT_OK(::mkdir("to", 0755));
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "from/a"));
    const struct stat before = Stat("from/a");
    EXPECT_EQ(0, Touching("from", kMtime | kCtime, [] {
                return Touching("to", kMtime | kCtime, [] { return ::rename("from/a", "to/b"); });
              }));
    EXPECT_FALSE(Exists("from/a"));
    const struct stat after = Stat("to/b");
    EXPECT_EQ(before.st_ino, after.st_ino);
    EXPECT_EQ(before.st_mode, after.st_mode);
    EXPECT_EQ(Ns(before.st_mtim), Ns(after.st_mtim));
    ASSERT_OK(::remove("to/b"));
  }
}

TEST_F(Rename, ReplacesAnyNonDirectory) {
  for (const Kind from : kNonDirs) {
    for (const Kind to : kNonDirs) {
      SCOPED_TRACE(::testing::Message() << KindName(from) << " over " << KindName(to));
      ASSERT_OK(Make(from, "a"));
      ASSERT_OK(Make(to, "b"));
      ASSERT_OK(::link("b", "other"));
      const ino_t ino = Stat("a").st_ino;
      EXPECT_EQ(0, Touching("other", kCtime, [] { return ::rename("a", "b"); }));
      EXPECT_EQ(ino, Stat("b").st_ino);
      EXPECT_EQ(1U, Stat("other").st_nlink);
      EXPECT_FALSE(Exists("a"));
      ASSERT_OK(::unlink("b"));
      ASSERT_OK(::unlink("other"));
    }
  }
}

TEST_F(Rename, DirectoryOverEmptyDirectory) {
  ASSERT_OK(::mkdir("a", 0755));
  ASSERT_OK(Touch("a/inside"));
  ASSERT_OK(::mkdir("b", 0700));
  const nlink_t parent = Stat(".").st_nlink;
  ASSERT_OK(::rename("a", "b"));
  EXPECT_EQ((std::vector<std::string>{"inside"}), List("b"));
  EXPECT_EQ(0755U, ModeOf("b"));
  EXPECT_EQ(parent - 1, Stat(".").st_nlink);
}

TEST_F(Rename, ErrorsBetweenKinds) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(::mkdir("full", 0755));
  for (const Kind kind : kNonDirs) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "x"));
    EXPECT_ERR(EISDIR, ::rename("x", "d"));
    EXPECT_ERR(ENOTDIR, ::rename("d", "x"));
    ASSERT_OK(::rename("x", "full/x"));
    EXPECT_EQ(ENOTEMPTY, Err([] {
                return Touching("d", kNone, [] {
                  return Touching("full", kNone, [] { return ::rename("d", "full"); });
                });
              }));
    ASSERT_OK(::unlink("full/x"));
  }
  EXPECT_EQ((std::vector<std::string>{"d", "full"}), List("."));
}

TEST_F(Rename, DirectoryIntoItselfIsEINVAL) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(::mkdir("d/e", 0755));
  EXPECT_ERR(EINVAL, ::rename("d", "d/x"));
  EXPECT_ERR(EINVAL, ::rename("d", "d/e/x"));
  EXPECT_ERR(ENOTEMPTY, ::rename("d/e", "d"));
  EXPECT_ERR(EBUSY, ::rename("d/.", "x"));
  EXPECT_ERR(EBUSY, ::rename("d/..", "x"));
  EXPECT_ERR(EBUSY, ::rename("d", "d/.."));
  EXPECT_EQ((std::vector<std::string>{"e"}), List("d"));
}

TEST_F(Rename, OntoItselfOrAnotherNameOfItDoesNothing) {
  ASSERT_EQ(0, WriteFile("a", "content"));
  ASSERT_OK(::link("a", "b"));
  EXPECT_OK(::rename("a", "a"));
  EXPECT_OK(::rename("a", "b"));
  EXPECT_EQ((std::vector<std::string>{"a", "b"}), List("."));
  EXPECT_EQ(2U, Stat("a").st_nlink);
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_OK(::rename("d", "d"));
}

TEST_F(Rename, MovedDirectoryHasANewParent) {
  ASSERT_OK(::mkdir("p", 0755));
  ASSERT_OK(::mkdir("q", 0755));
  ASSERT_OK(::mkdir("p/d", 0755));
  ASSERT_OK(::mkdir("p/d/e", 0755));
  ASSERT_OK(Touch("p/d/e/f"));
  EXPECT_EQ(3U, Stat("p").st_nlink);
  ASSERT_OK(::rename("p/d", "q/d2"));
  EXPECT_EQ(2U, Stat("p").st_nlink);
  EXPECT_EQ(3U, Stat("q").st_nlink);
  EXPECT_EQ(Stat("q").st_ino, Stat("q/d2/..").st_ino);
  EXPECT_TRUE(Exists("q/d2/e/f"));
  ino_t dotdot = 0;
  DIR* dir = ::opendir("q/d2");
  ASSERT_NE(nullptr, dir);
  while (const dirent* entry = ::readdir(dir)) {
    if (std::strcmp(entry->d_name, "..") == 0) dotdot = entry->d_ino;
  }
  ::closedir(dir);
  EXPECT_EQ(Stat("q").st_ino, dotdot);
}

TEST_F(Rename, MovingADirectoryNeedsItWritable) {
  ASSERT_OK(::mkdir("p", 0777));
  ASSERT_OK(::mkdir("q", 0777));
  ASSERT_OK(::mkdir("p/d", 0555));
  ASSERT_OK(::chown("p/d", kAlice.uid, kAlice.gid));
  EXPECT_ERR_AS(kBob, EACCES, ::rename("p/d", "q/d"));
  EXPECT_OK_AS(kBob, ::rename("p/d", "p/e"));
  ASSERT_OK(::chmod("p/e", 0777));
  EXPECT_OK_AS(kBob, ::rename("p/e", "q/d"));
}

TEST_F(Rename, WorkingDirectoryMovesAlong) {
  ASSERT_OK(::mkdir("a", 0755));
  const std::string base = Cwd();
  EXPECT_EQ(0, RunChild([&] {
              if (::chdir("a") != 0 || ::rename("../a", "../b") != 0) return 1;
              return Cwd() == base + "/b" && Touch("x") == 0 ? 0 : 2;
            }));
  EXPECT_TRUE(Exists("b/x"));
}

TEST_F(Rename, TrailingSlashWantsADirectory) {
  ASSERT_OK(Touch("f"));
  ASSERT_OK(::mkdir("d", 0755));
  EXPECT_ERR(ENOTDIR, ::rename("f", "g/"));
  EXPECT_ERR(ENOTDIR, ::rename("f/", "g"));
  EXPECT_OK(::rename("d/", "e/"));
}

TEST_F(Rename, NoreplaceKeepsTheTarget) {
  for (const Kind from : kAllKinds) {
    for (const Kind to : kAllKinds) {
      SCOPED_TRACE(::testing::Message() << KindName(from) << " over " << KindName(to));
      ASSERT_OK(Make(from, "a"));
      ASSERT_OK(Make(to, "b"));
      EXPECT_ERR(EEXIST, Rename2("a", "b", RENAME_NOREPLACE));
      EXPECT_OK(Rename2("a", "c", RENAME_NOREPLACE));
      EXPECT_EQ((std::vector<std::string>{"b", "c"}), List("."));
      ASSERT_OK(::remove("b"));
      ASSERT_OK(::remove("c"));
    }
  }
  ASSERT_OK(Touch("a"));
  ASSERT_OK(::link("a", "b"));
  EXPECT_ERR(EEXIST, Rename2("a", "b", RENAME_NOREPLACE));
}

TEST_F(Rename, ExchangeSwapsAnyTwoKinds) {
  ASSERT_OK(::mkdir("p", 0755));
  ASSERT_OK(::mkdir("q", 0755));
  for (const Kind one : kAllKinds) {
    for (const Kind two : kAllKinds) {
      SCOPED_TRACE(::testing::Message() << KindName(one) << " and " << KindName(two));
      ASSERT_OK(Make(one, "p/a"));
      ASSERT_OK(Make(two, "q/b"));
      if (one == Kind::kDir) {
        ASSERT_OK(Touch("p/a/inside"));
      }
      const ino_t a = Stat("p/a").st_ino;
      const ino_t b = Stat("q/b").st_ino;
      EXPECT_OK(Rename2("p/a", "q/b", RENAME_EXCHANGE));
      EXPECT_EQ(a, Stat("q/b").st_ino);
      EXPECT_EQ(b, Stat("p/a").st_ino);
      EXPECT_EQ(two == Kind::kDir ? 3U : 2U, Stat("p").st_nlink);
      EXPECT_EQ(one == Kind::kDir ? 3U : 2U, Stat("q").st_nlink);
      RemoveTree("p/a");
      RemoveTree("q/b");
    }
  }
}

TEST_F(Rename, ExchangeOfDirectoriesChangesTheirParents) {
  ASSERT_OK(::mkdir("p", 0755));
  ASSERT_OK(::mkdir("q", 0755));
  ASSERT_OK(::mkdir("p/a", 0755));
  ASSERT_OK(::mkdir("q/b", 0755));
  ASSERT_OK(Rename2("p/a", "q/b", RENAME_EXCHANGE));
  EXPECT_EQ(Stat("p").st_ino, Stat("p/a/..").st_ino);
  EXPECT_EQ(Stat("q").st_ino, Stat("q/b/..").st_ino);
}

TEST_F(Rename, ExchangeErrors) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(Touch("d/f"));
  EXPECT_ERR(ENOENT, Rename2("d", "none", RENAME_EXCHANGE));
  EXPECT_ERR(EINVAL, Rename2("d", "d/f", RENAME_EXCHANGE));
  EXPECT_ERR(EINVAL, Rename2("d/f", "d", RENAME_EXCHANGE));
  EXPECT_ERR(EINVAL, Rename2("d", "e", RENAME_EXCHANGE | RENAME_NOREPLACE));
  EXPECT_ERR(EINVAL, Rename2("d", "e", 1U << 20));
  EXPECT_EQ((std::vector<std::string>{"f"}), List("d"));
}

TEST_F(Rename, CtimeOfTheMovedFileMoves) {
  ASSERT_OK(Touch("a"));
  const timespec before = Stat("a").st_ctim;
  NextTick();
  ASSERT_OK(::rename("a", "b"));
  EXPECT_GT(Ns(Stat("b").st_ctim), Ns(before));
}

}  // namespace
}  // namespace btd::posix
