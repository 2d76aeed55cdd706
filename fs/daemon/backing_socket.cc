#include "fs/daemon/backing_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "alloc/descriptor_message.h"
#include "fs/daemon/backing_grant.h"
#include "fs/daemon/metrics.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83  // Linux 6.16
#endif

namespace btd {

namespace {

constexpr const char* kDirectory = "/run/bartender";
constexpr std::uint64_t kNsPerMs = 1'000'000;

std::unexpected<Error> cannot(const std::string& what, int code) {
  return fail(code, "cannot " + what + ": " + strerrordesc_np(code));
}

// Who may write there could put a socket of his own in the place of ours.
Status make_directory() {
  if (mkdir(kDirectory, 0755) == 0) {
    if (chmod(kDirectory, 0755) != 0) return cannot(std::string("open ") + kDirectory, errno);
  } else if (errno != EEXIST) {
    return cannot(std::string("make ") + kDirectory, errno);
  }
  struct stat st{};
  if (lstat(kDirectory, &st) != 0) return cannot(std::string("use ") + kDirectory, errno);
  if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return fail(EPERM,
                std::string(kDirectory) + " must be root's directory, which no other writes");
  return {};
}

}  // namespace

std::string BackingSocket::path_of(int lock_fd) {
  struct stat st{};
  if (geteuid() != 0 || fstat(lock_fd, &st) != 0) return {};
  return std::string(kDirectory) + "/" + std::to_string(st.st_dev) + "-" +
         std::to_string(st.st_ino) + ".socket";
}

Result<std::unique_ptr<BackingSocket>> BackingSocket::open(const std::string& path,
                                                           GrantFunction grant) {
  BTD_TRY(make_directory());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return cannot("name a socket " + path, ENAMETOOLONG);
  path.copy(address.sun_path, path.size());
  UniqueFd listener(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!listener || !wake) return cannot("make a socket", errno);
  const int none = 0;  // older kernels drop a descriptor only when its message is read
  (void)setsockopt(listener.get(), SOL_SOCKET, SO_PASSRIGHTS, &none, sizeof none);
  unlink(path.c_str());
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return cannot("make the socket " + path, errno);
  if (chmod(path.c_str(), 0666) != 0 || listen(listener.get(), kMostConnections) != 0) {
    const int code = errno;
    unlink(path.c_str());
    return cannot("listen at " + path, code);
  }
  return std::unique_ptr<BackingSocket>(
      new BackingSocket(path, std::move(listener), std::move(wake), std::move(grant)));
}

BackingSocket::BackingSocket(std::string path, UniqueFd listener, UniqueFd wake,
                             GrantFunction grant)
    : path_(std::move(path)),
      listener_(std::move(listener)),
      wake_(std::move(wake)),
      grant_(std::move(grant)),
      thread_([this] { serve(); }) {}

BackingSocket::~BackingSocket() {
  unlink(path_.c_str());
  const std::uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
  thread_.join();
}

void BackingSocket::serve() {
  std::vector<pollfd> fds;
  for (;;) {
    const std::uint64_t before = monotonic_ns();
    fds = {{wake_.get(), POLLIN, 0}, {before < deaf_until_ns_ ? -1 : listener_.get(), POLLIN, 0}};
    for (const Connection& connection : connections_)
      fds.push_back({connection.socket.get(), POLLIN, 0});
    if (poll(fds.data(), fds.size(), milliseconds_to_wait(before)) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    const std::uint64_t now = monotonic_ns();
    for (std::size_t i = connections_.size(); i-- > 0;) {
      if (fds[i + 2].revents != 0) {
        answer(connections_[i].socket.get());
      } else if (now < connections_[i].until_ns) {
        continue;
      }
      connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    // One a round, so that those that have asked are answered before one of them is displaced.
    if (fds[1].revents != 0) accept_one(now);
  }
}

int BackingSocket::milliseconds_to_wait(std::uint64_t now_ns) const {
  std::uint64_t until = connections_.empty() ? 0 : connections_.front().until_ns;
  if (now_ns < deaf_until_ns_)
    until = until == 0 ? deaf_until_ns_ : std::min(until, deaf_until_ns_);
  if (until == 0) return -1;
  return until <= now_ns ? 0 : static_cast<int>((until - now_ns) / kNsPerMs) + 1;
}

void BackingSocket::accept_one(std::uint64_t now_ns) {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) {
    const bool gone = errno == EAGAIN || errno == EINTR || errno == ECONNABORTED;
    if (!gone) deaf_until_ns_ = now_ns + kPatienceMs * kNsPerMs;
    return;
  }
  if (connections_.size() == kMostConnections) connections_.pop_front();
  connections_.push_back({std::move(socket), now_ns + kPatienceMs * kNsPerMs});
}

void BackingSocket::answer(int socket) const {
  std::byte bytes[sizeof(backing::Ask) + 1];
  iovec part{bytes, sizeof bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT);
  if (n <= 0) return;
  const bool cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  auto fd = [&]() -> Result<UniqueFd> {
    BTD_ASSIGN(const backing::Ticket ticket,
               read_ask(std::span(bytes).first(static_cast<std::size_t>(n)), cut));
    return grant_(ticket);
  }();
  backing::Answer reply;
  if (!fd) {
    reply.error = fd.error().code;
    const std::string text =
        fd.error().message.empty() ? strerrordesc_np(reply.error) : fd.error().message;
    reply.length = static_cast<std::uint32_t>(text.copy(reply.text, sizeof reply.text));
  }
  const Status sent =
      send_message(socket, std::as_bytes(std::span(&reply, 1)), fd ? fd->get() : -1, MSG_DONTWAIT);
  if (!sent)
    spdlog::debug("answering at the socket of backing files: {}",
                  strerrordesc_np(sent.error().code));
}

}  // namespace btd
