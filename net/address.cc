#include "net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>

namespace btd::net {

namespace {

struct HostPort {
  std::string host;
  std::string port;
};

std::optional<std::uint16_t> port_of(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return port;
}

std::optional<HostPort> split(std::string_view text, bool is_passive) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto port = port_of(text.substr(colon + 1));
  if (!port) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.contains(':')) {
    return std::nullopt;  // an IPv6 address without brackets: where does it end?
  }
  if (is_passive && host == "*") host = {};
  if (!is_passive && (host.empty() || host == "*" || *port == 0)) return std::nullopt;
  return HostPort{std::string(host), std::to_string(*port)};
}

struct Free {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

int resolve(const HostPort& from, int flags, std::vector<Address>& into) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const char* host = from.host.empty() ? nullptr : from.host.c_str();
  const int error = ::getaddrinfo(host, from.port.c_str(), &hints, &list);
  if (error != 0) return error;
  const std::unique_ptr<addrinfo, Free> owned(list);
  for (const addrinfo* one = list; one != nullptr; one = one->ai_next) {
    Address address;
    if (one->ai_addrlen > sizeof(address.bytes)) continue;
    std::memcpy(&address.bytes, one->ai_addr, one->ai_addrlen);
    address.size = one->ai_addrlen;
    into.push_back(address);
  }
  return into.empty() ? EAI_NONAME : 0;
}

}  // namespace

bool Address::is_loopback() const {
  constexpr std::uint32_t kNet = 127;
  if (family() == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(bytes);
    return ntohl(v4.sin_addr.s_addr) >> 24U == kNet;
  }
  if (family() != AF_INET6) return false;
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(bytes).sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&v6)) return v6.s6_addr[12] == kNet;
  return IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string Address::text() const { return address_text(*get()); }

std::string address_text(const sockaddr& address) {
  const bool is_v6 = address.sa_family == AF_INET6;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (::getnameinfo(&address, is_v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in), host.data(),
                    host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "an unknown address";
  const std::string name = host.data();
  return (is_v6 ? "[" + name + "]" : name) + ":" + port.data();
}

Result<std::vector<Address>> parse_address(std::string_view text, bool is_passive) {
  const auto parts = split(text, is_passive);
  if (!parts)
    return fail(EINVAL, "\"" + std::string(text) +
                            "\" is no address: write HOST:PORT, and an IPv6 address in brackets, "
                            "as [::1]:7000.");
  const int flags = is_passive ? AI_PASSIVE : 0;
  std::vector<Address> found;
  if (resolve(*parts, flags | AI_NUMERICHOST, found) == 0) return found;
  if (const int error = resolve(*parts, flags, found); error != 0)
    return fail(EHOSTUNREACH, "The host " + parts->host + " can't be found (" +
                                  ::gai_strerror(error) + "); check its name and the resolver.");
  return found;
}

Result<Address> parse_numeric_address(std::string_view text, bool is_passive) {
  const auto parts = split(text, is_passive);
  std::vector<Address> found;
  if (!parts || resolve(*parts, (is_passive ? AI_PASSIVE : 0) | AI_NUMERICHOST, found) != 0)
    return fail(EINVAL, "\"" + std::string(text) +
                            "\" is no address of an RDMA device: write IP:PORT, and an IPv6 "
                            "address in brackets, as [fd00::1]:7000.");
  return found.front();
}

Address local_address(int socket) {
  Address address;
  address.size = sizeof(address.bytes);
  if (::getsockname(socket, address.get(), &address.size) != 0) address.size = 0;
  return address;
}

Address peer_address(int socket) {
  Address address;
  address.size = sizeof(address.bytes);
  if (::getpeername(socket, address.get(), &address.size) != 0) address.size = 0;
  return address;
}

}  // namespace btd::net
