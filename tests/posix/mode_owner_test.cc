// SPDX-License-Identifier: BSD-3-Clause
// chmod, chown, umask and what write, chown and truncate do to set-user-id and set-group-id bits.
#include <sys/mman.h>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Chmod = PosixTest;
using Chown = PosixTest;
using Suid = PosixTest;

int Own(const std::string& path, const User& user) {
  return ::lchown(path.c_str(), user.uid, user.gid);
}

TEST_F(Chmod, SetsEveryBitOfEveryKind) {
  for (const Kind kind : kAllKinds) {
    if (kind == Kind::kSymlink) continue;
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "x"));
    for (const mode_t mode : {0U, 0111U, 0777U, 01755U, 02755U, 04755U, 06111U, 07777U}) {
      EXPECT_OK(::chmod("x", mode));
      EXPECT_EQ(mode, ModeOf("x"));
    }
    EXPECT_EQ(0, Touching("x", kCtime, [] { return ::chmod("x", 0600); }));
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Chmod, FollowsLinks) {
  ASSERT_OK(Touch("file"));
  ASSERT_OK(::symlink("file", "link"));
  EXPECT_OK(::chmod("link", 0751));
  EXPECT_EQ(0751U, ModeOf("file"));
  EXPECT_EQ(0777U, ModeOf("link"));
}

TEST_F(Chmod, OnlyTheOwnerAndRootMay) {
  for (const Kind kind : {Kind::kFile, Kind::kDir, Kind::kFifo, Kind::kSocket}) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "x", 0644));
    ASSERT_OK(Own("x", kAlice));
    EXPECT_OK_AS(kAlice, ::chmod("x", 0600));
    EXPECT_EQ(0600U, ModeOf("x"));
    Touching("x", kNone, [] {
      EXPECT_ERR_AS(kBob, EPERM, ::chmod("x", 0777));
      EXPECT_ERR_AS(kCarol, EPERM, ::chmod("x", 0777));
      return 0;
    });
    EXPECT_EQ(0600U, ModeOf("x"));
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Chmod, SetgidIsDroppedForAForeignGroup) {
  ASSERT_OK(Touch("x", 0755));
  ASSERT_OK(::chown("x", kAlice.uid, kBob.gid));
  EXPECT_OK_AS(kAlice, ::chmod("x", 02755));
  EXPECT_EQ(0755U, ModeOf("x"));
  ASSERT_OK(::chown("x", kAlice.uid, kAlice.gid));
  EXPECT_OK_AS(kAlice, ::chmod("x", 02755));
  EXPECT_EQ(02755U, ModeOf("x"));
  ASSERT_OK(::chown("x", kCarol.uid, kAlice.gid));
  EXPECT_OK_AS(kCarol, ::chmod("x", 02775));
  EXPECT_EQ(02775U, ModeOf("x")) << "a supplementary group counts";
}

TEST_F(Chmod, FchmodOnAnOpenFileWorksWhateverItsMode) {
  ASSERT_OK(Touch("x", 0));
  const Fd fd = OpenFd("x", O_RDONLY);
  EXPECT_OK(::fchmod(fd.get(), 04711));
  EXPECT_EQ(04711U, ModeOf("x"));
}

TEST_F(Chmod, PermissionBitsAreChecked) {
  struct Row {
    mode_t mode;
    bool read, write;
  };
  const auto check = [](const User& user, const Row& row) {
    EXPECT_EQ(row.read ? 0 : EACCES, ErrAs(user, [] { return TryOpen("x", O_RDONLY); }));
    EXPECT_EQ(row.write ? 0 : EACCES, ErrAs(user, [] { return TryOpen("x", O_WRONLY); }));
    EXPECT_EQ(row.read && row.write ? 0 : EACCES, ErrAs(user, [] { return TryOpen("x", O_RDWR); }));
    EXPECT_EQ(row.read && row.write ? 0 : EACCES,
              ErrAs(user, [] { return TryOpen("x", O_RDONLY | O_TRUNC); }));
    EXPECT_EQ(row.write ? 0 : EACCES, ErrAs(user, [] { return ::truncate("x", 3); }));
    EXPECT_EQ(row.read ? 0 : EACCES, ErrAs(user, [] { return ::access("x", R_OK); }));
    EXPECT_EQ(row.write ? 0 : EACCES, ErrAs(user, [] { return ::access("x", W_OK); }));
  };
  ASSERT_OK(Touch("x"));
  ASSERT_OK(Own("x", kAlice));
  const std::pair<const User*, mode_t> classes[] = {{&kAlice, 0100}, {&kCarol, 0010}, {&kBob, 1}};
  for (const auto& [user, unit] : classes) {
    for (mode_t bits = 0; bits < 8; ++bits) {
      // The class of the caller gets `bits`, the two others the opposite: only its own counts.
      const mode_t others = 0777U & ~(7U * unit);
      const mode_t mode = bits * unit | ((7U - bits) * 0111U & others);
      SCOPED_TRACE(::testing::Message() << "uid " << user->uid << " mode " << std::oct << mode);
      ASSERT_OK(::chmod("x", mode));
      check(*user, {mode, (bits & 4) != 0, (bits & 2) != 0});
    }
  }
  ASSERT_OK(::chmod("x", 0));
  EXPECT_OK(TryOpen("x", O_RDWR));
}

