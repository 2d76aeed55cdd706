// SPDX-License-Identifier: BSD-3-Clause
// mmap: coherent with read and write, between processes, after close and unlink; truncation under
// a mapping; private mappings.
#include <sys/mman.h>
#include <sys/wait.h>

#include <csignal>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Mmap = PosixTest;

constexpr size_t kPage = 4096;

/// Owns one mapping of a file.
class Map {
 public:
  Map(const Fd& fd, size_t size, int prot = PROT_READ | PROT_WRITE, int flags = MAP_SHARED,
      off_t offset = 0)
      : at_(static_cast<char*>(::mmap(nullptr, size, prot, flags, fd.get(), offset))), size_(size) {
    EXPECT_TRUE(valid()) << "mmap: " << std::strerror(errno);
  }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;
  ~Map() {
    if (valid()) ::munmap(at_, size_);
  }
  [[nodiscard]] bool valid() const { return at_ != static_cast<void*>(MAP_FAILED); }
  [[nodiscard]] volatile char* at(size_t i) const { return at_ + i; }
  [[nodiscard]] char* data() const { return at_; }
  [[nodiscard]] size_t size() const { return size_; }

 private:
  char* at_;
  size_t size_;
};

Fd Sized(const char* name, off_t size) {
  Fd fd = OpenFd(name, O_CREAT | O_RDWR);
  EXPECT_OK(::ftruncate(fd.get(), size));
  return fd;
}

/// Signal that a child dies of when it runs `body`, 0 if it ends by itself.
int SignalOf(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGBUS, SIG_DFL);
    ::signal(SIGSEGV, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST_F(Mmap, SharedIsCoherentWithReadAndWrite) {
  const Fd fd = Sized("x", 4 * kPage);
  const Map map(fd, 4 * kPage);
  for (size_t i = 0; i < 4 * kPage; i += 509) {
    const char value = static_cast<char>('a' + i % 26);
    *map.at(i) = value;
    char c = 0;
    ASSERT_EQ(1, ::pread(fd.get(), &c, 1, static_cast<off_t>(i)));
    ASSERT_EQ(value, c);
    const char next = static_cast<char>(value - 32);
    ASSERT_EQ(1, ::pwrite(fd.get(), &next, 1, static_cast<off_t>(i)));
    ASSERT_EQ(next, *map.at(i));
  }
}

TEST_F(Mmap, TwoOpensAndTwoMappingsAreOne) {
  const Fd one = Sized("x", 2 * kPage);
  const Fd two = OpenFd("x", O_RDWR);
  const Map a(one, 2 * kPage);
  const Map b(two, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, kPage);
  *a.at(kPage + 5) = 'q';
  EXPECT_EQ('q', *b.at(5));
  *b.at(6) = 'r';
  EXPECT_EQ('r', *a.at(kPage + 6));
  ASSERT_OK(::rename("x", "y"));
  const Fd three = OpenFd("y", O_RDONLY);
  const Map c(three, 2 * kPage, PROT_READ);
  EXPECT_EQ('q', *c.at(kPage + 5));
}

TEST_F(Mmap, ProcessesShareIt) {
  const Fd fd = Sized("x", kPage);
  const Map map(fd, kPage);
  EXPECT_EQ(0, RunChild([] {
              const Fd own(::open("x", O_RDWR));
              void* at = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, own.get(), 0);
              if (at == MAP_FAILED) return 1;
              std::memcpy(at, "from the child", 15);
              return 0;
            }));
  EXPECT_STREQ("from the child", map.data());
  auto* counter = reinterpret_cast<uint64_t*>(map.data() + 64);
  EXPECT_EQ(0, RunChild([&] {
              for (int i = 0; i < 1000; ++i) __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
              return 0;
            }));
  EXPECT_EQ(1000U, __atomic_load_n(counter, __ATOMIC_SEQ_CST));
}

