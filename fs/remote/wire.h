// The calls between a node and the home of its files, as they lie in an RPC (net/rpc_wire.h).
//
// All numbers are little-endian, as on every node. Structures grow at their end only, with the
// version of their method. What comes from a peer is checked by who serves it: ids, offsets and
// lengths of any value are answered, never trusted.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "net/rpc.h"
#include "net/types.h"

namespace btd::remote::wire {

// Payload of one call: with its headers it fits a message of the least size that engines take.
inline constexpr std::size_t kMostCallBytes = 60 << 10;

// The caller is of another epoch than home: an errno that no file gives, unlike ESTALE and EAGAIN.
inline constexpr int kOtherEpoch = EREMCHG;
// The file is not of the node that is asked: it was moved, which one of both has not heard yet.
inline constexpr int kNotHome = EXDEV;

// Times that a change sets.
enum Set : std::uint32_t {
  kSetSize = 1,
  kSetAtime = 2,
  kSetAtimeNow = 4,  // of home's clock
  kSetMtime = 8,
  kSetMtimeNow = 16,
};

enum AttachFlags : std::uint32_t {
  kAttachWritable = 1,  // the peer may write
  kAttachOpening = 2,   // it has just been opened: to write to, and then its holes are filled
  kAttachHolding = 4,   // only to hold it, of whatever epoch; it gets no region
};
enum DetachFlags : std::uint32_t { kDetachWrote = 1 };  // it wrote, and has not flushed since
enum AppendFlags : std::uint32_t {
  kAppendDurable = 1,  // with all that was written before it
  kAppendAgain = 2,    // it may have been asked for before
};
enum WriteFlags : std::uint32_t { kWriteDurable = 1 };  // with all that was written before it

struct Attributes {
  std::uint64_t size = 0;
  std::uint64_t blocks = 0;  // of 512 bytes
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::uint32_t block_size = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Attributes) == 48);

// Who holds: `client` names one RemoteFiles of the calling node by a random number. `generation`
// grows with each time that it opens the file anew, so a late detach ends no newer hold.
struct AttachRequest {
  std::uint64_t id = 0;
  std::uint64_t client = 0;
  std::uint64_t generation = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(AttachRequest) == 32);

// `region.key` 0: the file is not to be reached one-sided, with kAttachedForNow only at the moment.
// Else the region has the file's size, and its access says whether it may be written so.
enum AttachedFlags : std::uint32_t { kAttachedForNow = 1 };
struct AttachResponse {
  net::RegionDescriptor region;
  Attributes attributes;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(AttachResponse) == 88);

struct DetachRequest {
  std::uint64_t id = 0;
  std::uint64_t client = 0;
  std::uint64_t generation = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(DetachRequest) == 32);

// Binds the connection to a client, whose holds end when the last of its connections has.
struct GreetRequest {
  std::uint64_t client = 0;
};
static_assert(sizeof(GreetRequest) == 8);

struct Done {
  std::uint64_t reserved = 0;
};
static_assert(sizeof(Done) == 8);

struct FileRequest {
  std::uint64_t id = 0;
};
static_assert(sizeof(FileRequest) == 8);

// Also of flush: what is set is set, then all is durable.
struct ChangeRequest {
  std::uint64_t id = 0;
  std::uint64_t size = 0;
  std::int64_t atime_ns = 0;
  std::int64_t mtime_ns = 0;
  std::uint32_t set = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(ChangeRequest) == 40);

struct AllocateRequest {
  std::uint64_t id = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint32_t mode = 0;  // of fallocate(2)
  std::uint32_t reserved = 0;
};
static_assert(sizeof(AllocateRequest) == 32);

struct WriteRequest {  // the tail has the bytes
  std::uint64_t id = 0;
  std::uint64_t offset = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(WriteRequest) == 24);

// The tail has the bytes, which go to the file's end whatever that is. `session` and `unique` are
// the request's own, `slot` its thread's; `part` counts from 0 where one call has no room for all.
struct AppendRequest {
  std::uint64_t id = 0;
  std::uint64_t session = 0;
  std::uint64_t unique = 0;
  std::uint32_t slot = 0;
  std::uint32_t part = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(AppendRequest) == 40);

struct WriteResponse {
  std::uint64_t size = 0;  // of the file, afterwards
};
static_assert(sizeof(WriteResponse) == 8);

struct ReadRequest {
  std::uint64_t id = 0;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(ReadRequest) == 24);

struct ReadResponse {  // the tail has the bytes: fewer than asked for at the end of the file only
  std::uint64_t size = 0;  // of the file
};
static_assert(sizeof(ReadResponse) == 8);

struct SeekRequest {
  std::uint64_t id = 0;
  std::uint64_t offset = 0;
  std::uint32_t whence = 0;  // SEEK_DATA, SEEK_HOLE
  std::uint32_t reserved = 0;
};
static_assert(sizeof(SeekRequest) == 24);

struct SeekResponse {
  std::uint64_t offset = 0;
};
static_assert(sizeof(SeekResponse) == 8);

