// The parts of the kernel's FUSE protocol that libfuse does not show: the request header, the codes
// and the notifications that a restart needs. Copied as facts from the kernel's ABI, which never
// changes a published structure; the system's own header may be older than the running kernel.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace btd::proto {

struct InHeader {
  std::uint32_t len;
  std::uint32_t opcode;
  std::uint64_t unique;
  std::uint64_t nodeid;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t pid;
  std::uint16_t total_extlen;
  std::uint16_t padding;
};
static_assert(sizeof(InHeader) == 40);

// How the request INIT begins.
struct InitIn {
  InHeader header;
  std::uint32_t major;
  std::uint32_t minor;
};
static_assert(sizeof(InitIn) == 48);

struct OutHeader {
  std::uint32_t len;
  std::int32_t error;
  std::uint64_t unique;
};
static_assert(sizeof(OutHeader) == 16);

struct InterruptIn {
  InHeader header;
  std::uint64_t unique;  // of the request whose program got a signal
};
static_assert(sizeof(InterruptIn) == 48);

// The body of a NOTIFY_REPLY begins so; the contents follow.
struct RetrieveIn {
  InHeader header;  // unique: that of RetrieveOut
  std::uint64_t spare;
  std::uint64_t offset;
  std::uint32_t size;
  std::uint32_t spares[5];
};
static_assert(sizeof(RetrieveIn) == 80);

struct InvalInodeOut {
  std::uint64_t nodeid;
  std::int64_t offset;
  std::int64_t length;
};
static_assert(sizeof(InvalInodeOut) == 24);

struct InvalEntryOut {
  std::uint64_t parent;
  std::uint32_t name_bytes;  // without the zero that ends the name
  std::uint32_t flags;
};
static_assert(sizeof(InvalEntryOut) == 16);

struct RetrieveOut {
  std::uint64_t unique;  // of the NOTIFY_REPLY
  std::uint64_t nodeid;
  std::uint64_t offset;
  std::uint32_t size;
  std::uint32_t padding;
};
static_assert(sizeof(RetrieveOut) == 32);

struct PruneOut {
  std::uint32_t count;
  std::uint32_t padding;
  std::uint64_t spare;
};
static_assert(sizeof(PruneOut) == 16);

struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
static_assert(sizeof(BackingMap) == 16);

inline constexpr std::uint64_t kUniqueResent = std::uint64_t{1} << 63;
inline constexpr std::int32_t kNotifyInvalInode = 2;
inline constexpr std::int32_t kNotifyInvalEntry = 3;
inline constexpr std::int32_t kNotifyRetrieve = 5;
inline constexpr std::int32_t kNotifyResend = 7;
inline constexpr std::int32_t kNotifyPrune = 9;
inline constexpr unsigned kResendMinor = 40;  // the protocol minor that brought kNotifyResend
inline constexpr unsigned kPruneMinor = 45;   // the protocol minor that brought kNotifyPrune
inline constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kBackingClose = _IOW(229, 2, std::uint32_t);

enum Opcode : std::uint32_t {
  kLookup = 1,
  kForget = 2,
  kGetattr = 3,
  kSetattr = 4,
  kReadlink = 5,
  kSymlink = 6,
  kMknod = 8,
  kMkdir = 9,
  kUnlink = 10,
  kRmdir = 11,
  kRename = 12,
  kLink = 13,
  kOpen = 14,
  kRead = 15,
  kWrite = 16,
  kStatfs = 17,
  kRelease = 18,
  kFsync = 20,
  kSetxattr = 21,
  kGetxattr = 22,
  kListxattr = 23,
  kRemovexattr = 24,
  kFlush = 25,
  kInit = 26,
  kFsyncdir = 30,
  kReaddir = 28,
  kGetlk = 31,
  kSetlk = 32,
  kSetlkw = 33,
  kCreate = 35,
  kInterrupt = 36,
  kDestroy = 38,
  kIoctl = 39,
  kNotifyReply = 41,
  kBatchForget = 42,
  kFallocate = 43,
  kReaddirplus = 44,
  kRename2 = 45,
  kLseek = 46,
  kCopyFileRange = 47,
  kTmpfile = 51,
  kStatx = 52,
  kCopyFileRange64 = 53,
  kOpcodes = 56,
};

}  // namespace btd::proto
