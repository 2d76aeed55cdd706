#include "fs/namespace/layout.h"

#define XXH_INLINE_ALL  // the one function that is used, without the library
#include <xxhash.h>

#include <ctime>

namespace btd {

Timestamp Timestamp::now() {
  // The coarse clock is the one that the kernel stamps backing files with: times of rows and of
  // backing files must not overtake each other.
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &t);
  return from(t);
}

timespec Timestamp::to_timespec() const {
  constexpr std::int64_t kSecond = 1'000'000'000;
  std::int64_t seconds = nanoseconds / kSecond;
  std::int64_t rest = nanoseconds % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  return {.tv_sec = seconds, .tv_nsec = rest};
}

}  // namespace btd

namespace btd::rows {

InodeRow to_row(const Inode& inode) {
  return {.mode = inode.mode,
          .nlink = inode.nlink,
          .uid = inode.uid,
          .gid = inode.gid,
          .rdev = inode.rdev,
          .flags = inode.flags,
          .size = inode.is_dir() ? inode.parent : inode.size,
          .atime_ns = inode.atime.nanoseconds,
          .mtime_ns = inode.mtime.nanoseconds,
          .ctime_ns = inode.ctime.nanoseconds,
          .btime_ns = inode.btime.nanoseconds};
}

Inode from_row(InodeId id, const InodeRow& row) {
  const bool is_dir = S_ISDIR(row.mode);
  return {.id = id,
          .mode = row.mode,
          .nlink = row.nlink,
          .uid = row.uid,
          .gid = row.gid,
          .rdev = row.rdev,
          .flags = row.flags,
          .size = is_dir ? 0 : row.size,
          .parent = is_dir ? row.size : 0,
          .atime = {row.atime_ns},
          .mtime = {row.mtime_ns},
          .ctime = {row.ctime_ns},
          .btime = {row.btime_ns}};
}

std::uint64_t name_cookie(std::string_view name, std::uint64_t hash_key) {
  const std::uint64_t hash = XXH3_64bits_withSeed(name.data(), name.size(), hash_key) >> 1;
  return kFirstCookie + hash % (kLastCookie - kFirstCookie);
}

}  // namespace btd::rows
