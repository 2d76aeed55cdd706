// KernelWord: what is said to the kernel that may have to wait there for requests of this very
// mount, as it travels to the notifier (notifier.h), and saying it.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace btd {

struct KernelWord {
  enum class Kind : std::uint32_t {
    kDropPages = 1,  // of the inode, in the range; no length: all from the offset on
    kDropAndLook,    // then asks what is still there, by a retrieve of this number
    kForgetName,     // in the directory `inode`
    kLookUp,         // the name in /.btd, which is forgotten then
  };
  Kind kind = Kind::kDropPages;
  std::uint64_t number = 0;  // of the answer
  std::uint64_t inode = 0;
  std::uint64_t offset = 0, length = 0;
  std::uint32_t pause_us = 0;  // before it
  std::string name;

  static constexpr std::size_t kMaxName = 255;
  static constexpr std::size_t kMaxBytes = 48 + kMaxName;
  [[nodiscard]] std::vector<std::byte> encoded() const;
  static std::optional<KernelWord> decode(std::span<const std::byte> bytes);
};

// Says it. 0, or an errno: ENOENT the kernel knows no such inode or name. Of kDropAndLook 0 means
// that the kernel answers by a NOTIFY_REPLY of the word's number, to whoever reads `fuse_fd`.
int say(const KernelWord& word, int fuse_fd, const std::string& mountpoint);

}  // namespace btd
