// The words of KeyGuard on the wire. Both sides challenge, the connecting one proves itself first:
//
//   connecting                 accepting
//   Challenge  ------------->
//              <-------------  Challenge
//   Proof      ------------->  (ends the stream if it is wrong)
//              <-------------  Proof
//
// A proof (net/cluster_key.h) is made over the prover's label and both challenges, which have the
// version, the side and 32 random bytes: what was recorded proves nothing later, and one side's
// proof is never the other's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "net/cluster_key.h"

namespace btd::net::key_wire {

inline constexpr std::uint32_t kMagic = 0x4B445442;  // "BTDK"
inline constexpr std::uint16_t kVersion = 1;
inline constexpr std::size_t kKeyBytes = 32;

struct Challenge {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  std::uint8_t side = 0;  // Side, of who says it
  std::uint8_t reserved = 0;
  Nonce nonce{};
};
static_assert(sizeof(Challenge) == 40 && std::is_trivially_copyable_v<Challenge>);

}  // namespace btd::net::key_wire
