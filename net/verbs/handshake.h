// What two verbs engines say before frames: nonces and the accepting side's proof in the private
// data of the connection manager, then the connecting side's proof in its first SEND. Until it has
// proved the key, a peer's queue pair has no access to memory, whatever keys it knows.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "net/cluster_key.h"
#include "net/wire.h"

namespace btd::net::verbs {

inline constexpr std::uint32_t kMagic = 0x56445442;  // "BTDV"
inline constexpr std::uint16_t kVersion = 1;

// The manager takes 56 bytes of a connecting side and 196 of an accepting one.
struct ConnectData {
  static constexpr bool kIsTagged = true;
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  std::uint16_t reserved = 0;
  Nonce nonce{};
};
static_assert(sizeof(ConnectData) == 40);

struct AcceptData {
  static constexpr bool kIsTagged = true;
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  std::uint16_t reserved = 0;
  Nonce nonce{};
  Proof proof{};
};
static_assert(sizeof(AcceptData) == 72);

struct FirstMessage {
  Proof proof{};
  wire::Hello hello;
};
static_assert(sizeof(FirstMessage) == 112);

// In the private data of a rejection.
struct RejectData {
  static constexpr bool kIsTagged = true;
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  std::uint16_t error = 0;  // EPROTONOSUPPORT, EBUSY
};
static_assert(sizeof(RejectData) == 8);

// The manager may append zeros. nullopt: it is not that.
template <class T>
[[nodiscard]] std::optional<T> parse(std::span<const std::byte> bytes) {
  T object;
  if (bytes.size() < sizeof(T)) return std::nullopt;
  std::memcpy(&object, bytes.data(), sizeof(T));
  if constexpr (requires { T::kIsTagged; }) {
    if (object.magic != kMagic) return std::nullopt;
  }
  return object;
}

Result<Proof> prove_accepting(std::string_view key, const Nonce& connecting,
                              const Nonce& accepting);
Result<Proof> prove_connecting(std::string_view key, const Nonce& connecting,
                               const Nonce& accepting, const wire::Hello& hello);

}  // namespace btd::net::verbs
