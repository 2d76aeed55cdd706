#include "tests/net/remote/channel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "net/address.h"

namespace btd::net::remote {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostBytes = 64 << 20;  // of one line; more is a defect

Error broken(const char* what) { return {errno, std::string(what) + ": " + std::strerror(errno)}; }

// Lines are short, and each is waited for.
void send_at_once(int socket) {
  const int yes = 1;
  static_cast<void>(setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)));
}

Result<UniqueFd> connect_once(const Address& address) {
  UniqueFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket || ::connect(socket.get(), address.get(), address.size) != 0)
    return std::unexpected(broken("The peer's control port cannot be reached"));
  send_at_once(socket.get());
  return socket;
}

}  // namespace

const std::string& Line::word(std::size_t i) const {
  static const std::string kNothing;
  return i < words.size() ? words[i] : kNothing;
}

std::uint64_t Line::number(std::size_t i) const {
  return std::strtoull(word(i).c_str(), nullptr, 10);
}

Status Channel::say(const std::vector<std::string>& words, std::span<const std::byte> bytes) {
  std::string text;
  for (const std::string& word : words) text += word + ' ';
  text += std::to_string(bytes.size()) + '\n';
  std::vector<std::byte> all(text.size() + bytes.size());
  std::memcpy(all.data(), text.data(), text.size());
  std::ranges::copy(bytes, all.begin() + static_cast<std::ptrdiff_t>(text.size()));
  for (std::size_t sent = 0; sent < all.size();) {
    const ssize_t n = ::send(socket_.get(), all.data() + sent, all.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EINTR) return std::unexpected(broken("The control connection broke"));
    sent += static_cast<std::size_t>(std::max<ssize_t>(n, 0));
  }
  return {};
}

Status Channel::fill() {
  std::byte more[64 << 10];
  while (true) {
    const ssize_t n = ::recv(socket_.get(), more, sizeof(more), MSG_DONTWAIT);
    if (n > 0) input_.insert(input_.end(), more, more + n);
    if (n == 0) return fail(ECONNRESET, "The other end of the control connection has gone.");
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (n < 0) return std::unexpected(broken("The control connection broke"));
  }
}

Result<std::optional<Line>> Channel::parse() {
  const auto begin = input_.begin() + static_cast<std::ptrdiff_t>(taken_);
  const auto end = std::find(begin, input_.end(), std::byte{'\n'});
  if (end == input_.end()) return std::nullopt;
  Line line;
  line.words.emplace_back();
  for (auto at = begin; at != end; ++at) {
    if (*at == std::byte{' '})
      line.words.emplace_back();
    else
      line.words.back() += static_cast<char>(*at);
  }
  const std::size_t size = line.number(line.words.size() - 1);
  line.words.pop_back();
  if (size > kMostBytes || line.words.empty())
    return fail(EPROTO, "The other end of the control connection speaks another language.");
  if (static_cast<std::size_t>(input_.end() - end) - 1 < size) return std::nullopt;
  line.bytes.assign(end + 1, end + 1 + static_cast<std::ptrdiff_t>(size));
  taken_ = static_cast<std::size_t>(end + 1 - input_.begin()) + size;
  if (taken_ == input_.size()) {
    input_.clear();
    taken_ = 0;
  }
  return line;
}

Result<std::optional<Line>> Channel::hear() {
  BTD_ASSIGN(auto first, parse());
  if (first) return first;
  const Status filled = fill();
  BTD_ASSIGN(auto second, parse());
  if (!second) BTD_TRY(filled);  // what came before the end still counts
  return second;
}

Result<Line> Channel::await(std::chrono::nanoseconds patience) {
  const auto until = Clock::now() + patience;
  while (Clock::now() < until) {
    BTD_ASSIGN(auto line, hear());
    if (line) return *std::move(line);
    sleep(until - Clock::now());
  }
  return fail(ETIMEDOUT, "The other end of the control connection says nothing.");
}

void Channel::sleep(std::chrono::nanoseconds patience) const {
  pollfd wanted{.fd = socket_.get(), .events = POLLIN, .revents = 0};
  patience = std::max(patience, std::chrono::nanoseconds{});
  const timespec time{.tv_sec = patience.count() / 1'000'000'000,
                      .tv_nsec = patience.count() % 1'000'000'000};
  static_cast<void>(ppoll(&wanted, 1, &time, nullptr));
}

Result<Channel> connect_channel(std::string_view address, std::chrono::nanoseconds patience) {
  BTD_ASSIGN(const Address where, parse_numeric_address(address, false));
  const auto until = Clock::now() + patience;
  while (true) {
    auto socket = connect_once(where);
    if (socket) return Channel(*std::move(socket));
    if (Clock::now() > until) return std::unexpected(std::move(socket).error());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Result<ChannelListener> ChannelListener::listen(std::string_view address) {
  BTD_ASSIGN(const Address where, parse_numeric_address(address, true));
  UniqueFd socket(::socket(where.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  if (!socket || setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0 ||
      ::bind(socket.get(), where.get(), where.size) != 0 || ::listen(socket.get(), 8) != 0)
    return std::unexpected(broken("The control port cannot be opened"));
  std::string text = local_address(socket.get()).text();
  return ChannelListener(std::move(socket), std::move(text));
}

Result<Channel> ChannelListener::accept() {
  UniqueFd socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) return std::unexpected(broken("Nobody could be accepted on the control port"));
  send_at_once(socket.get());
  return Channel(std::move(socket));
}

}  // namespace btd::net::remote