// Of a move (fs/cluster/move.h), from the node that the file is to come to.
struct MoveRequest {
  std::uint64_t id = 0;
  std::uint64_t client = 0;  // by which that node holds it itself
  std::uint64_t number = 0;  // of the attempt
  std::uint32_t to = 0;      // kYield: the new home
  std::uint32_t reserved = 0;
};
static_assert(sizeof(MoveRequest) == 32);

// How much room there is in the pool of the node that is asked.
struct SpaceRequest {
  std::uint64_t reserved = 0;
};
static_assert(sizeof(SpaceRequest) == 8);

struct SpaceResponse {
  std::uint64_t available = 0;  // bytes
};
static_assert(sizeof(SpaceResponse) == 8);

// Locks of the calling node's programs. A client greets each time that it is connected; its locks
// are its endpoint's, and end with it. `previous`: a client of the same node whose locks it takes
// over.
struct LockGreeting {
  std::uint64_t client = 0;
  std::uint64_t previous = 0;  // 0: none
};
static_assert(sizeof(LockGreeting) == 16);

enum LockWelcomeFlags : std::uint32_t {
  kLocksKept = 1,      // the client has what it had, or what `previous` had
  kLockWaitsKept = 4,  // and waits for what it waited for
  kLocksReclaim = 2,   // home forgot all locks not long ago: say again what was granted
};
struct LockWelcome {
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(LockWelcome) == 8);

enum LockFlags : std::uint32_t {
  kLockExclusive = 1,
  kLockFile = 2,     // of flock(2), else of fcntl(2)
  kLockReclaim = 4,  // it was granted before home forgot it
  kLockAll = 8,      // unlocking: of both kinds, all that the owner has in the file
};
// Also what is to be unlocked or asked about. `start` and `end` are the first and the last byte.
// `names` is a revision of the namespace, in what a home answers too: who has the lock next is to
// see what the caller did to names, and home tells it up to where it must look.
struct LockRequest {
  std::uint64_t id = 0;
  std::uint64_t owner = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t wait = 0;  // the caller's number of its wait; 0: it does not wait
  std::uint32_t pid = 0;
  std::uint32_t flags = 0;
  std::uint64_t names = 0;
};
static_assert(sizeof(LockRequest) == 56);

// kLockQueued: home calls kGranted when it is granted.
enum LockState : std::uint32_t { kLockGranted = 1, kLockQueued = 2, kLockCancelled = 3 };
struct LockAnswer {
  std::uint32_t state = 0;
  std::uint32_t reserved = 0;
  std::uint64_t names = 0;
};
static_assert(sizeof(LockAnswer) == 16);

struct LockFound {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint32_t pid = 0;
  std::uint32_t flags = 0;  // LockFlags
  std::uint32_t is_found = 0;
  std::uint32_t node = 0;
  std::uint64_t names = 0;
};
static_assert(sizeof(LockFound) == 40);

struct LockWait {
  std::uint64_t wait = 0;
  std::uint64_t names = 0;  // of a grant
};
static_assert(sizeof(LockWait) == 16);

inline constexpr net::Method<AttachRequest, AttachResponse> kAttach{.id = 0x100};
inline constexpr net::Method<DetachRequest, Done> kDetach{.id = 0x101};
inline constexpr net::Method<FileRequest, Attributes> kAttributes{.id = 0x102};
inline constexpr net::Method<ChangeRequest, Attributes> kChange{.id = 0x103};
inline constexpr net::Method<AllocateRequest, Attributes> kAllocate{.id = 0x104};
inline constexpr net::Method<WriteRequest, WriteResponse> kWrite{.id = 0x105};
inline constexpr net::Method<ReadRequest, ReadResponse> kRead{.id = 0x106};
inline constexpr net::Method<ChangeRequest, Attributes> kFlush{.id = 0x107};
inline constexpr net::Method<SeekRequest, SeekResponse> kSeek{.id = 0x108};
inline constexpr net::Method<GreetRequest, Done> kGreet{.id = 0x109};
inline constexpr net::Method<AppendRequest, WriteResponse> kAppend{.id = 0x10a};
inline constexpr net::Method<MoveRequest, Done> kReserve{.id = 0x10b};
inline constexpr net::Method<MoveRequest, Done> kYield{.id = 0x10c};
inline constexpr net::Method<SpaceRequest, SpaceResponse> kSpace{.id = 0x10d};
inline constexpr net::Method<LockGreeting, LockWelcome> kLockGreet{.id = 0x110};
inline constexpr net::Method<LockRequest, LockAnswer> kLock{.id = 0x111};
inline constexpr net::Method<LockRequest, Done> kUnlock{.id = 0x112};
inline constexpr net::Method<LockRequest, LockFound> kTestLock{.id = 0x113};
inline constexpr net::Method<LockWait, LockAnswer> kCancelLock{.id = 0x114};
inline constexpr net::Method<LockWait, Done> kGranted{.id = 0x115};  // home calls the client

}  // namespace btd::remote::wire
