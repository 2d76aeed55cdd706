#include "fs/daemon/space.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace btd::space {

namespace {

constexpr off_t kBlock = 512;  // the unit of st_blocks

Status reserve(int fd, int mode, off_t offset, off_t length) {
  int rc = 0;
  do {
    rc = ::fallocate(fd, mode, offset, length);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) return fail(errno);
  return {};
}

Status write_zeros(int fd, off_t from, off_t to) {
  static constexpr off_t kChunk = 1 << 20;
  const std::vector<char> zeros(static_cast<std::size_t>(std::min(kChunk, to - from)));
  while (from < to) {
    const auto want = static_cast<std::size_t>(std::min(kChunk, to - from));
    const ssize_t n = pwrite(fd, zeros.data(), want, from);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return fail(n < 0 ? errno : EIO);
    from += n;
  }
  return {};
}

Status zero_range(int fd, bool keep_size, off_t offset, off_t length) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail(errno);
  // Reserve first: after the hole is punched nothing may fail.
  BTD_TRY(reserve(fd, keep_size ? FALLOC_FL_KEEP_SIZE : 0, offset, length));
  const off_t end = std::min(offset + length, std::max(st.st_size, offset));
  if (end > offset) BTD_TRY(write_zeros(fd, offset, end));
  return {};
}

}  // namespace

Status resize(int fd, off_t size, bool sparse) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail(errno);
  if (size > st.st_size && !sparse) {
    if (size > kMaxReservedBytes) return fail(EFBIG);
    const auto reserved = reserve(fd, FALLOC_FL_KEEP_SIZE, st.st_size, size - st.st_size);
    if (!reserved && reserved.error().code != EOPNOTSUPP) {
      // What was reserved beyond the end before it failed goes back.
      (void)ftruncate(fd, st.st_size);
      return fail(reserved.error().code);
    }
  }
  if (ftruncate(fd, size) != 0) return fail(errno);
  if (size == st.st_size) {
    // The file system need not note a change that is none, but truncate(2) promises a new mtime.
    const timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
    (void)futimens(fd, times);
  }
  return {};
}

Status allocate(int fd, int mode, off_t offset, off_t length) {
  const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  const bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  const bool zero = (mode & FALLOC_FL_ZERO_RANGE) != 0;
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 ||
      (punch && (zero || !keep_size)))
    return fail(EOPNOTSUPP);
  if (!punch && offset > kMaxReservedBytes - length) return fail(EFBIG);
  auto done = reserve(fd, mode, offset, length);
  if (done || done.error().code != EOPNOTSUPP || (!punch && !zero)) return done;
  if (zero) return zero_range(fd, keep_size, offset, length);
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail(errno);
  const off_t end = std::min(offset + length, st.st_size);
  return end > offset ? write_zeros(fd, offset, end) : Status{};
}

Status fill_holes(int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail(errno);
  if (st.st_size == 0 || st.st_blocks * kBlock >= st.st_size) return {};
  const auto reserved = reserve(fd, FALLOC_FL_KEEP_SIZE, 0, st.st_size);
  if (!reserved && reserved.error().code != EOPNOTSUPP) return reserved;
  return {};
}

}  // namespace btd::space
