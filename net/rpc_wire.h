// The messages of RPC as they lie in a send. A call is a CallHeader, the method's request structure
// and a tail of bytes; its answer a ReplyHeader, the method's response structure and a tail.
//
// Structures grow at their end only, with a higher version: who gets a longer one ignores what it
// does not know, who gets a shorter one reads zeros. A method says which versions it still serves.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

namespace btd::net::wire {

enum class RpcKind : std::uint8_t { kCall = 1, kReply = 2 };

struct CallHeader {
  RpcKind kind = RpcKind::kCall;
  std::uint8_t reserved = 0;
  std::uint16_t method = 0;
  std::uint16_t version = 0;      // of the request's structure
  std::uint16_t fixed = 0;        // bytes of the request's structure
  std::uint64_t call = 0;         // the caller's number of it
  std::uint64_t epoch = 0;        // the caller's
  std::uint32_t patience_ms = 0;  // how long the caller waits from its sending
  std::uint32_t reserved2 = 0;
};
static_assert(sizeof(CallHeader) == 32);

struct ReplyHeader {
  RpcKind kind = RpcKind::kReply;
  std::uint8_t reserved = 0;
  std::uint16_t error = 0;  // an errno: then the tail is a sentence
  std::uint16_t version =
      0;  // of the response's structure; the newest that is served if it was refused
  std::uint16_t fixed = 0;  // bytes of the response's structure
  std::uint64_t call = 0;
};
static_assert(sizeof(ReplyHeader) == 16);

// A request's or response's structure: no padding, nothing but bytes.
template <class T>
concept RpcStruct =
    std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T> &&
    std::default_initializable<T> && sizeof(T) <= 4096;

}  // namespace btd::net::wire