TEST_F(Mmap, LivesOnAfterCloseAndUnlink) {
  Fd fd = Sized("x", kPage);
  const Map map(fd, kPage);
  fd.Close();
  *map.at(10) = 'a';
  EXPECT_EQ('a', ReadFile("x")[10]);
  ASSERT_OK(::unlink("x"));
  *map.at(11) = 'b';
  EXPECT_EQ('a', *map.at(10));
  EXPECT_EQ('b', *map.at(11));
  EXPECT_OK(::msync(map.data(), kPage, MS_SYNC));
}

TEST_F(Mmap, LaterOpensSeeTheMappingThatOutlivedItsDescriptor) {
  Fd fd = Sized("x", kPage);
  const Map map(fd, kPage);
  fd.Close();
  for (int round = 0; round < 20; ++round) {
    *map.at(0) = static_cast<char>('a' + round);
    const Fd again = OpenFd("x", O_RDWR);
    char c = 0;
    ASSERT_EQ(1, ::pread(again.get(), &c, 1, 0));
    ASSERT_EQ('a' + round, c);
    ASSERT_EQ(1, ::pwrite(again.get(), "Z", 1, 1));
    ASSERT_EQ('Z', *map.at(1));
    *map.at(1) = 0;
  }
}

TEST_F(Mmap, PrivateKeepsItsStoresToItself) {
  ASSERT_EQ(0, WriteFile("x", std::string(kPage, 'o')));
  const Fd fd = OpenFd("x", O_RDONLY);
  const Map map(fd, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  *map.at(0) = 'p';
  EXPECT_EQ(std::string(kPage, 'o'), ReadFile("x"));
  EXPECT_EQ('p', *map.at(0));
}

TEST_F(Mmap, NeedsFittingOpenModes) {
  ASSERT_EQ(0, WriteFile("x", std::string(kPage, 'o')));
  const Fd reader = OpenFd("x", O_RDONLY);
  const auto try_map = [](const Fd& fd, int prot, int flags) {
    void* at = ::mmap(nullptr, kPage, prot, flags, fd.get(), 0);
    if (at == MAP_FAILED) return -1;
    return ::munmap(at, kPage);
  };
  EXPECT_ERR(EACCES, try_map(reader, PROT_READ | PROT_WRITE, MAP_SHARED));
  EXPECT_OK(try_map(reader, PROT_READ, MAP_SHARED));
  const Fd writer = OpenFd("x", O_WRONLY);
  EXPECT_ERR(EACCES, try_map(writer, PROT_READ, MAP_SHARED));
  const Fd dir = OpenFd(".", O_RDONLY);
  EXPECT_ERR(ENODEV, try_map(dir, PROT_READ, MAP_SHARED));
}

TEST_F(Mmap, BeyondTheEndIsSIGBUS) {
  const Fd fd = Sized("x", 3 * kPage);
  const Map map(fd, 8 * kPage);
  EXPECT_EQ(0, SignalOf([&] { *map.at(2 * kPage) = 1; }));
  EXPECT_EQ(SIGBUS, SignalOf([&] { *map.at(3 * kPage) = 1; }));
  EXPECT_EQ(SIGBUS, SignalOf([&] { [[maybe_unused]] const char c = *map.at(7 * kPage); }));
}

TEST_F(Mmap, TruncationUnderIt) {
  const Fd fd = Sized("x", 4 * kPage);
  const Map map(fd, 4 * kPage);
  std::memset(map.data(), 'm', 4 * kPage);
  ASSERT_OK(::ftruncate(fd.get(), kPage + 100));
  EXPECT_EQ(SIGBUS, SignalOf([&] { [[maybe_unused]] const char c = *map.at(2 * kPage); }));
  EXPECT_EQ('m', *map.at(kPage + 99));
  EXPECT_EQ('\0', *map.at(kPage + 100)) << "the rest of the last page is zero";
  ASSERT_OK(::ftruncate(fd.get(), 4 * kPage));
  EXPECT_EQ('\0', *map.at(2 * kPage));
  *map.at(3 * kPage) = 'n';
  const std::string content = ReadFile("x");
  ASSERT_EQ(4 * kPage, content.size());
  EXPECT_EQ(std::string(kPage + 100, 'm'), content.substr(0, kPage + 100));
  EXPECT_EQ('n', content[3 * kPage]);
  EXPECT_EQ(std::string::npos, content.substr(kPage + 100).find('m'));
}

TEST_F(Mmap, TruncationByAnotherProcessAndPath) {
  const Fd fd = Sized("x", 4 * kPage);
  const Map map(fd, 4 * kPage);
  std::memset(map.data(), 'm', 4 * kPage);
  EXPECT_EQ(0, RunChild([] { return ::truncate("x", 0); }));
  EXPECT_EQ(SIGBUS, SignalOf([&] { [[maybe_unused]] const char c = *map.at(0); }));
  EXPECT_EQ(0, RunChild([] { return ::truncate("x", 4 * kPage); }));
  EXPECT_EQ('\0', *map.at(0));
}

TEST_F(Mmap, GrowthBecomesVisible) {
  const Fd fd = Sized("x", 100);
  const Map map(fd, 4 * kPage);
  *map.at(50) = 'a';
  const std::string more(2 * kPage, 'g');
  ASSERT_EQ(static_cast<ssize_t>(more.size()), ::pwrite(fd.get(), more.data(), more.size(), 100));
  EXPECT_EQ('a', *map.at(50));
  EXPECT_EQ('g', *map.at(100));
  EXPECT_EQ('g', *map.at(2 * kPage + 99));
}

TEST_F(Mmap, StoresBehindTheEndAreNotKept) {
  const Fd fd = Sized("x", 100);
  {
    const Map map(fd, kPage);
    std::memset(map.data(), 's', kPage);
    ASSERT_OK(::msync(map.data(), kPage, MS_SYNC));
  }
  EXPECT_EQ(std::string(100, 's'), ReadFile("x"));
}

TEST_F(Mmap, PunchedHoleReadsAsZerosInTheMapping) {
  const Fd fd = Sized("x", 4 * kPage);
  const Map map(fd, 4 * kPage);
  std::memset(map.data(), 'm', 4 * kPage);
  if (Err([&] {
        return ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPage, kPage);
      }) == EOPNOTSUPP) {
    BTD_UNSUPPORTED("holes cannot be punched");
  }
  EXPECT_EQ('m', *map.at(kPage - 1));
  EXPECT_EQ('\0', *map.at(kPage));
  EXPECT_EQ('\0', *map.at(2 * kPage - 1));
  EXPECT_EQ('m', *map.at(2 * kPage));
  *map.at(kPage) = 'n';
  EXPECT_EQ('n', ReadFile("x")[kPage]);
}

