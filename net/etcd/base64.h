// Base64 as the JSON gateway of etcd wants it (RFC 4648, padded). Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace btd::net {

void append_base64(std::string& out, std::string_view bytes);
// nullopt for anything that append_base64 would not have written.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

}  // namespace btd::net
