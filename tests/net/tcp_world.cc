#include "tests/net/tcp_world.h"

#include <sys/socket.h>

#include <array>
#include <cstdlib>

#include "net/address.h"

namespace btd::net {

namespace {

std::uint16_t port_of(const Address& address) {
  const std::string text = address.size == 0 ? ":0" : address.text();
  return static_cast<std::uint16_t>(std::atoi(text.c_str() + text.rfind(':') + 1));
}

}  // namespace

void cut_connections(const std::string& address) {
  constexpr int kMostFiles = 8192;
  const auto port = static_cast<std::uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1));
  for (int fd = 3; fd < kMostFiles; ++fd) {
    const Address peer = peer_address(fd);
    if (peer.size == 0 || (peer.family() != AF_INET && peer.family() != AF_INET6)) continue;
    if (port_of(peer) == port || port_of(local_address(fd)) == port) ::shutdown(fd, SHUT_RDWR);
  }
}

std::unique_ptr<Engine> make_engine(const Security& security, const EngineOptions& options) {
  return make_engine(TcpOptions{.engine = options, .security = security});
}

TcpOptions all_zero_copy(TcpCounts* counts) {
  return {.zero_copy_bytes = 1, .is_zero_copy_forced = true, .counts = counts};
}

std::unique_ptr<Engine> make_engine(const TcpOptions& options) {
  auto made = make_tcp_engine(options);
  EXPECT_TRUE(made.has_value()) << made.error().message;
  return made ? std::move(*made) : nullptr;
}

TcpWorld::TcpWorld(const WorldOptions& options, TcpOptions tcp) {
  tcp.engine = {.epoch = options.epoch,
                .limits = options.limits,
                .patience = options.patience,
                .spin = Time{}};
  client_ = make_engine(tcp);
  server_ = make_engine(tcp);
}

Status TcpWorld::listen(Acceptor acceptor) {
  BTD_ASSIGN(address_, server_->listen("127.0.0.1:0", std::move(acceptor)));
  return {};
}

bool TcpWorld::run_until(const std::function<bool()>& condition, Time within) {
  constexpr Time kNap = std::chrono::microseconds(200);
  const Time until = client_->now() + within;
  while (!condition()) {
    if (client_->now() >= until) return false;
    const bool has_server = server_ && !is_paused_;
    auto mine = client_->poll();
    auto theirs = has_server ? server_->poll() : Result<std::size_t>(0);
    EXPECT_TRUE(mine.has_value() && theirs.has_value());
    if (!mine || !theirs) return false;
    if (*mine + *theirs == 0) static_cast<void>(client_->wait(client_->now() + kNap));
  }
  return true;
}

}  // namespace btd::net
