// SPDX-License-Identifier: BSD-3-Clause
// Extended attributes: flags, sizes, lists, permissions, and what carries them along.
#include <sys/xattr.h>

#include <set>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

class Xattr : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    ASSERT_OK(Touch("x", 0666));
    if (Err([] { return ::setxattr("x", "user.probe", "", 0, 0); }) == EOPNOTSUPP) {
      BTD_UNSUPPORTED("there are no user attributes");
    }
    ASSERT_OK(::removexattr("x", "user.probe"));
  }
};

int Set(const char* path, const std::string& name, const std::string& value, int flags = 0) {
  return ::lsetxattr(path, name.c_str(), value.data(), value.size(), flags);
}

std::string Get(const char* path, const std::string& name) {
  std::string value(65536, '\0');
  const ssize_t n = ::lgetxattr(path, name.c_str(), value.data(), value.size());
  if (n < 0) return std::string("error: ") + std::strerror(errno);
  value.resize(static_cast<size_t>(n));
  return value;
}

/// Names without those that the file system itself shows on every file.
std::set<std::string> Names(const char* path) {
  std::string list(65536, '\0');
  const ssize_t n = ::llistxattr(path, list.data(), list.size());
  EXPECT_GE(n, 0) << std::strerror(errno);
  std::set<std::string> names;
  for (size_t at = 0; n > 0 && at < static_cast<size_t>(n); at += std::strlen(&list[at]) + 1) {
    const std::string name = &list[at];
    if (name.rfind("user.btd.", 0) != 0 && name.rfind("security.", 0) != 0) names.insert(name);
  }
  return names;
}

TEST_F(Xattr, SetGetListRemove) {
  EXPECT_OK(Set("x", "user.a", "one"));
  EXPECT_OK(Set("x", "user.b", std::string("b\0c", 3)));
  EXPECT_EQ("one", Get("x", "user.a"));
  EXPECT_EQ(std::string("b\0c", 3), Get("x", "user.b"));
  EXPECT_EQ((std::set<std::string>{"user.a", "user.b"}), Names("x"));
  EXPECT_OK(Set("x", "user.a", "a longer value"));
  EXPECT_EQ("a longer value", Get("x", "user.a"));
  EXPECT_OK(::removexattr("x", "user.a"));
  EXPECT_ERR(ENODATA, ::getxattr("x", "user.a", nullptr, 0));
  EXPECT_ERR(ENODATA, ::removexattr("x", "user.a"));
  EXPECT_EQ((std::set<std::string>{"user.b"}), Names("x"));
}

TEST_F(Xattr, CreateAndReplace) {
  EXPECT_ERR(ENODATA, Set("x", "user.a", "v", XATTR_REPLACE));
  EXPECT_OK(Set("x", "user.a", "v", XATTR_CREATE));
  EXPECT_ERR(EEXIST, Set("x", "user.a", "w", XATTR_CREATE));
  EXPECT_EQ("v", Get("x", "user.a"));
  EXPECT_OK(Set("x", "user.a", "w", XATTR_REPLACE));
  EXPECT_EQ("w", Get("x", "user.a"));
  EXPECT_ERR(EINVAL, Set("x", "user.a", "z", 0x40));
}

