// Fuzz targets: bytes of a peer, good or bad, into what parses them. net_fuzz_test drives them with
// seeded bytes. A target that ends has not crashed; sanitizers and its own checks see the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace btd::net::fuzz {

// The bytes are cut where they say; the first chooses the side and the kind of guard.
void handshake(std::span<const std::uint8_t> bytes);
// The bytes of a peer on a connection whose session has operations of its own under way.
void connection(std::span<const std::uint8_t> bytes);

}  // namespace btd::net::fuzz
