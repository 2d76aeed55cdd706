#include "tests/net/raw_peer.h"

#include <gtest/gtest.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "net/address.h"

namespace btd::net {

RawPeer::RawPeer(const std::string& address, int receive_bytes) {
  auto to = parse_address(address, false);
  EXPECT_TRUE(to.has_value());
  if (!to) return;
  socket_ = UniqueFd(::socket(to->front().family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (receive_bytes > 0)
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof(receive_bytes));
  EXPECT_EQ(::connect(socket_.get(), to->front().get(), to->front().size), 0);
}

bool RawPeer::say(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

std::size_t RawPeer::say_some(std::span<const std::byte> bytes) {
  const ssize_t n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return static_cast<std::size_t>(std::max<ssize_t>(n, 0));
}

int RawPeer::unsent() const {
  int bytes = 0;
  EXPECT_EQ(::ioctl(socket_.get(), SIOCOUTQ, &bytes), 0);
  return bytes;
}

std::vector<std::byte> RawPeer::hear() {
  std::vector<std::byte> all;
  std::array<std::byte, 4096> some{};
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), some.data(), some.size(), MSG_DONTWAIT);
    if (n <= 0) return all;
    all.insert(all.end(), some.begin(), some.begin() + n);
  }
}

bool RawPeer::is_closed() {
  std::array<std::byte, 4096> some{};
  for (;;) {
    const ssize_t n = ::recv(socket_.get(), some.data(), some.size(), MSG_DONTWAIT);
    if (n == 0) return true;
    if (n < 0) return errno != EAGAIN;
  }
}

void RawPeer::reset() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  socket_.reset();
}

}  // namespace btd::net
