#include "fs/daemon/kernel_word.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "fs/daemon/protocol.h"
#include "fs/daemon/virtual_tree.h"

namespace btd {

namespace {

// As it lies on the socket; the name follows.
struct Wire {
  std::uint64_t number;
  std::uint64_t inode;
  std::uint64_t offset;
  std::uint64_t length;
  std::uint32_t kind;
  std::uint32_t pause_us;
  std::uint64_t spare;
};
static_assert(sizeof(Wire) + KernelWord::kMaxName == KernelWord::kMaxBytes);

template <class T>
iovec part_of(const T& value) {
  return {const_cast<T*>(&value), sizeof value};
}

int notify(int fuse_fd, std::int32_t code, iovec body, iovec tail = {}) {
  proto::OutHeader header{};
  header.len = static_cast<std::uint32_t>(sizeof header + body.iov_len + tail.iov_len);
  header.error = code;
  const std::array<iovec, 3> parts{part_of(header), body, tail};
  return ::writev(fuse_fd, parts.data(), tail.iov_len != 0 ? 3 : 2) < 0 ? errno : 0;
}

int drop(const KernelWord& word, int fuse_fd) {
  const proto::InvalInodeOut out{word.inode, static_cast<std::int64_t>(word.offset),
                                 static_cast<std::int64_t>(word.length)};
  return notify(fuse_fd, proto::kNotifyInvalInode, part_of(out));
}

int look(const KernelWord& word, int fuse_fd) {
  const proto::RetrieveOut out{word.number, word.inode, word.offset,
                               static_cast<std::uint32_t>(word.length), 0};
  return notify(fuse_fd, proto::kNotifyRetrieve, part_of(out));
}

int forget(std::uint64_t directory, const std::string& name, int fuse_fd) {
  const proto::InvalEntryOut out{directory, static_cast<std::uint32_t>(name.size()), 0};
  return notify(fuse_fd, proto::kNotifyInvalEntry, part_of(out),
                {const_cast<char*>(name.c_str()), name.size() + 1});
}

int look_up(const KernelWord& word, int fuse_fd, const std::string& mountpoint) {
  struct stat facts{};
  const std::string path = mountpoint + "/.btd/" + word.name;
  const int error = ::stat(path.c_str(), &facts) == 0 ? 0 : errno;
  (void)forget(VirtualTree::kDir, word.name, fuse_fd);
  return error;
}

}  // namespace

std::vector<std::byte> KernelWord::encoded() const {
  const Wire wire{.number = number,
                  .inode = inode,
                  .offset = offset,
                  .length = length,
                  .kind = static_cast<std::uint32_t>(kind),
                  .pause_us = pause_us,
                  .spare = 0};
  const std::size_t length_of_name = std::min(name.size(), kMaxName);
  std::vector<std::byte> bytes(sizeof wire + length_of_name);
  std::memcpy(bytes.data(), &wire, sizeof wire);
  std::memcpy(bytes.data() + sizeof wire, name.data(), length_of_name);
  return bytes;
}

std::optional<KernelWord> KernelWord::decode(std::span<const std::byte> bytes) {
  Wire wire{};
  if (bytes.size() < sizeof wire || bytes.size() > kMaxBytes) return std::nullopt;
  std::memcpy(&wire, bytes.data(), sizeof wire);
  if (wire.kind < static_cast<std::uint32_t>(Kind::kDropPages) ||
      wire.kind > static_cast<std::uint32_t>(Kind::kLookUp))
    return std::nullopt;
  const auto name = bytes.subspan(sizeof wire);
  return KernelWord{.kind = static_cast<Kind>(wire.kind),
                    .number = wire.number,
                    .inode = wire.inode,
                    .offset = wire.offset,
                    .length = wire.length,
                    .pause_us = wire.pause_us,
                    .name = std::string(reinterpret_cast<const char*>(name.data()), name.size())};
}

int say(const KernelWord& word, int fuse_fd, const std::string& mountpoint) {
  if (word.pause_us != 0) std::this_thread::sleep_for(std::chrono::microseconds(word.pause_us));
  switch (word.kind) {
    case KernelWord::Kind::kDropPages:
      return drop(word, fuse_fd);
    case KernelWord::Kind::kDropAndLook:
      (void)drop(word, fuse_fd);
      return look(word, fuse_fd);
    case KernelWord::Kind::kForgetName:
      return forget(word.inode, word.name, fuse_fd);
    case KernelWord::Kind::kLookUp:
      return look_up(word, fuse_fd, mountpoint);
  }
  return EINVAL;
}

}  // namespace btd
