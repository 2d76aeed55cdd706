// SPDX-License-Identifier: BSD-3-Clause
// What every case of the POSIX suite stands on: a fresh directory as working directory, calls made
// as other users (in a child, so that no privilege leaks back), and checks of errno and of times.
// The suite runs on any directory; on tmpfs it is its own control: what fails there is a wrong
// test. Single-threaded except where a case says otherwise; a case may change anything below its
// cwd.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace btd::posix {

/// Credentials of an unprivileged caller.
struct User {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups{};
};

inline const User kAlice{65531, 65531};
inline const User kBob{65532, 65532};
/// In Alice's group as a supplementary member.
inline const User kCarol{65530, 65530, {65531}};

/// Owns one descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { Close(); }
  void Close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// The kinds of file that a name can stand for.
enum class Kind { kFile, kDir, kFifo, kBlock, kChar, kSocket, kSymlink };
inline constexpr Kind kAllKinds[] = {Kind::kFile, Kind::kDir,    Kind::kFifo,   Kind::kBlock,
                                     Kind::kChar, Kind::kSocket, Kind::kSymlink};
inline constexpr Kind kNonDirs[] = {Kind::kFile, Kind::kFifo,   Kind::kBlock,
                                    Kind::kChar, Kind::kSocket, Kind::kSymlink};
const char* KindName(Kind kind);

/// Makes `path` of that kind with that mode, owned by root. Returns 0 or -1 with errno.
int Make(Kind kind, const std::string& path, mode_t mode = 0644);

/// 0 where `call` returned a value >= 0, else its errno.
template <class Call>
int Err(Call&& call) {
  errno = 0;
  return call() >= 0 ? 0 : errno;
}

/// Runs `body` in a child with the credentials of `user` and no capability; returns its result
/// (0 to 250), or 255 where the child died.
int RunAs(const User& user, const std::function<int()>& body);

/// Runs `body` in a child as root.
int RunChild(const std::function<int()>& body);

template <class Call>
int ErrAs(const User& user, Call&& call) {
  return RunAs(user, [&] { return Err(call); });
}

::testing::AssertionResult Gives(int want, int got, const char* call);

/// Opens and closes again: 0, or -1 with errno.
int TryOpen(const std::string& path, int flags, mode_t mode = 0644);
Fd OpenFd(const std::string& path, int flags, mode_t mode = 0644);
int Touch(const std::string& path, mode_t mode = 0644);
int WriteFile(const std::string& path, const std::string& content, mode_t mode = 0644);
std::string ReadFile(const std::string& path);
/// lstat that adds a failure to the running test where the file is not there.
struct stat Stat(const std::string& path);
/// stat that follows links.
struct stat StatFollow(const std::string& path);
bool Exists(const std::string& path);
mode_t ModeOf(const std::string& path);
/// Names in a directory without "." and "..", sorted.
std::vector<std::string> List(const std::string& path);
/// A name of `length` bytes.
std::string LongName(size_t length, char fill = 'n');
std::string Cwd();

/// Nanoseconds since the epoch.
int64_t Ns(const timespec& t);
enum Times : unsigned { kNone = 0, kAtime = 1, kMtime = 2, kCtime = 4 };

/// Runs `call` after the clock has moved on, and checks that of mtime and ctime of `path` exactly
/// those in `want` are newer afterwards. `call` may fail or not; what it returns is handed back.
int Touching(const std::string& path, unsigned want, const std::function<int()>& call);

/// Sleeps until a coarse kernel clock has moved.
void NextTick();

/// Removes a tree, whatever its modes.
void RemoveTree(const std::string& path);

/// True where the environment variable is set to something but 0.
bool OptIn(const char* variable);
long EnvNumber(const char* variable, long otherwise);

/// Gives every case its own empty directory (mode 0777) as working directory, and umask 0.
class PosixTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

 private:
  std::string dir_;
};

/// The directory under test, made by main() inside the one given on the command line.
const std::string& Root();
void SetRoot(std::string root);

}  // namespace btd::posix

// What not every file system has: skipped, or a failure where BTD_TEST_STRICT=1 promises it.
#define BTD_UNSUPPORTED(what)                                     \
  do {                                                            \
    if (::btd::posix::OptIn("BTD_TEST_STRICT")) FAIL() << (what); \
    GTEST_SKIP() << (what);                                       \
  } while (false)

#define BTD_CALL(...) [&] { return (__VA_ARGS__); }
#define EXPECT_OK(...) \
  EXPECT_TRUE(::btd::posix::Gives(0, ::btd::posix::Err(BTD_CALL(__VA_ARGS__)), #__VA_ARGS__))
#define ASSERT_OK(...) \
  ASSERT_TRUE(::btd::posix::Gives(0, ::btd::posix::Err(BTD_CALL(__VA_ARGS__)), #__VA_ARGS__))
#define EXPECT_ERR(error, ...) \
  EXPECT_TRUE(::btd::posix::Gives(error, ::btd::posix::Err(BTD_CALL(__VA_ARGS__)), #__VA_ARGS__))
#define EXPECT_OK_AS(user, ...)                                                        \
  EXPECT_TRUE(::btd::posix::Gives(0, ::btd::posix::ErrAs(user, BTD_CALL(__VA_ARGS__)), \
                                  #user ": " #__VA_ARGS__))
#define EXPECT_ERR_AS(user, error, ...)                                                    \
  EXPECT_TRUE(::btd::posix::Gives(error, ::btd::posix::ErrAs(user, BTD_CALL(__VA_ARGS__)), \
                                  #user ": " #__VA_ARGS__))
