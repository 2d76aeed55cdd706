// The words of the transports: operations, completions, regions, time.
//
// Contract of one endpoint, whatever engine is below it: operations take effect at the peer in the
// order in which they were posted, each once (see Capability::kWritesOnce), and complete in that
// order; only one that fails (its deadline, a lost peer) may complete before older ones. A read
// may see what was written to its bytes until it completes, also by operations that were posted
// after it, as on InfiniBand. Buffers belong to an operation until it has completed.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace btd::net {

// Since a start that the engine knows: the monotonic clock's, or that of a simulation.
using Time = std::chrono::nanoseconds;
inline constexpr Time kNever = Time::max();
constexpr Time after(Time now, Time patience) {
  return now > kNever - patience ? kNever : now + patience;
}

using Token = std::uint64_t;
using NodeId = std::uint16_t;
// Version of the cluster's configuration. Operations of an endpoint carry what the engine had when
// they were posted; the responder serves those of its own only, and messages of any, whose receiver
// knows what they may do. 0: a node that is in no cluster.
using Epoch = std::uint64_t;

enum class Verb : std::uint8_t {
  kNone = 0,  // does nothing: a probe, or in place of one that was given up
  kRead = 1,
  kWritePersist = 2,
  kCas8 = 3,
  kSend = 4,
};

// More segments than that are EINVAL: an operation in flight has a place of fixed size.
inline constexpr std::size_t kMaxSegments = 8;

// Where at the peer: a registered region's key, from its RegionDescriptor.
struct RemoteRange {
  std::uint64_t key = 0;
  std::uint64_t offset = 0;  // bytes from the region's begin
};

struct Operation {
  Verb verb = Verb::kNone;
  Token token = 0;               // comes back in the completion
  Time deadline = kNever;        // ETIMEDOUT when it passes
  RemoteRange remote;            // not of a send
  std::span<const iovec> local;  // of a read where to, of a write or send where from
  std::uint64_t expected = 0;    // of a cas8
  std::uint64_t desired = 0;     // of a cas8
};

// `error`: 0; ETIMEDOUT; ECONNRESET the peer lost its state or was given up, the outcome is
// unknown; ECANCELED it was closed here before it was sent; ESTALE the peer has a newer epoch
// (`value`; a write that was under way then may have left a part of its bytes, but none after the
// peer changed its epoch); EAGAIN the peer has an older one (`value`); EACCES no such region or not
// for this verb; ERANGE beyond the region; EINVAL a cas8 that is not aligned to 8; EIO the peer's
// NVRAM refused to persist; EBUSY the peer took no message now; EMSGSIZE a message larger than the
// peer takes.
struct Completion {
  Token token = 0;
  int error = 0;
  std::uint64_t value = 0;  // of a cas8 the word before; of ESTALE and EAGAIN the peer's epoch
};

enum Access : std::uint32_t {
  kRemoteRead = 1,
  kRemoteWrite = 2,
  kRemoteCas = 4,
};

// What a peer needs to reach a region; travels in messages, so its layout is fixed. Only who got it
// can use the region: the key has random bits (net/random.h), of which other keys tell nothing.
struct RegionDescriptor {
  std::uint64_t key = 0;
  std::uint64_t base = 0;  // the engine's: what stands for offset 0 on the wire
  std::uint64_t length = 0;
  std::uint32_t access = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(RegionDescriptor) == 32);

enum Capability : std::uint32_t {
  // Reads take no processor of the peer, where a NIC can do them. The bytes of a write neither; but
  // that they are durable, its processor sees to and says, unless writes_are_one_sided().
  kOneSidedReads = 1,
  kNativeFlush = 2,  // the NIC makes writes durable itself, where it can flush the region
  kWritesOnce = 4,   // a write that a broken connection made run again takes effect once
  kEncrypted = 8,
  kDirectWrite = 16,  // what the NIC placed here is durable once a read behind it was answered
};

// Of a connection's capabilities, which both sides have: whether write_persist takes no processor
// of the peer either.
constexpr bool writes_are_one_sided(std::uint32_t capabilities) {
  return (capabilities & kOneSidedReads) != 0 &&
         (capabilities & (kNativeFlush | kDirectWrite)) != 0;
}

// Bounds of one endpoint. What the peer grants is told in the handshake; the smaller one counts.
// None may be 0; judge() of net/engine.h says the rest.
struct Limits {
  std::uint32_t window = 256;               // operations that the peer has not answered
  std::uint32_t queued = 4096;              // posted and not completed; more are EAGAIN
  std::uint32_t message_bytes = 64 << 10;   // of a send
  std::uint64_t transfer_bytes = 16 << 20;  // of a read or write
  std::uint64_t output_bytes = 1 << 20;     // to be sent next: more, and what follows waits
};

// How long is waited for what. The first two are more than 0.
struct Patience {
  Time connect = std::chrono::seconds(5);     // one attempt, with the handshake
  Time silence = std::chrono::seconds(2);     // of a peer that owes answers: then connect anew
  Time reconnect = std::chrono::seconds(10);  // attempts together; then the endpoint is closed
  Time linger = std::chrono::seconds(30);     // a responder keeps the state of who is away
};

}  // namespace btd::net
