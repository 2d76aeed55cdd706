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
  kInit = 26,
  kFsyncdir = 30,
  kReaddir = 28,
  kCreate = 35,
  kInterrupt = 36,
  kDestroy = 38,
  kIoctl = 39,
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
