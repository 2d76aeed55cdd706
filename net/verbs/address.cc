#include "net/verbs/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>

namespace btd::net::verbs {

Result<sockaddr_storage> parse_address(std::string_view text, bool is_passive) {
  const auto wrong = [text] {
    return fail(EINVAL, "\"" + std::string(text) +
                            "\" is no address of an RDMA device: write IP:PORT, and an IPv6 "
                            "address in brackets, as [fd00::1]:7000.");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong();
  std::uint16_t port = 0;
  const std::string_view digits = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || (port == 0 && !is_passive))
    return wrong();
  std::string host(text.substr(0, colon));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (is_passive && (host.empty() || host == "*")) host = "0.0.0.0";
  sockaddr_storage address{};
  auto& v4 = reinterpret_cast<sockaddr_in&>(address);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
  } else if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
  } else {
    return wrong();
  }
  return address;
}

std::string address_text(const sockaddr& address) {
  const bool is_v6 = address.sa_family == AF_INET6;
  std::array<char, INET6_ADDRSTRLEN> host{};
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  const void* bytes = is_v6 ? static_cast<const void*>(&v6.sin6_addr) : &v4.sin_addr;
  if (inet_ntop(address.sa_family, bytes, host.data(), host.size()) == nullptr)
    return "an unknown address";
  const std::string name = host.data();
  return (is_v6 ? "[" + name + "]" : name) + ":" +
         std::to_string(ntohs(is_v6 ? v6.sin6_port : v4.sin_port));
}

}  // namespace btd::net::verbs
