// SPDX-License-Identifier: BSD-3-Clause
// Content: read and write at offsets, holes, fallocate, seeking for data and holes,
// copy_file_range, and fsync of files and directories.
#include <linux/falloc.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "tests/posix/posix_env.h"

namespace btd::posix {
namespace {

using Data = PosixTest;
using Fallocate = PosixTest;
using Seek = PosixTest;
using CopyRange = PosixTest;
using Sync = PosixTest;

constexpr off_t kPage = 4096;

/// Content in which every 8 bytes differ.
std::string Pattern(size_t size, uint64_t seed = 1) {
  std::string s(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    s[i] = static_cast<char>((i / 8 * 2654435761U + seed * 97 + i) >> 3);
  }
  return s;
}

/// A bartender reserves the space of a file as it grows; this asks it not to. Others ignore it.
void AskForHoles(const Fd& fd) { ::fsetxattr(fd.get(), "user.btd.sparse", "1", 1, 0); }

TEST_F(Data, ReadsBackWhatWasWrittenAtAnyOffset) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  std::string model;
  uint64_t random = 12345;
  for (int i = 0; i < 300; ++i) {
    random = random * 6364136223846793005U + 1442695040888963407U;
    const auto at = static_cast<size_t>((random >> 33) % 200'000);
    const std::string piece = Pattern(1 + (random >> 20) % 9000, random);
    if (model.size() < at + piece.size()) model.resize(at + piece.size());
    model.replace(at, piece.size(), piece);
    ASSERT_EQ(static_cast<ssize_t>(piece.size()),
              ::pwrite(fd.get(), piece.data(), piece.size(), static_cast<off_t>(at)));
  }
  EXPECT_TRUE(model == ReadFile("x"));
  EXPECT_EQ(static_cast<off_t>(model.size()), Stat("x").st_size);
}

TEST_F(Data, ReadingAtAndBeyondTheEnd) {
  ASSERT_EQ(0, WriteFile("x", "0123456789"));
  const Fd fd = OpenFd("x", O_RDONLY);
  char buffer[16];
  EXPECT_EQ(3, ::pread(fd.get(), buffer, 16, 7));
  EXPECT_EQ(0, ::pread(fd.get(), buffer, 16, 10));
  EXPECT_EQ(0, ::pread(fd.get(), buffer, 16, 1 << 30));
  EXPECT_ERR(EINVAL, ::pread(fd.get(), buffer, 16, -1));
  EXPECT_ERR(EBADF, ::write(fd.get(), "a", 1));
  const Fd writer = OpenFd("x", O_WRONLY);
  EXPECT_ERR(EBADF, ::read(writer.get(), buffer, 1));
  const Fd dir = OpenFd(".", O_RDONLY);
  EXPECT_ERR(EISDIR, ::read(dir.get(), buffer, 1));
}

TEST_F(Data, VectorsAndOffsets) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  char one[] = "one";
  char two[] = "three";
  const iovec out[] = {{one, 3}, {two, 5}};
  EXPECT_EQ(8, ::writev(fd.get(), out, 2));
  EXPECT_EQ(8, ::lseek(fd.get(), 0, SEEK_CUR));
  EXPECT_EQ(8, ::pwritev(fd.get(), out, 2, 100));
  EXPECT_EQ(8, ::lseek(fd.get(), 0, SEEK_CUR));
  EXPECT_EQ(108, ::lseek(fd.get(), 0, SEEK_END));
  EXPECT_ERR(EINVAL, ::lseek(fd.get(), -1, SEEK_SET));
  EXPECT_EQ("onethree", ReadFile("x").substr(100));
}

TEST_F(Data, WriteFarBeyondTheEndLeavesZeros) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  AskForHoles(fd);
  const off_t far = off_t{5} << 30;
  ASSERT_EQ(1, ::pwrite(fd.get(), "z", 1, far));
  EXPECT_EQ(far + 1, Stat("x").st_size);
  EXPECT_LT(Stat("x").st_blocks * 512, 1 << 20);
  char buffer[2] = {1, 1};
  EXPECT_EQ(2, ::pread(fd.get(), buffer, 2, far - 1));
  EXPECT_EQ('\0', buffer[0]);
  EXPECT_EQ('z', buffer[1]);
}

