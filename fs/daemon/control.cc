#include "fs/daemon/control.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "alloc/descriptor_message.h"

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
  Status sent;
  do {
    sent = send_message(socket, std::as_bytes(std::span(&wire, 1)), fd);
  } while (!sent && sent.error().code == EINTR);
  return sent;
}

Result<ControlMessage> receive_control(int socket, bool wait) {
  Wire wire{};
  ControlMessage result;
  Result<std::size_t> got;
  do {
    got = receive_message(socket, std::as_writable_bytes(std::span(&wire, 1)), result.fd,
                          wait ? 0 : MSG_DONTWAIT);
  } while (!got && got.error().code == EINTR);
  if (!got) return fail(got.error().code == ECONNRESET ? EPIPE : got.error().code);
  if (*got == 0) return fail(EPIPE);
  if (*got != sizeof wire || wire.length > sizeof wire.text)
    return fail(EPROTO, "the worker and the supervisor are of different versions");
  result.word = static_cast<Word>(wire.word);
  result.code = wire.code;
  result.text.assign(wire.text, wire.length);
  return result;
}

}  // namespace btd