TEST_F(Mmap, WritingToTheFileFromItsOwnMapping) {
  const Fd fd = Sized("x", 8 * kPage);
  const Map map(fd, 8 * kPage);
  std::memset(map.data(), 'm', kPage);
  ASSERT_EQ(static_cast<ssize_t>(kPage), ::pwrite(fd.get(), map.data(), kPage, 4 * kPage));
  ASSERT_EQ(static_cast<ssize_t>(kPage),
            ::pread(fd.get(), map.data() + 6 * kPage, kPage, 4 * kPage));
  EXPECT_EQ('m', *map.at(7 * kPage - 1));
}

TEST_F(Mmap, ManyMappingsAndMremap) {
  const Fd fd = Sized("x", 64 * kPage);
  for (size_t i = 0; i < 64; ++i) {
    const Map map(fd, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                  static_cast<off_t>(i * kPage));
    *map.at(0) = static_cast<char>(i + 1);
  }
  void* at = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(MAP_FAILED, at);
  at = ::mremap(at, kPage, 64 * kPage, MREMAP_MAYMOVE);
  ASSERT_NE(MAP_FAILED, at);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(static_cast<char>(i + 1), static_cast<char*>(at)[i * kPage]);
  }
  EXPECT_OK(::munmap(at, 64 * kPage));
}

}  // namespace
}  // namespace btd::posix
