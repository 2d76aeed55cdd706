// SPDX-License-Identifier: BSD-3-Clause
// Errors that come from the path alone, checked for every call that takes one: ENOENT, ENOTDIR,
// ENAMETOOLONG, ELOOP, EACCES on a directory of the path, EFAULT, EROFS, EXDEV.
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

/// One call with one path to it. The other path, where there is one, is "other" (present) for a
/// call that takes `path` as source, and "fresh" (absent) for the target.
struct PathCall {
  const char* name;
  bool makes;    // makes the last component, so its absence is no error
  bool follows;  // follows a symlink in the last component
  bool writes;   // fails with EROFS on a read-only mount
  int (*call)(const char* path);
};

int Cat(const char* path, int flags) { return TryOpen(path, flags, 0644); }

const PathCall kCalls[] = {
    {"open(O_RDONLY)", false, true, false, [](const char* p) { return Cat(p, O_RDONLY); }},
    {"open(O_WRONLY)", false, true, true, [](const char* p) { return Cat(p, O_WRONLY); }},
    {"open(O_CREAT)", true, true, true, [](const char* p) { return Cat(p, O_CREAT | O_RDWR); }},
    {"open(O_PATH)", false, true, false, [](const char* p) { return Cat(p, O_PATH); }},
    {"stat", false, true, false,
     [](const char* p) {
       struct stat st;
       return ::stat(p, &st);
     }},
    {"lstat", false, false, false,
     [](const char* p) {
       struct stat st;
       return ::lstat(p, &st);
     }},
    {"access", false, true, false, [](const char* p) { return ::access(p, F_OK); }},
    {"chmod", false, true, true, [](const char* p) { return ::chmod(p, 0600); }},
    {"chown", false, true, true, [](const char* p) { return ::chown(p, 65534, 65534); }},
    {"lchown", false, false, true, [](const char* p) { return ::lchown(p, 65534, 65534); }},
    {"link from", false, false, true, [](const char* p) { return ::link(p, "fresh"); }},
    {"link to", true, false, true, [](const char* p) { return ::link("other", p); }},
    {"symlink", true, false, true, [](const char* p) { return ::symlink("target", p); }},
    {"readlink", false, false, false,
     [](const char* p) {
       char buffer[64];
       return static_cast<int>(::readlink(p, buffer, sizeof buffer));
     }},
    {"mkdir", true, false, true, [](const char* p) { return ::mkdir(p, 0755); }},
    {"mkfifo", true, false, true, [](const char* p) { return ::mkfifo(p, 0644); }},
    {"mknod", true, false, true,
     [](const char* p) { return ::mknod(p, S_IFSOCK | 0644, makedev(1, 3)); }},
    {"rmdir", false, false, true, [](const char* p) { return ::rmdir(p); }},
    {"unlink", false, false, true, [](const char* p) { return ::unlink(p); }},
    {"rename from", false, false, true, [](const char* p) { return ::rename(p, "fresh"); }},
    {"rename to", true, false, true, [](const char* p) { return ::rename("other", p); }},
    {"truncate", false, true, true, [](const char* p) { return ::truncate(p, 10); }},
    {"utimensat", false, true, true,
     [](const char* p) { return ::utimensat(AT_FDCWD, p, nullptr, 0); }},
    {"statfs", false, true, false,
     [](const char* p) {
       struct statfs fs;
       return ::statfs(p, &fs);
     }},
    {"chdir", false, true, false, [](const char* p) { return ::chdir(p); }},
    {"getxattr", false, true, false,
     [](const char* p) { return static_cast<int>(::getxattr(p, "user.a", nullptr, 0)); }},
    {"setxattr", false, true, true,
     [](const char* p) { return ::setxattr(p, "user.a", "v", 1, 0); }},
    {"removexattr", false, true, true, [](const char* p) { return ::removexattr(p, "user.a"); }},
    {"listxattr", false, true, false,
     [](const char* p) { return static_cast<int>(::listxattr(p, nullptr, 0)); }},
};

class PathErrors : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    ASSERT_OK(Touch("other"));
  }
  static void ExpectAll(int error, const std::string& path, bool (*applies)(const PathCall&)) {
    for (const PathCall& c : kCalls) {
      if (!applies(c)) continue;
      EXPECT_TRUE(Gives(error, Err([&] { return c.call(path.c_str()); }), c.name)) << path;
    }
    EXPECT_FALSE(Exists("fresh"));
    EXPECT_TRUE(Exists("other"));
  }
};

