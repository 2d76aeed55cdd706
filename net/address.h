// Addresses: "host:port" to and from what the kernel takes.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"

namespace btd::net {

struct Address {
  sockaddr_storage bytes{};
  socklen_t size = 0;

  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&bytes); }
  [[nodiscard]] int family() const { return bytes.ss_family; }
  [[nodiscard]] bool is_loopback() const;
  [[nodiscard]] std::string text() const;
};

// All addresses that `text` stands for. `is_passive`: to listen on, where the host may be empty or
// "*" for all of this machine's. A number needs no resolver; a name waits for it.
// Errors: EINVAL; EHOSTUNREACH the name is unknown, or its server does not answer.
Result<std::vector<Address>> parse_address(std::string_view text, bool is_passive);
// The same where nobody can wait for a resolver: the host is a number, or EINVAL. The first one.
Result<Address> parse_numeric_address(std::string_view text, bool is_passive);

// As parse_address() takes it.
[[nodiscard]] std::string address_text(const sockaddr& address);

Address local_address(int socket);
Address peer_address(int socket);

}  // namespace btd::net
