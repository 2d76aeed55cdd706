// Addresses of the connection manager: "host:port", the host a number, since a name would have to
// wait for a resolver.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>

#include "alloc/result.h"

namespace btd::net::verbs {

// Errors: EINVAL. `is_passive`: an empty host or "*" is all of this machine's, and port 0 is any.
Result<sockaddr_storage> parse_address(std::string_view text, bool is_passive);
[[nodiscard]] std::string address_text(const sockaddr& address);

}  // namespace btd::net::verbs