bool Every(const PathCall&) { return true; }
bool Follows(const PathCall& c) { return c.follows; }
bool NeedsName(const PathCall& c) { return !c.makes; }

TEST_F(PathErrors, MissingDirectoryIsENOENT) { ExpectAll(ENOENT, "none/x", Every); }

TEST_F(PathErrors, MissingNameIsENOENT) { ExpectAll(ENOENT, "none", NeedsName); }

TEST_F(PathErrors, EmptyPathIsENOENT) { ExpectAll(ENOENT, "", Every); }

TEST_F(PathErrors, DanglingLinkIsENOENT) {
  ASSERT_OK(::symlink("nowhere", "dangling"));
  ExpectAll(ENOENT, "dangling", [](const PathCall& c) { return c.follows && !c.makes; });
  ExpectAll(ENOENT, "dangling/x", Every);
}

TEST_F(PathErrors, ComponentThatIsNoDirectoryIsENOTDIR) {
  for (const Kind kind : {Kind::kFile, Kind::kFifo, Kind::kBlock, Kind::kChar, Kind::kSocket}) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "plain"));
    ExpectAll(ENOTDIR, "plain/x", Every);
    ASSERT_OK(::unlink("plain"));
  }
}

TEST_F(PathErrors, NameOf256BytesIsENAMETOOLONG) {
  ExpectAll(ENAMETOOLONG, LongName(256), Every);
  ExpectAll(ENAMETOOLONG, LongName(256) + "/x", Every);
}

TEST_F(PathErrors, PathOf4096BytesIsENAMETOOLONG) {
  std::string path;
  while (path.size() < 4096) path += "./";
  ExpectAll(ENAMETOOLONG, path + "other", Every);
}

TEST_F(PathErrors, LoopOfLinksIsELOOP) {
  ASSERT_OK(::symlink("loop2", "loop1"));
  ASSERT_OK(::symlink("loop1", "loop2"));
  ExpectAll(ELOOP, "loop1/x", Every);
  ExpectAll(ELOOP, "loop1", Follows);
}

TEST_F(PathErrors, BadPointerIsEFAULT) {
  for (const PathCall& c : kCalls) {
    const auto* bad = reinterpret_cast<const char*>(uintptr_t{1});
    if (std::strncmp(c.name, "open", 4) == 0) continue;  // goes through std::string here
    EXPECT_TRUE(Gives(EFAULT, Err([&] { return c.call(bad); }), c.name));
  }
}

TEST_F(PathErrors, DirectoryWithoutSearchPermissionIsEACCES) {
  ASSERT_OK(::mkdir("closed", 0644));
  ASSERT_OK(Touch("closed/x", 0666));
  ASSERT_OK(::mkdir("closed/d", 0777));
  ASSERT_OK(::chown("other", kAlice.uid, kAlice.gid));
  ASSERT_OK(::chown("closed/x", kAlice.uid, kAlice.gid));
  for (const char* path : {"closed/x", "closed/none", "closed/d/x"}) {
    for (const PathCall& c : kCalls) {
      EXPECT_TRUE(Gives(EACCES, ErrAs(kAlice, [&] { return c.call(path); }), c.name)) << path;
    }
  }
  EXPECT_TRUE(Exists("closed/x"));
}

TEST_F(PathErrors, DirectoryWithoutWritePermissionIsEACCES) {
  ASSERT_OK(::mkdir("fixed", 0755));
  ASSERT_OK(Touch("fixed/x", 0666));
  ASSERT_OK(::mkdir("fixed/d", 0777));
  ASSERT_OK(::chown("other", kAlice.uid, kAlice.gid));
  ASSERT_OK(::chown("fixed/x", kAlice.uid, kAlice.gid));
  ASSERT_OK(::chown("fixed/d", kAlice.uid, kAlice.gid));
  EXPECT_ERR_AS(kAlice, EACCES, ::unlink("fixed/x"));
  EXPECT_ERR_AS(kAlice, EACCES, ::rmdir("fixed/d"));
  EXPECT_ERR_AS(kAlice, EACCES, ::rename("fixed/x", "fresh"));
  EXPECT_ERR_AS(kAlice, EACCES, ::rename("fixed/x", "fixed/y"));
  for (const PathCall& c : kCalls) {
    if (!c.makes) continue;
    EXPECT_TRUE(Gives(EACCES, ErrAs(kAlice, [&] { return c.call("fixed/new"); }), c.name));
  }
  EXPECT_EQ((std::vector<std::string>{"d", "x"}), List("fixed"));
}