TEST_F(Chmod, UmaskIsApplied) {
  EXPECT_EQ(0, RunChild([] {
              ::umask(027);
              return Touch("f", 0666) || ::mkdir("d", 0777) || ::mkfifo("p", 0666) ||
                     ::mknod("s", S_IFSOCK | 0777, 0);
            }));
  EXPECT_EQ(0640U, ModeOf("f"));
  EXPECT_EQ(0750U, ModeOf("d"));
  EXPECT_EQ(0640U, ModeOf("p"));
  EXPECT_EQ(0750U, ModeOf("s"));
}

TEST_F(Chown, RootChangesAnything) {
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "x"));
    EXPECT_EQ(0, Touching("x", kCtime, [] { return ::lchown("x", 123, 456); }));
    EXPECT_EQ(123U, Stat("x").st_uid);
    EXPECT_EQ(456U, Stat("x").st_gid);
    EXPECT_OK(::lchown("x", static_cast<uid_t>(-1), 457));
    EXPECT_OK(::lchown("x", 124, static_cast<gid_t>(-1)));
    EXPECT_EQ(124U, Stat("x").st_uid);
    EXPECT_EQ(457U, Stat("x").st_gid);
    ASSERT_OK(::remove("x"));
  }
}

TEST_F(Chown, LargeIdsSurvive) {
  ASSERT_OK(Touch("x"));
  EXPECT_OK(::chown("x", 0xfffffffeU, 0xfffffffdU));
  EXPECT_EQ(0xfffffffeU, Stat("x").st_uid);
  EXPECT_EQ(0xfffffffdU, Stat("x").st_gid);
}

TEST_F(Chown, FollowsLinksAndLchownDoesNot) {
  ASSERT_OK(Touch("file"));
  ASSERT_OK(::symlink("file", "link"));
  EXPECT_OK(::chown("link", 5, 6));
  EXPECT_EQ(5U, Stat("file").st_uid);
  EXPECT_EQ(0U, Stat("link").st_uid);
  EXPECT_OK(::lchown("link", 7, 8));
  EXPECT_EQ(7U, Stat("link").st_uid);
  EXPECT_EQ(5U, Stat("file").st_uid);
}

TEST_F(Chown, OwnerMayGiveItToAGroupOfItsOwnOnly) {
  ASSERT_OK(Touch("x"));
  ASSERT_OK(::chown("x", kCarol.uid, kCarol.gid));
  EXPECT_OK_AS(kCarol, ::chown("x", static_cast<uid_t>(-1), kAlice.gid));
  EXPECT_EQ(kAlice.gid, Stat("x").st_gid);
  EXPECT_OK_AS(kCarol, ::chown("x", kCarol.uid, kCarol.gid));
  Touching("x", kNone, [] {
    EXPECT_ERR_AS(kCarol, EPERM, ::chown("x", kCarol.uid, kBob.gid));
    EXPECT_ERR_AS(kCarol, EPERM, ::chown("x", kBob.uid, kCarol.gid));
    EXPECT_ERR_AS(kBob, EPERM, ::chown("x", kBob.uid, kBob.gid));
    EXPECT_ERR_AS(kBob, EPERM, ::chown("x", static_cast<uid_t>(-1), kBob.gid));
    return 0;
  });
  EXPECT_EQ(kCarol.uid, Stat("x").st_uid);
  EXPECT_EQ(kCarol.gid, Stat("x").st_gid);
}

TEST_F(Suid, ChownClearsTheBitsOfAnExecutable) {
  for (const bool as_root : {false, true}) {
    ASSERT_OK(Touch("x"));
    ASSERT_OK(::chown("x", kCarol.uid, kCarol.gid));
    ASSERT_OK(::chmod("x", 06755));
    const auto give = [] { return ::chown("x", kCarol.uid, kAlice.gid); };
    EXPECT_EQ(0, as_root ? Err(give) : ErrAs(kCarol, give));
    EXPECT_EQ(0755U, ModeOf("x"));
    ASSERT_OK(::unlink("x"));
  }
}

TEST_F(Suid, ChownLeavesTheBitsOfADirectory) {
  ASSERT_OK(::mkdir("d", 0755));
  ASSERT_OK(::chmod("d", 06755));
  EXPECT_OK(::chown("d", 5, 5));
  EXPECT_EQ(06755U, ModeOf("d"));
}

