#include "fs/daemon/control.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace btd {

namespace {

struct Wire {
  std::uint32_t word;
  std::int32_t code;
  std::uint32_t length;
  char text[ControlMessage::kMaxText];
};

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> control_pair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
    return fail(errno, "cannot make a socket pair");
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

Status send_control(int socket, Word word, int code, const std::string& text, int fd) {
  Wire wire{};
  wire.word = static_cast<std::uint32_t>(word);
  wire.code = code;
  wire.length = static_cast<std::uint32_t>(std::min(text.size(), sizeof wire.text));
  std::copy_n(text.data(), wire.length, wire.text);
  iovec part{&wire, sizeof wire};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = space;
    message.msg_controllen = sizeof space;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  ssize_t n = 0;
  do {
    n = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail(errno);
  return {};
}

Result<ControlMessage> receive_control(int socket, bool wait) {
  Wire wire{};
  iovec part{&wire, sizeof wire};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  ssize_t n = 0;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
  } while (n < 0 && errno == EINTR);
  if (n < 0) return fail(errno == ECONNRESET ? EPIPE : errno);
  if (n == 0) return fail(EPIPE);
  ControlMessage result;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    result.fd.reset(fd);
  }
  if (n != static_cast<ssize_t>(sizeof wire) || wire.length > sizeof wire.text)
    return fail(EPROTO, "the worker and the supervisor are of different versions");
  result.word = static_cast<Word>(wire.word);
  result.code = wire.code;
  result.text.assign(wire.text, wire.length);
  return result;
}

}  // namespace btd
