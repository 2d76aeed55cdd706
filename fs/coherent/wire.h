// The messages of coherent files as they lie in sends between two nodes, beside those of RPC.
//
// A message is a Frame, the structure of its method (fs/coherence/messages.h, or one of those
// below) and a tail of bytes. One that is longer than a send travels in several, each with the
// Frame before it; they follow each other, since sends of an endpoint keep their order.
#pragma once

#include <cstdint>

#include "fs/coherence/messages.h"

namespace btd::coherent::wire {

inline constexpr std::uint8_t kKind = 0xc0;  // the first byte: neither a call nor a reply of RPC
inline constexpr std::size_t kMostInSend = 60 << 10;
// A whole message: the largest is a write(2) of 1 MiB, or the report of kMostReported pages.
inline constexpr std::size_t kMostReported = 1 << 20;
inline constexpr std::size_t kMostBytes = (16 << 20) + 4096;

// Beside coherence::MethodId.
enum class MethodId : std::uint16_t {
  kAttach = 0x50,
  kDetach = 0x51,
  kSync = 0x52,
  kTold = 0x53,
  kAttached = 0x58,
};

enum Flags : std::uint8_t { kMore = 1 };  // another send goes on with this message

// `offset`, `length`: the bytes that a DirectRead or DirectWrite is about, within its pages.
struct Frame {
  std::uint8_t kind = kKind;
  std::uint8_t flags = 0;
  std::uint16_t method = 0;
  std::uint32_t reserved = 0;
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};
static_assert(sizeof(Frame) == 32);

// "I use the file." `mount`: the number of the node's mount; it has none of the pages of those
// before. Tail: PageReport of each page that its kernel may hold. `is_unsure`: it does not
// know which, since the worker that knew died; all that home takes it to hold it may hold.
struct Attach {
  std::uint64_t mount = 0;
  std::uint64_t is_unsure = 0;
};
static_assert(sizeof(Attach) == 16);

struct PageReport {
  std::uint64_t page = 0;
  std::uint64_t rights = 0;  // coherence::Rights
};
static_assert(sizeof(PageReport) == 16);

struct Attached {
  std::uint64_t bytes = 0;
  std::uint64_t error = 0;
};
static_assert(sizeof(Attached) == 16);

// "I have nothing of it any more."
struct Detach {
  std::uint64_t reserved = 0;
};
static_assert(sizeof(Detach) == 8);

// Answered by coherence::Done when all that was stored before it is durable.
struct Sync {
  std::uint64_t request = 0;
};
static_assert(sizeof(Sync) == 8);

// Of no file: "all Attach of this connection are said."
struct Told {
  std::uint64_t reserved = 0;
};
static_assert(sizeof(Told) == 8);

template <class Message>
struct MethodOf;
#define BTD_METHOD(MESSAGE, ID)                                 \
  template <>                                                   \
  struct MethodOf<MESSAGE> {                                    \
    static constexpr auto kId = static_cast<std::uint16_t>(ID); \
  }
BTD_METHOD(coherence::Acquire, coherence::MethodId::kAcquire);
BTD_METHOD(coherence::RecallAck, coherence::MethodId::kRecallAck);
BTD_METHOD(coherence::WriteBack, coherence::MethodId::kWriteBack);
BTD_METHOD(coherence::DirectRead, coherence::MethodId::kDirectRead);
BTD_METHOD(coherence::DirectWrite, coherence::MethodId::kDirectWrite);
BTD_METHOD(coherence::Resize, coherence::MethodId::kResize);
BTD_METHOD(coherence::SizeAck, coherence::MethodId::kSizeAck);
BTD_METHOD(coherence::Grant, coherence::MethodId::kGrant);
BTD_METHOD(coherence::Recall, coherence::MethodId::kRecall);
BTD_METHOD(coherence::Done, coherence::MethodId::kDone);
BTD_METHOD(coherence::SizeChange, coherence::MethodId::kSizeChange);
BTD_METHOD(Attach, MethodId::kAttach);
BTD_METHOD(Detach, MethodId::kDetach);
BTD_METHOD(Sync, MethodId::kSync);
BTD_METHOD(Told, MethodId::kTold);
BTD_METHOD(Attached, MethodId::kAttached);
#undef BTD_METHOD

}  // namespace btd::coherent::wire
