#include "libbtd/backing.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstdint>
#include <ctime>
#include <span>

#include "alloc/backing_protocol.h"
#include "alloc/descriptor_message.h"

namespace btd {
namespace {

// One for the worker that gave a ticket and died, one for that which replaced it.
constexpr int kAttempts = 2;

class Deadline {
 public:
  Deadline() : until_ms_(now_ms() + kBackingDeadlineMs) {}
  // Lets the next call on `socket` wait until then. False: it is past.
  [[nodiscard]] bool apply(int socket, int option) const {
    const std::int64_t left = until_ms_ - now_ms();
    if (left <= 0) return false;
    const timeval time{.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    return setsockopt(socket, SOL_SOCKET, option, &time, sizeof(time)) == 0;
  }

 private:
  static std::int64_t now_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
  }
  std::int64_t until_ms_;
};

// The daemon is root's or our own; anybody else's socket is not asked.
bool is_trusted(int socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == 0 || peer.uid == geteuid());
}

UniqueFd connect_to(const sockaddr_un& address, const Deadline& deadline) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket || !deadline.apply(socket.get(), SO_SNDTIMEO)) return {};
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      !is_trusted(socket.get())) {
    return {};
  }
  return socket;
}

UniqueFd exchange(int socket, const backing::Ticket& ticket, const Deadline& deadline) {
  const backing::Ask ask{.ticket = ticket};
  if (send(socket, &ask, sizeof(ask), MSG_NOSIGNAL) != sizeof(ask)) return {};
  backing::Answer answer;
  if (!deadline.apply(socket, SO_RCVTIMEO)) return {};
  UniqueFd fd;
  const Result<std::size_t> got =
      receive_message(socket, std::as_writable_bytes(std::span(&answer, 1)), fd);
  if (!got || *got != sizeof(answer) || answer.magic != backing::kMagic ||
      answer.version != backing::kVersion || answer.error != 0) {
    return {};
  }
  return fd;
}

bool is_same_kind(int ours, int theirs) {
  struct stat a{}, b{};
  const int mine = fcntl(ours, F_GETFL), other = fcntl(theirs, F_GETFL);
  return fstat(ours, &a) == 0 && fstat(theirs, &b) == 0 && S_ISREG(b.st_mode) &&
         b.st_size >= a.st_size && mine >= 0 && other >= 0 &&
         (mine & O_ACCMODE) == (other & O_ACCMODE);
}

}  // namespace

std::optional<sockaddr_un> backing_socket_of(int fd) {
  struct statfs fs{};
  if (fstatfs(fd, &fs) != 0 || fs.f_type != FUSE_SUPER_MAGIC) return std::nullopt;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const ssize_t length =
      fgetxattr(fd, "user.btd.socket", address.sun_path, sizeof(address.sun_path) - 1);
  if (length <= 0 || address.sun_path[0] != '/') return std::nullopt;
  return address;
}

UniqueFd backing_of(int fd, const sockaddr_un& address) {
  const Deadline deadline;
  for (int i = 0; i < kAttempts; ++i) {
    backing::Ticket ticket;
    if (ioctl(fd, backing::kTakeTicket, &ticket) != 0) return {};
    const UniqueFd socket = connect_to(address, deadline);
    if (!socket) continue;
    UniqueFd backing = exchange(socket.get(), ticket, deadline);
    if (backing && is_same_kind(fd, backing.get())) return backing;
  }
  return {};
}

}  // namespace btd
