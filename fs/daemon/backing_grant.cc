#include "fs/daemon/backing_grant.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>

namespace btd {

std::uint64_t handle_of_open(int flags) {
  switch (flags & O_ACCMODE) {
    case O_RDONLY:
      return kHandleReads;
    case O_WRONLY:
      return kHandleWrites;
    case O_RDWR:
      return kHandleReads | kHandleWrites;
    default:
      return 0;  // Linux's fourth mode, in which a file can be neither read nor written
  }
}

Result<int> backing_flags(std::uint64_t handle, std::uint32_t mode) {
  if (!S_ISREG(mode)) return fail(EINVAL, "only a regular file has a backing file");
  if ((mode & (S_ISUID | S_ISGID)) != 0)
    return fail(EPERM, "the file is setuid or setgid, so its writes go through the daemon");
  switch (handle) {
    case kHandleReads:
      return O_RDONLY;
    case kHandleWrites:
      return O_WRONLY;
    case kHandleReads | kHandleWrites:
      return O_RDWR;
    default:
      return fail(EBADF, "the file is open for neither reading nor writing");
  }
}

Result<backing::Ticket> read_ask(std::span<const std::byte> message, bool cut) {
  backing::Ask ask;
  if (cut || message.size() != sizeof ask)
    return fail(EPROTO, "a message has 24 bytes and no descriptor");
  std::memcpy(&ask, message.data(), sizeof ask);
  if (ask.magic != backing::kMagic) return fail(EPROTO, "this is no message to the daemon");
  if (ask.version != backing::kVersion)
    return fail(EPROTONOSUPPORT, "the daemon speaks another version; update the older of the two");
  return ask.ticket;
}

void Tickets::add(const backing::Ticket& ticket, const Grant& grant, std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  entries_[next_] = Entry{ticket, grant, now_ns + kLifeNs};
  next_ = (next_ + 1) % kMost;
}

std::optional<Grant> Tickets::take(const backing::Ticket& ticket, std::uint64_t now_ns) {
  const std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) {
    if (entry.until_ns == 0 || entry.ticket != ticket) continue;
    const bool late = entry.until_ns < now_ns;
    const Grant grant = entry.grant;
    entry = {};
    if (late) return std::nullopt;
    return grant;
  }
  return std::nullopt;
}

}  // namespace btd
