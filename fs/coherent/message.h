// What nodes say to each other of coherent files, in memory.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "alloc/result.h"
#include "fs/coherent/wire.h"
#include "fs/namespace/inode.h"

namespace btd::coherent {

using Bytes = std::vector<std::byte>;

// To a home: those of the protocol, and what surrounds them.
using ToHome = std::variant<coherence::Acquire, coherence::RecallAck, coherence::WriteBack,
                            coherence::DirectRead, coherence::DirectWrite, coherence::Resize,
                            coherence::SizeAck, wire::Attach, wire::Detach, wire::Sync, wire::Told>;
using ToClient = std::variant<coherence::Grant, coherence::Recall, coherence::Done,
                              coherence::SizeChange, wire::Attached>;

template <class Words>
struct Message {
  InodeId file = 0;
  Words words;
  std::uint64_t offset = 0;  // of a direct read or write: its bytes
  std::uint64_t length = 0;
  Bytes tail;
};
using HomeMessage = Message<ToHome>;
using ClientMessage = Message<ToClient>;

// One alternative of a narrower variant, or of a wider one.
template <class Wide, class Narrow>
Wide widen(const Narrow& narrow) {
  return std::visit([](const auto& words) { return Wide(words); }, narrow);
}

// A message in pieces of at most wire::kMostInSend bytes, each a send of its own.
std::vector<Bytes> encode(const HomeMessage& message);
std::vector<Bytes> encode(const ClientMessage& message);

// Puts sends together again; one for each endpoint.
class Assembly {
 public:
  using Whole = std::variant<HomeMessage, ClientMessage>;
  // nullopt: more is to come. Errors: EPROTO it is none of ours, or longer than it may be.
  Result<std::optional<Whole>> take(std::span<const std::byte> send);

 private:
  std::optional<wire::Frame> frame_;
  Bytes body_;
};

}  // namespace btd::coherent