struct Clearing {
  const char* name;
  int (*act)();
};

int WithOpen(int flags, int (*act)(int)) {
  const Fd fd(::open("x", flags | O_CLOEXEC));
  return fd.valid() ? act(fd.get()) : -1;
}

const Clearing kClearing[] = {
    {"write",
     [] {
       return WithOpen(O_WRONLY, [](int fd) { return static_cast<int>(::write(fd, "y", 1)); });
     }},
    {"append",
     [] {
       return WithOpen(O_WRONLY | O_APPEND,
                       [](int fd) { return static_cast<int>(::write(fd, "y", 1)); });
     }},
    {"pwrite",
     [] {
       return WithOpen(O_RDWR, [](int fd) { return static_cast<int>(::pwrite(fd, "y", 1, 0)); });
     }},
    {"truncate", [] { return ::truncate("x", 1); }},
    {"ftruncate", [] { return WithOpen(O_WRONLY, [](int fd) { return ::ftruncate(fd, 1); }); }},
    {"O_TRUNC", [] { return WithOpen(O_WRONLY | O_TRUNC, [](int) { return 0; }); }},
    {"fallocate",
     [] { return WithOpen(O_WRONLY, [](int fd) { return ::fallocate(fd, 0, 0, 8192); }); }},
};

TEST_F(Suid, WritingAsAnotherClearsSuidAndSgid) {
  for (const Clearing& c : kClearing) {
    SCOPED_TRACE(c.name);
    ASSERT_EQ(0, WriteFile("x", "some content"));
    ASSERT_OK(::chmod("x", 06777));
    EXPECT_EQ(0, ErrAs(kAlice, c.act));
    EXPECT_EQ(0777U, ModeOf("x"));
    EXPECT_EQ(0777U, StatFollow("x").st_mode & 07777U);
    ASSERT_OK(::unlink("x"));
  }
}

TEST_F(Suid, WritingAsRootKeepsThem) {
  for (const Clearing& c : kClearing) {
    SCOPED_TRACE(c.name);
    ASSERT_EQ(0, WriteFile("x", "some content"));
    ASSERT_OK(::chmod("x", 06777));
    EXPECT_OK(c.act());
    EXPECT_EQ(06777U, ModeOf("x"));
    ASSERT_OK(::unlink("x"));
  }
}

TEST_F(Suid, SgidWithoutGroupExecuteIsKeptForAMemberOnWrite) {
  ASSERT_EQ(0, WriteFile("x", "some content"));
  ASSERT_OK(::chown("x", 0, kAlice.gid));
  ASSERT_OK(::chmod("x", 02666));
  EXPECT_OK_AS(kAlice, TryOpen("x", O_WRONLY | O_TRUNC));
  EXPECT_EQ(02666U, ModeOf("x"));
}

TEST_F(Suid, BitsSetWhileAWriterHasItOpenAreClearedByItsNextWrite) {
  ASSERT_EQ(0, WriteFile("x", "some content"));
  ASSERT_OK(::chmod("x", 0777));
  const Fd fd = OpenFd("x", O_RDWR);
  ASSERT_OK(::write(fd.get(), "1", 1));
  ASSERT_OK(::chmod("x", 06777));
  EXPECT_OK_AS(kAlice, ::write(fd.get(), "2", 1));
  EXPECT_EQ(0777U, ModeOf("x"));
}

TEST_F(Suid, EveryWriteClearsAgain) {
  ASSERT_EQ(0, WriteFile("x", "some content"));
  const Fd fd = OpenFd("x", O_RDWR);
  for (int round = 0; round < 3; ++round) {
    ASSERT_OK(::chmod("x", 04777));
    EXPECT_OK_AS(kAlice, ::pwrite(fd.get(), "2", 1, round));
    EXPECT_EQ(0777U, ModeOf("x")) << "round " << round;
  }
}

TEST_F(Suid, ReadingKeepsThem) {
  ASSERT_EQ(0, WriteFile("x", "some content"));
  ASSERT_OK(::chmod("x", 06777));
  EXPECT_OK_AS(kAlice, TryOpen("x", O_RDWR));
  EXPECT_EQ(06777U, ModeOf("x"));
}

TEST_F(Suid, BitsSurviveLinkAndRename) {
  ASSERT_OK(Touch("x", 0755));
  ASSERT_OK(::chmod("x", 06755));
  ASSERT_OK(::link("x", "y"));
  ASSERT_OK(::rename("x", "z"));
  EXPECT_EQ(06755U, ModeOf("y"));
  EXPECT_EQ(06755U, ModeOf("z"));
}

}  // namespace
}  // namespace btd::posix
