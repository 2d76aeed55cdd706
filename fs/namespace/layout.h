// The namespace's rows in the MetaStore: keys and values, and nothing else.
//
//   'm' "format"               FormatRow       one for each store
//   'm' "ids"                  IdsRow          which inode ids node 0 handed out
//   'm' "ids" node             IdsRow          and another node
//   'm' "moves"                number          of directories moved to another: no two at once
//   'i' id                     InodeRow
//   'd' directory cookie       EntryRow + name one for each name
//   's' id                     target          symbolic links
//   'x' id name                value           extended attributes
//   'o' id                     (empty)         inodes without a name, until their last user is gone
//   'p' id                     node            where the data of a file lie that was moved
//   'v' id node                number          the node may have bytes of the file that are not
//                                              the file: a move that goes on, or left them
//   'r' slot                   ResultRow       what the last request of that slot did
//
// Ids, nodes, cookies and slots are big-endian in keys, so that key order is number order. Values
// are packed little-endian. A cookie is a keyed hash of the name, moved on by one while it is
// taken: a name lies within kProbe cookies of its hash.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "fs/namespace/inode.h"

namespace btd::rows {

static_assert(std::endian::native == std::endian::little, "rows are little-endian");

inline constexpr std::uint32_t kMagic = 0x4e445442;  // "BTDN"
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint64_t kProbe = 8;
inline constexpr std::uint64_t kFirstCookie = 16;  // below: "." and "..", and 0 for the start
inline constexpr std::uint64_t kLastCookie = (std::uint64_t{1} << 63) - 1 - kProbe;

struct FormatRow {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint64_t hash_key;
};
static_assert(sizeof(FormatRow) == 16);

struct IdsRow {
  std::uint64_t limit;       // ids below are handed out, or may be
  std::uint64_t suspicious;  // a crash may have left a backing file without a name from here on
};
static_assert(sizeof(IdsRow) == 16);

struct InodeRow {
  std::uint32_t mode;
  std::uint32_t nlink;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t rdev;
  std::uint32_t flags;
  std::uint64_t
      size;  // symbolic link: of its target; directory: the id of the one it lies in, or 0
  std::int64_t atime_ns;
  std::int64_t mtime_ns;
  std::int64_t ctime_ns;
  std::int64_t btime_ns;
};
static_assert(sizeof(InodeRow) == 64);

// The entry's name follows it.
struct __attribute__((packed)) EntryRow {
  std::uint64_t id;
  std::uint8_t type;  // S_IFMT bits >> 12
};
static_assert(sizeof(EntryRow) == 9);

struct ResultRow {
  std::uint64_t session;
  std::uint64_t unique;
  std::uint64_t id;
  std::uint64_t replaced;
  std::uint32_t lost_last_link;           // 0 or 1
  std::uint32_t replaced_lost_last_link;  // 0 or 1
};
static_assert(sizeof(ResultRow) == 40);

template <class T>
[[nodiscard]] std::string_view bytes_of(const T& row) {
  return {reinterpret_cast<const char*>(&row), sizeof(T)};
}

// False where the bytes are not of the row's size.
template <class T>
[[nodiscard]] bool parse(std::string_view bytes, T& row) {
  if (bytes.size() != sizeof(T)) return false;
  std::memcpy(&row, bytes.data(), sizeof(T));
  return true;
}

// A key built in place: a letter, big-endian numbers, a name.
class Key {
 public:
  explicit Key(char kind) { bytes_[size_++] = kind; }
  Key& number(std::uint64_t n) {
    n = __builtin_bswap64(n);
    std::memcpy(bytes_ + size_, &n, sizeof n);
    size_ += sizeof n;
    return *this;
  }
  Key& name(std::string_view s) {  // at most 255 bytes
    s.copy(bytes_ + size_, s.size());
    size_ += s.size();
    return *this;
  }
  operator std::string_view() const { return {bytes_, size_}; }

 private:
  std::size_t size_ = 0;
  char bytes_[1 + 8 + 8 + 255];
};

inline Key format_key() { return Key('m').name("format"); }
inline Key ids_key(NodeId node) {
  Key key = Key('m').name("ids");
  if (node != 0) key.number(node);
  return key;
}
inline Key moves_key() { return Key('m').name("moves"); }
inline Key inode_key(InodeId id) { return Key('i').number(id); }
inline Key entry_key(InodeId dir, std::uint64_t cookie) {
  return Key('d').number(dir).number(cookie);
}
inline Key target_key(InodeId id) { return Key('s').number(id); }
inline Key xattr_key(InodeId id, std::string_view name = {}) {
  return Key('x').number(id).name(name);
}
inline Key home_key(InodeId id) { return Key('p').number(id); }
inline constexpr std::string_view kHomePrefix = "p";
inline Key copy_key(InodeId id, NodeId node) { return Key('v').number(id).number(node); }
inline constexpr std::string_view kCopyPrefix = "v";
inline Key orphan_key(InodeId id) { return Key('o').number(id); }
// Slots are a node's own: its number is their upper half.
inline Key result_key(std::uint32_t node, std::uint32_t slot) {
  return Key('r').number(std::uint64_t{node} << 32 | slot);
}

[[nodiscard]] inline std::uint64_t number_at(std::string_view key, std::size_t at) {
  std::uint64_t n = 0;
  std::memcpy(&n, key.data() + at, sizeof n);
  return __builtin_bswap64(n);
}

// Of the file whose 'p' row is `bytes`; without one, or with one that is not understood, its id's.
[[nodiscard]] inline NodeId home_in(InodeId id, const std::optional<std::string>& bytes) {
  std::uint64_t node = 0;
  return bytes && parse(*bytes, node) ? static_cast<NodeId>(node) : node_of(id);
}

[[nodiscard]] InodeRow to_row(const Inode& inode);
[[nodiscard]] Inode from_row(InodeId id, const InodeRow& row);
// The first cookie to try for a name.
[[nodiscard]] std::uint64_t name_cookie(std::string_view name, std::uint64_t hash_key);

}  // namespace btd::rows
