// The layout of the memory that outlives a worker: one memfd, held by the supervisor and mapped by
// each worker. It lives as long as the mount, never longer, and is never written to a disk.
//
//   0            StateHeader
//   4096         kSlots slot records
//   278528       kLockRecords lock records
//   C * 32       the hash table of capacity C, a power of two >= kMinCapacity
//
// Tables of different capacities never overlap, so the next one is built beside the present one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

// What the kernel knows of one inode.
struct StateEntry {
  std::uint64_t id = 0;  // 0: never used; kTombstone: used once
  std::uint64_t nlookup = 0;
  std::uint32_t opens = 0;
  std::int32_t backing_id = 0;  // 0: none
  std::uint32_t flags = 0;
  std::uint32_t suid_watch = 0;  // mark of the backing file when it got setuid while open; 0: none
};
static_assert(sizeof(StateEntry) == 32);

enum StateFlags : std::uint32_t {
  kStateOrphan = 1,    // the last name is gone; the row and the data go with the last user
  kStateDataGone = 2,  // an orphan whose backing file is removed
};

inline constexpr std::uint64_t kTombstone = ~std::uint64_t{0};

// One increment that a request made, to be taken back if the request is executed again.
struct UndoItem {
  std::uint64_t id;
  std::int32_t dlookup;
  std::int32_t dopens;
};
static_assert(sizeof(UndoItem) == 16);

// readdirplus looks up this many entries at most in one reply.
inline constexpr std::size_t kMaxPlusEntries = 256;
inline constexpr std::size_t kMaxUndo = kMaxPlusEntries + 2;

// The request that one thread is executing.
struct SlotRecord {
  std::uint64_t unique;  // 0: none
  std::uint32_t count;   // items in use
  std::uint32_t reserved;
  UndoItem items[kMaxUndo];
};
static_assert(sizeof(SlotRecord) == 16 + 16 * kMaxUndo);

// The update under way, in full: applied again at attach if it is valid.
struct PendingUpdate {
  std::uint64_t valid;
  std::uint64_t index;
  StateEntry entry;
  std::uint32_t slot;  // kNoSlot: no slot record changes
  std::uint32_t count;
};
static_assert(sizeof(PendingUpdate) == 56);

// A lock that a program of this node has on a file of a cluster (lock_records.h).
struct LockRecord {
  std::uint64_t is_used;  // 0: the rest means nothing
  std::uint64_t id;
  std::uint64_t owner;
  std::uint64_t handle;
  std::uint64_t client;
  std::uint64_t start;
  std::uint64_t end;
  std::uint32_t pid;
  std::uint32_t flags;
};
static_assert(sizeof(LockRecord) == 64);

inline constexpr std::uint32_t kNoSlot = ~std::uint32_t{0};
inline constexpr std::size_t kSlots = 64;
inline constexpr std::size_t kMaxInit = 1024;
inline constexpr std::size_t kMaxUsers = 1022;  // of the files of one home, in the life of a mount

struct StateHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t kill_point;  // tests: the worker kills itself there once (see request.h)
  std::uint64_t session;     // drawn at mount; names this connection in request tags
  std::uint64_t capacity;    // of the present table; 0: none yet
  PendingUpdate pending;
  std::uint64_t mounted_at;  // seconds since the epoch
  std::uint32_t restarts;    // workers that ended without being asked to
  std::uint32_t workers;     // workers that began to serve: 0 before the first
  std::uint64_t requests;    // served by all workers; the supervisor's sign of progress
  std::uint32_t init_bytes;
  std::uint32_t peers_locked;    // other nodes had locks on files of this one
  unsigned char init[kMaxInit];  // the kernel's INIT request as it was read
  std::uint32_t users;           // other nodes that used coherent files of this one
  std::uint16_t user[kMaxUsers];
};
static_assert(sizeof(StateHeader) <= 4096);

inline constexpr std::uint64_t kStateMagic = 0x6574617473647462;  // "btdstate"
inline constexpr std::uint32_t kStateVersion = 2;
inline constexpr std::size_t kSlotsOffset = 4096;
inline constexpr std::uint64_t kMinCapacity = 16384;
inline constexpr std::uint64_t kMaxCapacity = std::uint64_t{1} << 27;
inline constexpr std::size_t kLocksOffset = 278528;
inline constexpr std::size_t kLockRecords = 3840;
static_assert(kSlotsOffset + kSlots * sizeof(SlotRecord) <= kLocksOffset);
static_assert(kLocksOffset + kLockRecords * sizeof(LockRecord) <=
              kMinCapacity * sizeof(StateEntry));

}  // namespace btd
