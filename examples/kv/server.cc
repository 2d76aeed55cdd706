#include "server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <system_error>

#include "commands.h"
#include "resp.h"

namespace kv {
namespace {

constexpr std::size_t kMaxClients = 1000;
constexpr std::size_t kReadBytes = 64 * 1024;
constexpr std::size_t kMaxUnsent = 1024 * 1024;  // no request is begun with more replies than this
constexpr std::size_t kMaxIgnored = 16 * 1024 * 1024;  // of what comes after a connection's end

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

Server::Server(Table& table, const std::string& address, std::uint16_t port) : table_(table) {
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  signals_ = signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
  if (listener_ < 0 || epoll_ < 0 || signals_ < 0) fail("the server cannot start");
  const int on = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  if (inet_pton(AF_INET, address.c_str(), &at.sin_addr) != 1) {
    errno = EINVAL;
    fail(address + " is no IPv4 address");
  }
  socklen_t len = sizeof(at);
  if (bind(listener_, reinterpret_cast<sockaddr*>(&at), len) != 0 || listen(listener_, 128) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &len) != 0) {
    fail("cannot listen on " + address + ":" + std::to_string(port));
  }
  port_ = ntohs(at.sin_port);
  watch(listener_, EPOLLIN, EPOLL_CTL_ADD);
  watch(signals_, EPOLLIN, EPOLL_CTL_ADD);
}

Server::~Server() {
  for (const auto& [fd, client] : clients_) close(fd);
  for (const int fd : {listener_, epoll_, signals_}) {
    if (fd >= 0) close(fd);
  }
}

void Server::watch(int fd, std::uint32_t events, int operation) const {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (epoll_ctl(epoll_, operation, fd, &event) != 0) fail("epoll");
}

void Server::run() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
    if (count < 0 && errno != EINTR) fail("epoll");
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == signals_) return;
      if (fd == listener_) {
        accept_client();
      } else if (const auto found = clients_.find(fd); found != clients_.end()) {
        serve(fd, found->second, events[static_cast<std::size_t>(i)].events);
      }
    }
  }
}

void Server::accept_client() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;  // it went away, or there is no descriptor left for it
  if (clients_.size() == kMaxClients) {
    std::string reply;
    reply_error(reply, "ERR max number of clients reached");
    [[maybe_unused]] const ssize_t sent = send(fd, reply.data(), reply.size(), MSG_NOSIGNAL);
    close(fd);
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  clients_[fd].waits = EPOLLIN;
  watch(fd, EPOLLIN, EPOLL_CTL_ADD);
}

void Server::drop(int fd) {
  close(fd);
  clients_.erase(fd);
}

void Server::serve(int fd, Client& client, std::uint32_t events) {
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && (client.waits & EPOLLIN) != 0) {
    if (!receive(fd, client)) return drop(fd);
  }
  // More of what came can be done whenever replies went out.
  for (;;) {
    work(client);
    const bool full = client.out.size() > kMaxUnsent;
    if (!send_replies(fd, client)) return drop(fd);
    if (!full || !client.out.empty()) break;
  }
  const bool said_all = client.ends && client.out.empty();
  // A socket closed over unread input resets the connection, and the last reply may be lost with
  // it: what still comes is read and ignored until the client closes its side.
  if (said_all) shutdown(fd, SHUT_WR);
  std::uint32_t waits = 0;
  if (!client.out.empty()) waits |= EPOLLOUT;
  if (said_all || (!client.ends && client.out.size() - client.sent <= kMaxUnsent)) waits |= EPOLLIN;
  if (waits == client.waits) return;
  client.waits = waits;
  watch(fd, waits, EPOLL_CTL_MOD);
}

// False: the client is gone.
bool Server::receive(int fd, Client& client) {
  const std::size_t before = client.in.size();
  client.in.resize(before + kReadBytes);
  const ssize_t got = recv(fd, client.in.data() + before, kReadBytes, 0);
  client.in.resize(before + static_cast<std::size_t>(got > 0 ? got : 0));
  if (client.ends) {
    client.ignored += client.in.size();
    client.in.clear();
    if (client.ignored > kMaxIgnored) return false;
  }
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

// Does what has come, as long as there is room for replies. What is left is less than a request, or
// waits for its turn: the parser refuses requests of more than 2 MiB, so that `in` is bounded.
void Server::work(Client& client) {
  std::size_t done = 0;
  while (!client.ends && client.out.size() <= kMaxUnsent) {
    const Parsed parsed = parse(std::string_view(client.in).substr(done), request_);
    if (parsed.kind == Parsed::Kind::kIncomplete) break;
    if (parsed.kind == Parsed::Kind::kError) {
      reply_error(client.out, "ERR Protocol error: " + std::string(parsed.problem));
      client.ends = true;
      break;
    }
    if (!request_.empty()) client.ends = execute(table_, request_, client.out);
    done += parsed.bytes;
  }
  client.in.erase(0, done);
}

// False: the client is gone.
bool Server::send_replies(int fd, Client& client) {
  while (client.sent < client.out.size()) {
    const ssize_t sent =
        send(fd, client.out.data() + client.sent, client.out.size() - client.sent, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN;
    client.sent += static_cast<std::size_t>(sent);
  }
  client.out.clear();
  client.sent = 0;
  return true;
}

}  // namespace kv