TEST_F(Xattr, SizesUpTo64K) {
  for (const size_t size : {0, 1, 255, 256, 1000, 4095, 4096, 4097, 20'000, 65'535, 65'536}) {
    SCOPED_TRACE(size);
    std::string value(size, '\0');
    for (size_t i = 0; i < size; ++i) value[i] = static_cast<char>(i * 7 + size);
    ASSERT_OK(Set("x", "user.big", value));
    EXPECT_EQ(static_cast<ssize_t>(size), ::getxattr("x", "user.big", nullptr, 0));
    EXPECT_TRUE(value == Get("x", "user.big"));
  }
  EXPECT_ERR(E2BIG, Set("x", "user.big", std::string(65'537, 'x')));
  EXPECT_EQ(65'536, ::getxattr("x", "user.big", nullptr, 0));
}

TEST_F(Xattr, ShortBufferIsERANGE) {
  ASSERT_OK(Set("x", "user.a", "12345"));
  char buffer[8];
  EXPECT_ERR(ERANGE, ::getxattr("x", "user.a", buffer, 4));
  EXPECT_EQ(5, ::getxattr("x", "user.a", buffer, 5));
  EXPECT_ERR(ERANGE, ::listxattr("x", buffer, 3));
  const ssize_t needed = ::listxattr("x", nullptr, 0);
  EXPECT_GE(needed, 7);
}

TEST_F(Xattr, NamesUpTo255Bytes) {
  const std::string longest = "user." + std::string(250, 'n');
  EXPECT_OK(Set("x", longest, "v"));
  EXPECT_EQ("v", Get("x", longest));
  EXPECT_EQ((std::set<std::string>{longest}), Names("x"));
  EXPECT_ERR(ERANGE, Set("x", longest + "n", "v"));
  EXPECT_ERR(ERANGE, Set("x", "", "v"));
  EXPECT_ERR(EOPNOTSUPP, Set("x", "unknown.a", "v"));
}

TEST_F(Xattr, ManyOnOneFile) {
  std::set<std::string> expected;
  for (int i = 0; i < 200; ++i) {
    const std::string name = "user.attribute" + std::to_string(i);
    ASSERT_OK(Set("x", name, std::to_string(i)));
    expected.insert(name);
  }
  EXPECT_EQ(expected, Names("x"));
  for (int i = 0; i < 200; i += 2) {
    const std::string name = "user.attribute" + std::to_string(i);
    ASSERT_OK(::removexattr("x", name.c_str()));
    expected.erase(name);
  }
  EXPECT_EQ(expected, Names("x"));
  EXPECT_EQ("199", Get("x", "user.attribute199"));
}

TEST_F(Xattr, OnEveryKindThatMayHaveThem) {
  for (const Kind kind : kAllKinds) {
    SCOPED_TRACE(KindName(kind));
    ASSERT_OK(Make(kind, "y"));
    const bool user = kind == Kind::kFile || kind == Kind::kDir;
    EXPECT_EQ(user ? 0 : EPERM, Err([] { return Set("y", "user.a", "v"); }));
    EXPECT_OK(Set("y", "trusted.a", "t"));
    EXPECT_EQ("t", Get("y", "trusted.a"));
    EXPECT_EQ(user ? 2U : 1U, Names("y").size());
    ASSERT_OK(::remove("y"));
  }
}

TEST_F(Xattr, ChangesMoveCtimeOnly) {
  EXPECT_EQ(0, Touching("x", kCtime, [] { return Set("x", "user.a", "v"); }));
  EXPECT_EQ(1, Touching("x", kNone, [] { return int(::getxattr("x", "user.a", nullptr, 0)); }));
  EXPECT_EQ(0, Touching("x", kCtime, [] { return ::removexattr("x", "user.a"); }));
  Touching("x", kNone, [] { return ::removexattr("x", "user.a"); });
}

TEST_F(Xattr, Permissions) {
  ASSERT_OK(Set("x", "user.a", "v"));
  ASSERT_OK(Set("x", "trusted.a", "v"));
  EXPECT_OK_AS(kAlice, Set("x", "user.a", "w"));
  EXPECT_ERR_AS(kAlice, EPERM, Set("x", "trusted.a", "w"));
  EXPECT_ERR_AS(kAlice, ENODATA, ::getxattr("x", "trusted.a", nullptr, 0));
  ASSERT_OK(::chmod("x", 0644));
  EXPECT_ERR_AS(kAlice, EACCES, Set("x", "user.a", "z"));
  EXPECT_ERR_AS(kAlice, EACCES, ::removexattr("x", "user.a"));
  EXPECT_OK_AS(kAlice, ::getxattr("x", "user.a", nullptr, 0));
  ASSERT_OK(::chmod("x", 0600));
  EXPECT_ERR_AS(kAlice, EACCES, ::getxattr("x", "user.a", nullptr, 0));
  EXPECT_OK_AS(kAlice, ::listxattr("x", nullptr, 0));
  EXPECT_EQ("w", Get("x", "user.a"));
  ASSERT_OK(::mkdir("sticky", 0777));
  ASSERT_OK(::chmod("sticky", 01777));
  EXPECT_ERR_AS(kAlice, EPERM, Set("sticky", "user.a", "v"));
}

TEST_F(Xattr, StayThroughRenameLinkAndWrite) {
  ASSERT_OK(Set("x", "user.a", "v"));
  ASSERT_OK(::rename("x", "y"));
  ASSERT_OK(::link("y", "z"));
  ASSERT_EQ(0, WriteFile("z", "content"));
  EXPECT_EQ("v", Get("y", "user.a"));
  EXPECT_EQ("v", Get("z", "user.a"));
  ASSERT_OK(::unlink("y"));
  ASSERT_OK(Touch("y"));
  EXPECT_TRUE(Names("y").empty());
}

TEST_F(Xattr, ThroughDescriptors) {
  const Fd fd = OpenFd("x", O_RDWR);
  EXPECT_OK(::fsetxattr(fd.get(), "user.a", "v", 1, 0));
  ASSERT_OK(::unlink("x"));
  char c = 0;
  EXPECT_EQ(1, ::fgetxattr(fd.get(), "user.a", &c, 1));
  EXPECT_EQ('v', c);
  EXPECT_OK(::fremovexattr(fd.get(), "user.a"));
}

}  // namespace
}  // namespace btd::posix