/// Runs `body` in a child that sees the working directory again as "again", mounted with `flags`.
int WithBindMount(unsigned long flags, const std::function<int()>& body) {
  return RunChild([&] {
    if (::unshare(CLONE_NEWNS) != 0) return 240;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 241;
    if (::mount(".", "again", nullptr, MS_BIND, nullptr) != 0) return 242;
    if (flags != 0 && ::mount(nullptr, "again", nullptr, MS_REMOUNT | MS_BIND | flags, nullptr)) {
      return 243;
    }
    return body();
  });
}

TEST_F(PathErrors, ReadOnlyMountIsEROFS) {
  ASSERT_OK(::mkdir("again", 0755));
  ASSERT_OK(Touch("x"));
  ASSERT_OK(::mkdir("d", 0755));
  for (const PathCall& c : kCalls) {
    if (!c.writes) continue;
    const bool two_paths = std::strstr(c.name, "link ") || std::strstr(c.name, "rename");
    if (two_paths) continue;  // crosses mounts: EXDEV, checked below
    std::string path = c.makes ? "again/new" : "again/x";
    if (std::strcmp(c.name, "rmdir") == 0) path = "again/d";
    EXPECT_EQ(EROFS,
              WithBindMount(MS_RDONLY, [&] { return Err([&] { return c.call(path.c_str()); }); }))
        << c.name;
  }
  EXPECT_EQ(EROFS, WithBindMount(MS_RDONLY, [] {
              return Err([] { return ::rename("again/x", "again/y"); });
            }));
  EXPECT_EQ(EROFS, WithBindMount(MS_RDONLY,
                                 [] { return Err([] { return ::link("again/x", "again/y"); }); }));
  EXPECT_EQ((std::vector<std::string>{"again", "d", "other", "x"}), List("."));
}

TEST_F(PathErrors, AcrossMountsIsEXDEV) {
  ASSERT_OK(::mkdir("again", 0755));
  EXPECT_EQ(EXDEV,
            WithBindMount(0, [] { return Err([] { return ::rename("other", "again/y"); }); }));
  EXPECT_EQ(EXDEV, WithBindMount(0, [] { return Err([] { return ::link("other", "again/y"); }); }));
  EXPECT_EQ(EBUSY, WithBindMount(0, [] { return Err([] { return ::rmdir("again"); }); }));
  EXPECT_EQ(EBUSY, WithBindMount(0, [] { return Err([] { return ::rename("again", "new"); }); }));
  EXPECT_EQ((std::vector<std::string>{"again", "other"}), List("."));
}

TEST_F(PathErrors, NamesOf255BytesWork) {
  const std::string name = LongName(255);
  ASSERT_OK(Touch(name));
  EXPECT_TRUE(Exists(name));
  EXPECT_OK(::rename(name.c_str(), LongName(255, 'm').c_str()));
  EXPECT_OK(::link(LongName(255, 'm').c_str(), name.c_str()));
  EXPECT_OK(::unlink(name.c_str()));
  EXPECT_OK(::mkdir(name.c_str(), 0755));
  EXPECT_OK(::symlink("x", (name + "/" + LongName(255, 's')).c_str()));
  EXPECT_EQ((std::vector<std::string>{LongName(255, 'm'), name, "other"}), List("."));
  EXPECT_EQ((std::vector<std::string>{LongName(255, 's')}), List(name));
}

TEST_F(PathErrors, NamesAreBytes) {
  const std::vector<std::string> names = {"\x01", " ", "-", "\xc3\x28", "\xff\xfe", "a\nb"};
  for (const std::string& name : names) EXPECT_OK(Touch(name));
  auto expected = names;
  expected.emplace_back("other");
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(expected, List("."));
  EXPECT_OK(Touch("CASE"));
  EXPECT_OK(Touch("case"));
}

TEST_F(PathErrors, TreeOf300LevelsWorks) {
  constexpr int kDepth = 300;
  const std::string name = LongName(40, 'd');
  for (int i = 0; i < kDepth; ++i) {
    ASSERT_OK(::mkdir(name.c_str(), 0755));
    ASSERT_OK(::chdir(name.c_str()));
  }
  ASSERT_EQ(0, WriteFile("leaf", "deep"));
  EXPECT_EQ("deep", ReadFile("leaf"));
  for (int i = 0; i < kDepth; ++i) ASSERT_OK(::chdir(".."));
  EXPECT_TRUE(Exists("other"));
}

}  // namespace
}  // namespace btd::posix