TEST_F(Data, SendfileFromAndTo) {
  const std::string content = Pattern(300'000);
  ASSERT_EQ(0, WriteFile("x", content));
  const Fd in = OpenFd("x", O_RDONLY);
  const Fd out = OpenFd("y", O_CREAT | O_WRONLY);
  for (ssize_t left = 300'000; left > 0;) {
    const ssize_t n = ::sendfile(out.get(), in.get(), nullptr, static_cast<size_t>(left));
    ASSERT_GT(n, 0);
    left -= n;
  }
  EXPECT_TRUE(content == ReadFile("y"));
}

TEST_F(Data, DirectAndSynchronousWrites) {
  alignas(4096) static char block[8192];
  std::memset(block, 'd', sizeof block);
  const Fd direct(::open("x", O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0644));
  if (direct.valid()) {
    ASSERT_EQ(8192, ::pwrite(direct.get(), block, 8192, 4096));
    alignas(4096) static char back[8192];
    ASSERT_EQ(8192, ::pread(direct.get(), back, 8192, 4096));
    EXPECT_EQ(0, std::memcmp(block, back, 8192));
    EXPECT_EQ(std::string(8192, 'd'), ReadFile("x").substr(4096));
  }
  const Fd sync = OpenFd("y", O_CREAT | O_WRONLY | O_SYNC);
  EXPECT_EQ(3, ::write(sync.get(), "abc", 3));
  const Fd dsync = OpenFd("y", O_WRONLY | O_DSYNC | O_APPEND);
  EXPECT_EQ(3, ::write(dsync.get(), "def", 3));
  EXPECT_EQ("abcdef", ReadFile("y"));
}

TEST_F(Fallocate, GrowsTheFileOrOnlyItsSpace) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  EXPECT_EQ(0, Touching("x", kMtime | kCtime, [&] { return ::fallocate(fd.get(), 0, 0, 10'000); }));
  EXPECT_EQ(10'000, Stat("x").st_size);
  EXPECT_EQ(std::string(10'000, '\0'), ReadFile("x"));
  EXPECT_OK(::fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 1 << 20));
  EXPECT_EQ(10'000, Stat("x").st_size);
  EXPECT_GE(Stat("x").st_blocks * 512, 10'000);
  EXPECT_OK(::fallocate(fd.get(), 0, 5000, 100));
  EXPECT_EQ(10'000, Stat("x").st_size);
}

TEST_F(Fallocate, PunchedHoleReadsAsZeros) {
  const std::string content = Pattern(10 * kPage);
  for (const auto& [at, length] : {std::pair<off_t, off_t>{kPage, 2 * kPage},
                                   {100, 50},
                                   {kPage - 10, 20},
                                   {3 * kPage + 7, 3 * kPage},
                                   {9 * kPage, 100 * kPage}}) {
    ASSERT_EQ(0, WriteFile("x", content));
    const Fd fd = OpenFd("x", O_RDWR);
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const int error = Err([&] { return ::fallocate(fd.get(), mode, at, length); });
    if (error == EOPNOTSUPP) BTD_UNSUPPORTED("holes cannot be punched");
    EXPECT_EQ(0, error);
    std::string expected = content;
    const size_t end = std::min(content.size(), static_cast<size_t>(at + length));
    std::fill(expected.begin() + at, expected.begin() + static_cast<off_t>(end), '\0');
    EXPECT_TRUE(expected == ReadFile("x")) << at << "+" << length;
    EXPECT_EQ(10 * kPage, Stat("x").st_size);
    ASSERT_OK(::unlink("x"));
  }
}

TEST_F(Fallocate, ZeroRange) {
  const std::string content = Pattern(10 * kPage);
  ASSERT_EQ(0, WriteFile("x", content));
  const Fd fd = OpenFd("x", O_RDWR);
  if (Err([&] { return ::fallocate(fd.get(), FALLOC_FL_ZERO_RANGE, 100, 5000); }) == EOPNOTSUPP) {
    BTD_UNSUPPORTED("there is no ZERO_RANGE");
  }
  std::string expected = content;
  std::fill(expected.begin() + 100, expected.begin() + 5100, '\0');
  EXPECT_TRUE(expected == ReadFile("x"));
  const int keep = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
  EXPECT_OK(::fallocate(fd.get(), keep, 9 * kPage, 5 * kPage));
  EXPECT_EQ(10 * kPage, Stat("x").st_size);
  EXPECT_OK(::fallocate(fd.get(), FALLOC_FL_ZERO_RANGE, 9 * kPage, 5 * kPage));
  EXPECT_EQ(14 * kPage, Stat("x").st_size);
  std::fill(expected.begin() + 9 * kPage, expected.end(), '\0');
  expected.resize(14 * kPage);
  EXPECT_TRUE(expected == ReadFile("x"));
}

TEST_F(Fallocate, Errors) {
  ASSERT_EQ(0, WriteFile("x", "content"));
  const Fd fd = OpenFd("x", O_RDWR);
  EXPECT_ERR(EINVAL, ::fallocate(fd.get(), 0, -1, 10));
  EXPECT_ERR(EINVAL, ::fallocate(fd.get(), 0, 0, 0));
  EXPECT_ERR(EINVAL, ::fallocate(fd.get(), 0, 0, -1));
  EXPECT_ERR(EOPNOTSUPP, ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE, 0, 10));
  const Fd reader = OpenFd("x", O_RDONLY);
  EXPECT_ERR(EBADF, ::fallocate(reader.get(), 0, 0, 10));
  const Fd dir = OpenFd(".", O_RDONLY);
  EXPECT_ERR(EBADF, ::fallocate(dir.get(), 0, 0, 10));
  EXPECT_EQ("content", ReadFile("x"));
}

TEST_F(Seek, DataAndHolesCoverTheFile) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  AskForHoles(fd);
  const off_t size = 1 << 20;
  ASSERT_OK(::ftruncate(fd.get(), size));
  const std::string page = Pattern(kPage);
  const off_t written[] = {0, 16 * kPage, 100 * kPage};
  for (const off_t at : written) ASSERT_EQ(kPage, ::pwrite(fd.get(), page.data(), kPage, at));
  std::vector<bool> data(static_cast<size_t>(size / kPage));
  off_t at = 0;
  while (at < size) {
    const off_t from = ::lseek(fd.get(), at, SEEK_DATA);
    if (from < 0) {
      EXPECT_EQ(ENXIO, errno);
      break;
    }
    ASSERT_GE(from, at);
    const off_t to = ::lseek(fd.get(), from, SEEK_HOLE);
    ASSERT_GT(to, from);
    ASSERT_LE(to, size);
    for (off_t p = from / kPage; p < (to + kPage - 1) / kPage; ++p) data[size_t(p)] = true;
    at = to;
  }
  for (const off_t w : written)
    EXPECT_TRUE(data[size_t(w / kPage)]) << "data at " << w << " unseen";
  EXPECT_ERR(ENXIO, ::lseek(fd.get(), size, SEEK_DATA));
  EXPECT_ERR(ENXIO, ::lseek(fd.get(), size, SEEK_HOLE));
  EXPECT_ERR(ENXIO, ::lseek(fd.get(), -1, SEEK_DATA));
  EXPECT_EQ(size, ::lseek(fd.get(), 101 * kPage - 1, SEEK_END) - (101 * kPage - 1));
}

TEST_F(Seek, HoleOfASparseFileIsFound) {
  const Fd fd = OpenFd("x", O_CREAT | O_RDWR);
  AskForHoles(fd);
  ASSERT_OK(::ftruncate(fd.get(), 64 << 20));
  ASSERT_EQ(1, ::pwrite(fd.get(), "z", 1, 32 << 20));
  EXPECT_LT(Stat("x").st_blocks * 512, 4 << 20);
  EXPECT_LE(::lseek(fd.get(), 0, SEEK_DATA), 32 << 20);
  EXPECT_GT(::lseek(fd.get(), 0, SEEK_DATA), 0) << "the start is a hole";
  EXPECT_EQ(0, ::lseek(fd.get(), 0, SEEK_HOLE));
}

ssize_t Copy(const Fd& in, off_t from, const Fd& out, off_t to, size_t length) {
  return ::copy_file_range(in.get(), &from, out.get(), &to, length, 0);
}

TEST_F(CopyRange, BetweenFilesAndWithinOne) {
  const std::string content = Pattern(20 * kPage);
  ASSERT_EQ(0, WriteFile("x", content));
  const Fd in = OpenFd("x", O_RDWR);
  const Fd out = OpenFd("y", O_CREAT | O_RDWR);
  EXPECT_EQ(5000, Copy(in, 100, out, 0, 5000));
  EXPECT_TRUE(content.substr(100, 5000) == ReadFile("y"));
  EXPECT_EQ(1000, Copy(in, 0, out, 10'000, 1000));
  EXPECT_EQ(11'000, Stat("y").st_size);
  EXPECT_TRUE(content.substr(0, 1000) == ReadFile("y").substr(10'000));
  EXPECT_EQ(2 * kPage, Copy(in, 0, in, 18 * kPage, 2 * kPage));
  EXPECT_TRUE(content.substr(0, 2 * kPage) == ReadFile("x").substr(18 * kPage));
}

TEST_F(CopyRange, EdgesAndErrors) {
  ASSERT_EQ(0, WriteFile("x", "0123456789"));
  const Fd in = OpenFd("x", O_RDWR);
  const Fd out = OpenFd("y", O_CREAT | O_RDWR);
  EXPECT_EQ(4, Copy(in, 6, out, 0, 100)) << "stops at the end";
  EXPECT_EQ(0, Copy(in, 10, out, 0, 100));
  EXPECT_EQ(0, Copy(in, 100, out, 0, 100));
  EXPECT_EQ("6789", ReadFile("y"));
  EXPECT_ERR(EINVAL, Copy(in, 0, in, 5, 8));
  const Fd reader = OpenFd("y", O_RDONLY);
  EXPECT_ERR(EBADF, Copy(in, 0, reader, 0, 5));
  const Fd append = OpenFd("y", O_WRONLY | O_APPEND);
  EXPECT_ERR(EBADF, Copy(in, 0, append, 0, 5));
  const Fd dir = OpenFd(".", O_RDONLY);
  EXPECT_ERR(EISDIR, Copy(dir, 0, out, 0, 5));
  EXPECT_EQ("0123456789", ReadFile("x"));
}

TEST_F(Sync, FilesAndDirectories) {
  const Fd file = OpenFd("x", O_CREAT | O_RDWR);
  ASSERT_EQ(3, ::write(file.get(), "abc", 3));
  EXPECT_OK(::fsync(file.get()));
  EXPECT_OK(::fdatasync(file.get()));
  const Fd reader = OpenFd("x", O_RDONLY);
  EXPECT_OK(::fsync(reader.get()));
  const Fd dir = OpenFd(".", O_RDONLY | O_DIRECTORY);
  EXPECT_OK(::fsync(dir.get()));
  EXPECT_OK(::fdatasync(dir.get()));
  EXPECT_OK(::syncfs(dir.get()));
  ASSERT_OK(::unlink("x"));
  EXPECT_OK(::fsync(file.get()));
}

}  // namespace
}  // namespace btd::posix
