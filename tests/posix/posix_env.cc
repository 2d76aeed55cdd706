// SPDX-License-Identifier: BSD-3-Clause
// Helpers of the POSIX suite: see posix_env.h.
#include "tests/posix/posix_env.h"

#include <grp.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace btd::posix {
namespace {

std::string g_root;

int Wait(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return 255;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kFile:
      return "file";
    case Kind::kDir:
      return "directory";
    case Kind::kFifo:
      return "fifo";
    case Kind::kBlock:
      return "block device";
    case Kind::kChar:
      return "character device";
    case Kind::kSocket:
      return "socket";
    case Kind::kSymlink:
      return "symlink";
  }
  return "?";
}

int Make(Kind kind, const std::string& path, mode_t mode) {
  const char* p = path.c_str();
  switch (kind) {
    case Kind::kFile:
      return Touch(path, mode);
    case Kind::kDir:
      return ::mkdir(p, mode);
    case Kind::kFifo:
      return ::mkfifo(p, mode);
    case Kind::kBlock:
      return ::mknod(p, S_IFBLK | mode, makedev(1, 2));
    case Kind::kChar:
      return ::mknod(p, S_IFCHR | mode, makedev(1, 3));
    case Kind::kSocket:
      return ::mknod(p, S_IFSOCK | mode, 0);
    case Kind::kSymlink:
      return ::symlink("nowhere", p);
  }
  return -1;
}

int RunChild(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  return child < 0 ? 255 : Wait(child);
}

int RunAs(const User& user, const std::function<int()>& body) {
  return RunChild([&] {
    if (::setgroups(user.groups.size(), user.groups.data()) != 0) return 251;
    if (::setresgid(user.gid, user.gid, user.gid) != 0) return 252;
    if (::setresuid(user.uid, user.uid, user.uid) != 0) return 253;
    return body();
  });
}

::testing::AssertionResult Gives(int want, int got, const char* call) {
  if (want == got) return ::testing::AssertionSuccess();
  const auto name = [](int error) -> std::string {
    const char* known = error == 0 ? "success" : ::strerrorname_np(error);
    return known != nullptr ? known : "exit code " + std::to_string(error);
  };
  return ::testing::AssertionFailure()
         << call << " gave " << name(got) << ", expected " << name(want);
}

int TryOpen(const std::string& path, int flags, mode_t mode) {
  const int fd = ::open(path.c_str(), flags, mode);
  if (fd < 0) return -1;
  return ::close(fd);
}

Fd OpenFd(const std::string& path, int flags, mode_t mode) {
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  EXPECT_TRUE(fd.valid()) << "open " << path << ": " << std::strerror(errno);
  return fd;
}

int Touch(const std::string& path, mode_t mode) {
  return TryOpen(path, O_CREAT | O_EXCL | O_WRONLY, mode);
}

int WriteFile(const std::string& path, const std::string& content, mode_t mode) {
  const Fd fd(::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, mode));
  if (!fd.valid()) return -1;
  for (size_t done = 0; done < content.size();) {
    const ssize_t n = ::write(fd.get(), content.data() + done, content.size() - done);
    if (n <= 0) return -1;
    done += static_cast<size_t>(n);
  }
  return 0;
}

std::string ReadFile(const std::string& path) {
  const Fd fd = OpenFd(path, O_RDONLY);
  std::string content;
  char buffer[65536];
  for (ssize_t n = 0; (n = ::read(fd.get(), buffer, sizeof buffer)) > 0;) {
    content.append(buffer, static_cast<size_t>(n));
  }
  return content;
}

struct stat Stat(const std::string& path) {
  struct stat st{};
  EXPECT_EQ(0, ::lstat(path.c_str(), &st)) << "lstat " << path << ": " << std::strerror(errno);
  return st;
}

struct stat StatFollow(const std::string& path) {
  struct stat st{};
  EXPECT_EQ(0, ::stat(path.c_str(), &st)) << "stat " << path << ": " << std::strerror(errno);
  return st;
}

bool Exists(const std::string& path) {
  struct stat st{};
  return ::lstat(path.c_str(), &st) == 0;
}

mode_t ModeOf(const std::string& path) { return Stat(path).st_mode & 07777U; }

std::vector<std::string> List(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(path.c_str());
  if (dir == nullptr) {
    ADD_FAILURE() << "opendir " << path << ": " << std::strerror(errno);
    return names;
  }
  while (const dirent* entry = ::readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

std::string LongName(size_t length, char fill) { return std::string(length, fill); }

std::string Cwd() {
  char buffer[PATH_MAX];
  return ::getcwd(buffer, sizeof buffer) != nullptr ? buffer : "";
}

int64_t Ns(const timespec& t) { return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

void NextTick() {
  // Two jiffies at the slowest usual rate of 100 Hz; inode times come from the coarse clock.
  const timespec nap{0, 21'000'000};
  ::nanosleep(&nap, nullptr);
}

int Touching(const std::string& path, unsigned want, const std::function<int()>& call) {
  const struct stat before = Stat(path);
  NextTick();
  const int result = call();
  const int error = errno;
  const struct stat after = Stat(path);
  const auto check = [&](const char* what, bool changes, const timespec& was, const timespec& is) {
    if (changes) {
      EXPECT_GT(Ns(is), Ns(was)) << what << " of " << path << " did not move";
    } else {
      EXPECT_EQ(Ns(is), Ns(was)) << what << " of " << path << " moved";
    }
  };
  check("mtime", (want & kMtime) != 0, before.st_mtim, after.st_mtim);
  check("ctime", (want & kCtime) != 0, before.st_ctim, after.st_ctim);
  errno = error;
  return result;
}

void RemoveTree(const std::string& path) {
  // Not nftw: the paths of a deep tree are longer than PATH_MAX.
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

bool OptIn(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

long EnvNumber(const char* variable, long otherwise) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? std::strtol(value, nullptr, 10) : otherwise;
}

const std::string& Root() { return g_root; }
void SetRoot(std::string root) { g_root = std::move(root); }

void PosixTest::SetUp() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  dir_ = Root() + "/" + info->test_suite_name() + "." + info->name();
  std::replace(dir_.begin() + static_cast<std::ptrdiff_t>(Root().size()) + 1, dir_.end(), '/', '_');
  ::umask(0);
  ASSERT_OK(::mkdir(dir_.c_str(), 0777));
  ASSERT_OK(::chdir(dir_.c_str()));
}

void PosixTest::TearDown() {
  ::umask(022);
  EXPECT_OK(::chdir("/"));
  RemoveTree(dir_);
  EXPECT_FALSE(Exists(dir_)) << dir_ << " could not be removed";
}

}  // namespace btd::posix
