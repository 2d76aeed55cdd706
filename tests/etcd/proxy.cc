#include "tests/etcd/proxy.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <utility>

namespace btd::net::testing {
namespace {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

UniqueFd connect_to(int port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return UniqueFd();
  return fd;
}

// False: it was closed.
bool receive(int fd, std::string& buffer) {
  std::array<char, 65536> bytes;
  const ssize_t n = recv(fd, bytes.data(), bytes.size(), 0);
  if (n <= 0) return false;
  buffer.append(bytes.data(), static_cast<std::size_t>(n));
  return true;
}

}  // namespace

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

std::size_t whole_request(std::string_view buffer) {
  const std::size_t head = buffer.find("\r\n\r\n");
  if (head == std::string_view::npos) return 0;
  constexpr std::string_view kLength = "Content-Length: ";
  const std::size_t at = buffer.find(kLength);
  if (at == std::string_view::npos || at > head) return head + 4;
  const std::size_t whole =
      head + 4 + std::strtoul(buffer.data() + at + kLength.size(), nullptr, 10);
  return buffer.size() >= whole ? whole : 0;
}

Listener::Listener(Serve serve)
    : serve_(std::move(serve)), socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(socket_.get(), generic, size) != 0 || listen(socket_.get(), 64) != 0 ||
      getsockname(socket_.get(), generic, &size) != 0)
    std::abort();
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { run(); });
}

Listener::~Listener() {
  ending_ = true;
  ::shutdown(socket_.get(), SHUT_RDWR);
  acceptor_.join();
  shut();
  for (std::thread& thread : threads_) thread.join();
}

void Listener::shut() {
  shut_ = true;
  const std::scoped_lock lock(mutex_);
  for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
}

void Listener::run() {
  while (!ending_) {
    UniqueFd fd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (fd.get() < 0) continue;
    const std::scoped_lock lock(mutex_);
    if (shut_) continue;
    const auto entry = open_.insert(open_.end(), fd.get());
    threads_.emplace_back([this, entry, connection = std::move(fd)]() mutable {
      const int number = connection.get();
      // A second descriptor keeps the number from being used again before it leaves the list.
      const UniqueFd keep(dup(number));
      *entry = keep.get();
      serve_(std::move(connection));
      const std::scoped_lock inner(mutex_);
      open_.erase(entry);
    });
  }
}

Fate Proxy::judge(std::string_view request) {
  if (!request.starts_with("POST /v3/kv/txn")) return Fate::pass;
  const std::scoped_lock lock(mutex_);
  return judge_ ? judge_(request) : Fate::pass;
}

// False: the connection ends.
bool Proxy::pass_request(const std::string& request, UniqueFd& server) {
  std::string answer;
  switch (judge(request)) {
    case Fate::pass:
      return send_all(server.get(), request);
    case Fate::drop:
      return false;
    case Fate::cut:
      send_all(server.get(), request);
      return false;
    case Fate::answer:
      send_all(server.get(), request);
      receive(server.get(), answer);
      return false;
    case Fate::late:
      std::thread([request, fd = std::move(server)] {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        send_all(fd.get(), request);
        std::string ignored;
        receive(fd.get(), ignored);
      }).detach();
      return false;
  }
  return false;
}

void Proxy::serve(UniqueFd client) {
  UniqueFd server = connect_to(port_);
  if (server.get() < 0) return;
  std::string requests, answers;
  bool is_http_2 = false;
  for (;;) {
    std::array<pollfd, 2> both = {pollfd{client.get(), POLLIN, 0}, pollfd{server.get(), POLLIN, 0}};
    if (poll(both.data(), both.size(), -1) < 0) return;
    if (both[1].revents != 0) {
      answers.clear();
      if (!receive(server.get(), answers) || !send_all(client.get(), answers)) return;
    }
    if (both[0].revents == 0) continue;
    if (!receive(client.get(), requests)) return;
    if (requests.starts_with("PRI ")) is_http_2 = true;  // a watch by gRPC
    if (is_http_2) {
      if (!send_all(server.get(), requests)) return;
      requests.clear();
      continue;
    }
    while (const std::size_t size = whole_request(requests)) {
      if (!pass_request(requests.substr(0, size), server)) return;
      requests.erase(0, size);
    }
  }
}

}  // namespace btd::net::testing
