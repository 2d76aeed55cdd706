// Proof that a peer has the cluster's key, without saying it: HMAC-SHA256 over what both sides have
// chosen at random for this connection. Pure.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>

#include "alloc/result.h"

namespace btd::net {

inline constexpr std::size_t kNonceBytes = 32;
using Nonce = std::array<std::byte, kNonceBytes>;
using Proof = std::array<std::byte, 32>;

// Errors: EIO the kernel gives no random bytes.
Result<Nonce> make_nonce();
// `label` says who proves to whom, so that a proof can't be sent back to its maker; `parts` are of
// fixed size each. Errors: EIO OpenSSL can't compute it.
Result<Proof> prove(std::span<const std::byte> key, std::string_view label,
                    std::initializer_list<std::span<const std::byte>> parts);
// Takes as long for equal ones as for others.
[[nodiscard]] bool is_same(const Proof& a, const Proof& b);

}  // namespace btd::net
