// The protocol's messages as they lie on the wire: fixed size, little-endian, no padding. The state
// machines use them as they are. Contents of pages travel behind a structure, as an RPC's tail.
//
// The channel between a client and a home is ordered in each direction: a write-back precedes the
// acknowledgement of the recall that caused it, and a grant precedes its recall.
#pragma once

#include <bit>
#include <cstddef>
#include <variant>

#include "fs/coherence/types.h"
#include "net/rpc_wire.h"

namespace btd::coherence {

static_assert(std::endian::native == std::endian::little);

enum class MethodId : std::uint16_t {
  kAcquire = 0x40,
  kRecallAck = 0x41,
  kWriteBack = 0x42,
  kDirectRead = 0x43,
  kDirectWrite = 0x44,
  kResize = 0x45,
  kSizeAck = 0x46,
  kGrant = 0x48,
  kRecall = 0x49,
  kDone = 0x4a,
  kSizeChange = 0x4b,
};

// ---- client to home

// "A fill of `page` waits: I have nothing of it." At most one of a node and page is on the way.
struct Acquire {
  Page page = 0;
  Rights rights = Rights::kNone;
  std::uint8_t reserved[7] = {};
};

// "What `version` recalled is gone here, and what was dirty of it is with you."
struct RecallAck {
  Page page = 0;
  Version version = 0;
  Rights kept = Rights::kNone;  // kShared by who can write-protect: of a recall to kShared only
  std::uint8_t reserved[7] = {};
};

// Tail: `bytes` from page `first` on.
struct WriteBack {
  Page first = 0;
  std::uint64_t bytes = 0;
  Request request = 0;
};

struct DirectRead {
  Page first = 0;
  std::uint64_t count = 1;
  Request request = 0;
};

// Tail: the bytes. The write ends at `end`: the size grows to that.
struct DirectWrite {
  Page first = 0;
  std::uint64_t count = 1;
  std::uint64_t end = 0;
  Request request = 0;
};

struct Resize {
  std::uint64_t bytes = 0;
  Request request = 0;
};

struct SizeAck {
  Version version = 0;
};

// ---- home to client

// Answers an Acquire of `page`. Tail: its contents. With kOwned, all `count` pages from `first` on
// are the node's. kNone: `error` says why not.
struct Grant {
  Page page = 0;
  Page first = 0;
  std::uint32_t count = 1;
  Rights rights = Rights::kNone;
  std::uint8_t reserved = 0;
  std::uint16_t error = 0;
};

// `to`: the rights that the node may keep at most.
struct Recall {
  Page page = 0;
  Version version = 0;
  Rights to = Rights::kNone;
  std::uint8_t reserved[7] = {};
};

// Answers WriteBack, DirectRead (tail: the bytes), DirectWrite, Resize. EAGAIN: ask again later.
struct Done {
  Request request = 0;
  std::uint16_t error = 0;
  std::uint8_t reserved[6] = {};
};

struct SizeChange {
  std::uint64_t bytes = 0;
  Version version = 0;
};

static_assert(sizeof(Acquire) == 16 && offsetof(Acquire, rights) == 8);
static_assert(sizeof(RecallAck) == 24 && offsetof(RecallAck, kept) == 16);
static_assert(sizeof(WriteBack) == 24 && offsetof(WriteBack, request) == 16);
static_assert(sizeof(DirectRead) == 24 && offsetof(DirectRead, request) == 16);
static_assert(sizeof(DirectWrite) == 32 && offsetof(DirectWrite, request) == 24);
static_assert(sizeof(Resize) == 16 && offsetof(Resize, request) == 8);
static_assert(sizeof(SizeAck) == 8);
static_assert(sizeof(Grant) == 24 && offsetof(Grant, rights) == 20 && offsetof(Grant, error) == 22);
static_assert(sizeof(Recall) == 24 && offsetof(Recall, to) == 16);
static_assert(sizeof(Done) == 16 && offsetof(Done, error) == 8);
static_assert(sizeof(SizeChange) == 16 && offsetof(SizeChange, version) == 8);

using ToHome =
    std::variant<Acquire, RecallAck, WriteBack, DirectRead, DirectWrite, Resize, SizeAck>;
using ToClient = std::variant<Grant, Recall, Done, SizeChange>;

template <class... Message>
consteval bool all_rpc_structs(const std::variant<Message...>*) {
  return (net::wire::RpcStruct<Message> && ...);
}
static_assert(all_rpc_structs(static_cast<const ToHome*>(nullptr)));
static_assert(all_rpc_structs(static_cast<const ToClient*>(nullptr)));

}  // namespace btd::coherence
