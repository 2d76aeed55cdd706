// An inode as the namespace knows it, and the ids by which the kernel names it.
// For a regular file, size, blocks, atime and mtime are those of its backing file, because
// passthrough I/O changes them unseen; the row here holds what the backing file cannot.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <ctime>
#include <functional>

namespace btd {

// A node of the cluster; 0 is the node of a namespace that has no other.
using NodeId = std::uint16_t;

// Never reused, so a node id of the kernel stays true for the life of the pool. 1 is the root.
// The bits above kNodeShift name the node that made the inode: each node hands out ids of its own
// without asking the others. A file's data lie there, unless it was moved (HomeOf).
using InodeId = std::uint64_t;
inline constexpr InodeId kRootId = 1;
inline constexpr unsigned kNodeShift = 46;
[[nodiscard]] constexpr NodeId node_of(InodeId id) { return static_cast<NodeId>(id >> kNodeShift); }
// Where the data of a file lie now, as far as this node has heard.
using HomeOf = std::function<NodeId(InodeId)>;
// Ids of a node lie from here to the first of the next.
[[nodiscard]] constexpr InodeId first_id_of(std::uint32_t node) {
  return std::uint64_t{node} << kNodeShift;
}
// Ids from here on name the virtual files under /.btd; no node hands them out.
inline constexpr InodeId kFirstVirtualId = first_id_of(std::uint32_t{1} << 16);
static_assert(kFirstVirtualId == std::uint64_t{1} << 62);

struct Timestamp {
  std::int64_t nanoseconds = 0;  // since the epoch

  static Timestamp now();
  static Timestamp from(const timespec& t) {
    return {static_cast<std::int64_t>(t.tv_sec) * 1'000'000'000 + t.tv_nsec};
  }
  [[nodiscard]] timespec to_timespec() const;
  auto operator<=>(const Timestamp&) const = default;
};

enum InodeFlags : std::uint32_t {
  kInodeSparse = 1,    // growth reserves no space (user.btd.sparse=1); inherited from the directory
  kInodePunched = 2,   // the owner punched holes into it: they are meant, do not fill them
  kInodeCoherent = 4,  // mapped coherently by all nodes (user.btd.mode); for good, as a kernel's
                       // mappings are; inherited from the directory
  kInodeUnnamed = 8,   // made without a name (O_TMPFILE), and never had one: it may still get one
};

struct Inode {
  InodeId id = 0;
  std::uint32_t mode = 0;  // type and permission bits
  std::uint32_t nlink = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t rdev = 0;
  std::uint32_t flags = 0;
  std::uint64_t size = 0;  // symbolic link: length of its target; else 0
  InodeId parent = 0;      // directory: the one it lies in; 0: not noted, or the root
  Timestamp atime, mtime, ctime, btime;

  [[nodiscard]] bool is_dir() const { return S_ISDIR(mode); }
  [[nodiscard]] bool is_file() const { return S_ISREG(mode); }
  [[nodiscard]] bool is_symlink() const { return S_ISLNK(mode); }
};

}  // namespace btd
