// Who gets which descriptor of a backing file: the decisions, without I/O.
//
// The kernel checked the permission when the file was opened; what it allowed stands in the file
// handle that the open was answered with, which no program can choose. A ticket carries that to
// the socket. A backing file is refused where the two views would differ. Thread-safety: the
// functions are pure; Tickets may be used by any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "alloc/backing_protocol.h"
#include "alloc/result.h"
#include "fs/namespace/inode.h"

namespace btd {

// The lowest bits of the file handle of a regular file; 0 allows nothing.
inline constexpr std::uint64_t kHandleReads = 1;
inline constexpr std::uint64_t kHandleWrites = 2;
inline constexpr std::uint64_t kHandleAccess = kHandleReads | kHandleWrites;
inline constexpr unsigned kHandleBits = 9;  // with kHandleCoherent; above, what names the open
std::uint64_t handle_of_open(int flags);

struct Grant {
  InodeId id = 0;
  std::uint64_t handle = 0;
};

// The flags to open the backing file with: the access that `handle` has, never more.
// Errors, with a sentence: EINVAL no regular file; EBADF open for neither reading nor writing;
// EPERM the file has setuid or setgid bits, which a write past the daemon would not clear.
Result<int> backing_flags(std::uint64_t handle, std::uint32_t mode);

// Reads a message. `cut`: something of it was left out, bytes or descriptors.
// Errors: EPROTO it is none of ours; EPROTONOSUPPORT of another version.
Result<backing::Ticket> read_ask(std::span<const std::byte> message, bool cut);

// The tickets that were handed out and not yet used. The oldest makes room for a new one.
class Tickets {
 public:
  static constexpr std::size_t kMost = 64;
  static constexpr std::uint64_t kLifeNs = 5'000'000'000;

  // `ticket` must be random and new.
  void add(const backing::Ticket& ticket, const Grant& grant, std::uint64_t now_ns);
  // The value of a ticket, once.
  std::optional<Grant> take(const backing::Ticket& ticket, std::uint64_t now_ns);

 private:
  struct Entry {
    backing::Ticket ticket;
    Grant grant;
    std::uint64_t until_ns = 0;  // 0: used
  };
  std::mutex mutex_;
  std::size_t next_ = 0;
  Entry entries_[kMost];
};

}  // namespace btd
