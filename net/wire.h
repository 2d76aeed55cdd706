// The frames between two nodes: what stands on the wire, and nothing else.
//
// All fields are little-endian. A connection begins with a handshake (net/tcp/handshake.h for who
// may speak; Hello below for what was said before); then each side sends requests of its own and
// answers to the other's, in any mixture. Every header has a CRC32C: a stream that has lost its
// place breaks at once. Lengths are checked against what was granted before anything is allocated.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "alloc/crc.h"

namespace btd::net::wire {

static_assert(std::endian::native == std::endian::little, "frames are copied as they lie");

inline constexpr std::uint32_t kMagic = 0x4E445442;  // "BTDN"
inline constexpr std::uint16_t kVersionMin = 1, kVersionMax = 1;

enum class FrameType : std::uint8_t {
  kHello = 1,
  kRefuse = 2,
  kRequest = 3,
  kResponse = 4,
  kBye = 5,  // a ResponseHeader with no more in it: the session ends here
};

enum RequestFlag : std::uint16_t {
  kPlaced = 1,  // of a write: the bytes are there, no payload follows; they are to be made durable
};

// Of a read, `length` is what is wanted and no payload follows; otherwise it is the payload's. The
// payload of a cas8 is a CasOperands.
struct RequestHeader {
  FrameType type = FrameType::kRequest;
  std::uint8_t verb = 0;
  std::uint16_t flags = 0;  // RequestFlag
  std::uint32_t length = 0;
  std::uint64_t seq = 0;
  std::uint64_t epoch = 0;
  std::uint64_t key = 0;
  std::uint64_t offset = 0;
  std::uint32_t reserved2 = 0;
  std::uint32_t crc = 0;
};
static_assert(sizeof(RequestHeader) == 48);

struct CasOperands {
  std::uint64_t expected = 0;
  std::uint64_t desired = 0;
};
static_assert(sizeof(CasOperands) == 16);

struct ResponseHeader {
  FrameType type = FrameType::kResponse;
  std::uint8_t verb = 0;
  std::uint16_t error = 0;   // an errno
  std::uint32_t length = 0;  // of the payload: of a read without an error
  std::uint64_t seq = 0;
  std::uint64_t value = 0;
  std::uint32_t reserved = 0;
  std::uint32_t crc = 0;
};
static_assert(sizeof(ResponseHeader) == 32);

struct SessionId {
  std::uint64_t high = 0, low = 0;
  auto operator<=>(const SessionId&) const = default;
};

// The first frame of each side. The connecting one's offers versions from..to; the other's answer
// has the chosen one in both.
struct Hello {
  FrameType type = FrameType::kHello;
  std::uint8_t reserved = 0;
  std::uint16_t node = 0;
  std::uint32_t magic = kMagic;
  std::uint16_t version_min = kVersionMin, version_max = kVersionMax;
  std::uint32_t attempt = 0;  // of this session, from 1; an older one is refused
  SessionId session;
  // In an answer: names the state that the accepting side has of the session. Another one than at
  // the last connection says that it has forgotten what it answered.
  std::uint64_t state = 0;
  std::uint64_t oldest = 0;  // the sender's first request that is not completed
  std::uint64_t epoch = 0;
  std::uint64_t transfer_bytes = 0;  // granted to the peer
  std::uint32_t window = 0;          // granted to the peer
  std::uint32_t message_bytes = 0;   // granted to the peer
  std::uint32_t capabilities = 0;
  std::uint32_t crc = 0;
};
static_assert(sizeof(Hello) == 80);

// In place of an answer's Hello.
struct Refuse {
  FrameType type = FrameType::kRefuse;
  std::uint8_t reserved = 0;
  std::uint16_t error = 0;  // EPROTONOSUPPORT no common version; EACCES not taken; EBUSY too many
                            // peers; ESTALE an old attempt
  std::uint16_t version_min = kVersionMin, version_max = kVersionMax;
  std::uint32_t crc = 0;
  std::uint32_t reserved2 = 0;
};
static_assert(sizeof(Refuse) == 16);

template <class T>
concept Header = std::is_trivially_copyable_v<T> && requires(T t) { t.crc; };

template <Header T>
[[nodiscard]] std::uint32_t crc_of(T header) {
  header.crc = 0;
  return crc32c(&header, sizeof(header));
}

template <Header T>
[[nodiscard]] T sealed(T header) {
  header.crc = crc_of(header);
  return header;
}

template <Header T>
[[nodiscard]] bool is_sound(const T& header) {
  return header.crc == crc_of(header);
}

// An object as it lies on the wire.
template <class T>
  requires std::is_trivially_copyable_v<T>
[[nodiscard]] std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span{&object, 1});
}

// Of all frames that may follow the handshake.
inline constexpr std::size_t kMinHeaderBytes = sizeof(ResponseHeader);
inline constexpr std::size_t kMaxHeaderBytes = sizeof(RequestHeader);

}  // namespace btd::net::wire
