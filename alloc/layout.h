// Every structure of the heap as it lies on NVRAM. Nothing here has behaviour.
//
// An arena is: ArenaHeader (4 KiB) | in arena 0 the journal: JournalHeader (4 KiB), then the lanes
// | segment table, one SegmentHeader for each segment | segments of 64 KiB, aligned to 64 KiB. All
// fields are little-endian and of fixed size. A `persistent` field is read like its type but a
// plain store to it does not compile: it changes through Persist::store or through the journal.
// A `transient` field means nothing after the machine stopped, but outlives the processes that
// store to it: what users of one heap share lies here too.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace btd {

static_assert(std::endian::native == std::endian::little, "the media format is little-endian");

// A place in a heap, counted from the heap's base; 0 is null.
using Offset = std::uint64_t;

inline constexpr std::size_t kLineBytes = 64;  // what a flush makes durable, and an eviction may
inline constexpr std::size_t kWordBytes = 8;   // what NVRAM stores atomically
inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::uint64_t kSegmentBytes = 64 * 1024;
inline constexpr std::uint32_t kFormatVersion = 4;
inline constexpr unsigned kRootSlots = 64;

template <class T>
class persistent {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  constexpr persistent() = default;
  constexpr explicit persistent(T value) : value_(value) {}
  constexpr persistent(const persistent&) = default;
  persistent& operator=(const persistent&) = delete;
  persistent& operator=(T) = delete;
  constexpr operator T() const { return value_; }  // NOLINT: reads like its type

 private:
  friend class Persist;
  T value_{};
};

template <class T>
class transient {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  constexpr transient() = default;
  constexpr explicit transient(T value) : value_(value) {}
  constexpr transient& operator=(T value) {
    value_ = value;
    return *this;
  }
  constexpr operator T() const { return value_; }  // NOLINT: reads like its type
  // To be changed by several threads or processes at once.
  [[nodiscard]] std::atomic_ref<T> shared() { return std::atomic_ref<T>(value_); }
  [[nodiscard]] T load() const { return std::atomic_ref<T>(const_cast<T&>(value_)).load(); }

 private:
  alignas(sizeof(T)) T value_{};
};

inline constexpr std::uint64_t kArenaMagic = 0x414E455241445442;    // "BTDARENA"
inline constexpr std::uint64_t kJournalMagic = 0x4C4E524A2D445442;  // "BTD-JRNL"

// The identity and geometry of an arena. Written once, at format; `crc` covers all before it.
struct ArenaIdentity {
  persistent<std::uint64_t> magic;
  persistent<std::uint32_t> version;
  persistent<std::uint32_t> arena_index;
  persistent<std::array<std::uint8_t, 16>> heap_uuid;  // the same in all arenas of a heap
  persistent<std::uint64_t> arena_bytes;
  persistent<std::uint64_t> journal_offset;   // in the arena; 0 where there is none
  persistent<std::uint64_t> table_offset;     // in the arena
  persistent<std::uint64_t> segments_offset;  // in the arena
  persistent<std::uint32_t> segment_count;
  persistent<std::uint32_t> lanes;
  persistent<std::uint64_t> lane_bytes;
  persistent<std::uint32_t> window_gib;  // address of arena 0, in GiB; 0: mapped anywhere
  persistent<std::uint32_t> crc;
};
static_assert(sizeof(ArenaIdentity) == 88);
static_assert(offsetof(ArenaIdentity, crc) == 84);
static_assert(std::is_trivially_copyable_v<ArenaIdentity>);

// A long copy that was promised: [shadow, shadow + len) goes to `to`. Nothing is promised if len is
// 0.
struct CopyIntent {
  persistent<std::uint64_t> to;
  persistent<std::uint64_t> shadow;
  persistent<std::uint64_t> len;
};
static_assert(sizeof(CopyIntent) == 24);

// What the users of a heap share, in arena 0. Set anew by whoever opens the heap alone.
struct HeapShared {
  transient<std::uint32_t> names;       // SharedLock: the roots and types of libbtd
  transient<std::uint32_t> copy;        // SharedLock: the copy intent
  transient<std::uint32_t> burial;      // SharedLock: what the dead left is being finished
  transient<std::uint32_t> recovering;  // 1: what is from before an unclean stop waits for marking
  transient<std::uint32_t> leaks;  // a user died: what its threads had cached is lost until marking
  transient<std::uint32_t> durable;  // 0: what is stored need only outlive the processes
  transient<std::uint64_t> users;    // a bit for each that came and did not take its leave
  std::array<std::uint8_t, 32> more0;
  transient<std::uint64_t> next_seq;  // of the journal; a line of its own
  std::array<std::uint8_t, 56> pad1;
  transient<std::uint64_t> home_seq;  // the watermark as a plain number
  std::array<std::uint8_t, 56> pad2;
  std::array<std::uint8_t, 64> pad3;
};
static_assert(sizeof(HeapShared) == 256);

// Of one arena: how users that do not own it reach the one that does.
inline constexpr unsigned kPendingWords = 64;
struct ArenaShared {
  // A bit for each group of neighbouring segments in which others freed: the owner looks at their
  // headers. The summary has a bit for each word.
  transient<std::uint64_t> summary;
  transient<std::uint64_t> groups[kPendingWords];
};
static_assert(sizeof(ArenaShared) == 8 + 512);

struct ArenaHeader {
  ArenaIdentity identity;
  std::array<std::uint8_t, 40> pad0;
  persistent<std::uint64_t> state;  // checked word of HeapState; a line of its own, arena 0 only
  std::array<std::uint8_t, 56> pad1;
  persistent<std::uint64_t> arena_count;  // checked word: arenas whose header is durable; arena 0
  persistent<std::uint64_t> grown;        // checked word: segments that have memory; of each arena
  std::array<std::uint8_t, 48> pad2;
  HeapShared heap;                              // arena 0 only
  persistent<std::uint64_t> roots[kRootSlots];  // changed through the journal; arena 0 only
  CopyIntent copy;                              // changed through the journal; arena 0 only
  std::array<std::uint8_t, 40> pad3;
  ArenaShared shared;
  std::array<std::uint8_t, 2488> pad4;
};
static_assert(sizeof(ArenaHeader) == kPageBytes);
static_assert(offsetof(ArenaHeader, state) == 128);
static_assert(offsetof(ArenaHeader, arena_count) == 192);
static_assert(offsetof(ArenaHeader, grown) == 200);
static_assert(offsetof(ArenaHeader, heap) == 256);
static_assert(offsetof(ArenaHeader, roots) == 512);
static_assert(offsetof(ArenaHeader, copy) == 1024);
static_assert(offsetof(ArenaHeader, shared) == 1088);

// The state word's 56 bits: "dirty" is this word, never a lock, so a power cut leaves nothing held.
struct HeapState {
  std::uint32_t boot = 0;        // 24 bits: hash of the boot id of the last opener
  std::uint32_t generation = 0;  // 31 bits: counts opens
  bool clean = false;

  [[nodiscard]] constexpr std::uint64_t pack() const {
    return (std::uint64_t{boot & 0xFFFFFFU} << 32) |
           (std::uint64_t{generation & 0x7FFFFFFFU} << 1) | (clean ? 1U : 0U);
  }
  [[nodiscard]] static constexpr HeapState unpack(std::uint64_t bits) {
    return {.boot = static_cast<std::uint32_t>(bits >> 32) & 0xFFFFFFU,
            .generation = static_cast<std::uint32_t>(bits >> 1) & 0x7FFFFFFFU,
            .clean = (bits & 1U) != 0};
  }
};

// What the users of a lane share; a line of its own.
struct LaneShared {
  transient<std::uint32_t> lock;  // SharedLock, held from before `in_flight` is set until it is 0
  std::array<std::uint8_t, 4> pad0;
  transient<std::uint64_t> in_flight;  // number of the record being written or applied; 0: none
  transient<std::uint64_t> tail;       // bytes of records, all of which are applied
  std::array<std::uint8_t, 40> pad1;
};
static_assert(sizeof(LaneShared) == kLineBytes);
inline constexpr std::uint32_t kMaxLanes = 62;

struct JournalHeader {
  persistent<std::uint64_t> magic;
  persistent<std::uint32_t> version;
  persistent<std::uint32_t> lanes;
  persistent<std::uint64_t> lane_bytes;
  persistent<std::uint32_t> reserved;
  persistent<std::uint32_t> crc;  // of all before it
  std::array<std::uint8_t, 32> pad0;
  persistent<std::uint64_t> watermark;  // checked word: all records up to it are home
  std::array<std::uint8_t, 56> pad1;
  LaneShared shared[kMaxLanes];
};
static_assert(sizeof(JournalHeader) == kPageBytes);
static_assert(offsetof(JournalHeader, crc) == 28);
static_assert(offsetof(JournalHeader, watermark) == 64);

// One committed transaction. Records start at a line, so that none shares a line with another.
struct RecordHeader {
  std::uint64_t seq;      // global; what orders records of all lanes
  std::uint32_t length;   // header and payload, without the padding to a line
  std::uint32_t entries;  // in the payload
  std::uint32_t flags;    // none defined: 0
  std::uint32_t crc;      // CRC32C of header (crc as 0) and payload
};
static_assert(sizeof(RecordHeader) == 24);

// One change of a record: a tag word, then the data, padded to 8 bytes.
enum class EntryKind : std::uint8_t { kBytes = 0, kSet64 = 1, kOr64 = 2, kAnd64 = 3 };
struct EntryTag {
  static constexpr unsigned kHomeBits = 48;
  static constexpr std::uint64_t kMaxLen = (1U << 13) - 8;  // longer changes take several entries

  Offset home = 0;                     // 48 bits
  std::uint32_t len = 0;               // 13 bits: bytes of data
  EntryKind kind = EntryKind::kBytes;  // 3 bits

  [[nodiscard]] constexpr std::uint64_t pack() const {
    return home | (std::uint64_t{len} << kHomeBits) |
           (static_cast<std::uint64_t>(kind) << (kHomeBits + 13));
  }
  [[nodiscard]] static constexpr EntryTag unpack(std::uint64_t word) {
    return {.home = word & ((std::uint64_t{1} << kHomeBits) - 1),
            .len = static_cast<std::uint32_t>(word >> kHomeBits) & 0x1FFFU,
            .kind = static_cast<EntryKind>(word >> (kHomeBits + 13))};
  }
  [[nodiscard]] constexpr std::uint64_t data_bytes() const { return (len + 7U) & ~7U; }
};
inline constexpr std::uint64_t kMaxHeapBytes = std::uint64_t{1} << EntryTag::kHomeBits;

// What a segment is; all of it in one checked word, so that a header is never torn: it is what it
// was, or what it is to be. Word 0 is a segment that is free, or inside a large extent.
enum class SegmentKind : std::uint8_t { kSmall = 1, kLarge = 2 };
enum class Contract : std::uint8_t { kTransactional = 0, kRecoverable = 1 };

struct SegmentWord {
  SegmentKind kind = SegmentKind::kSmall;        // 4 bits
  Contract contract = Contract::kTransactional;  // 4 bits
  std::uint8_t size_class = 0;                   // 8 bits; of a small segment
  std::uint32_t span = 1;                        // 32 bits: segments
  std::uint8_t type = 0;                         // 8 bits: of all objects, for marking

  [[nodiscard]] constexpr std::uint64_t pack() const {
    return std::uint64_t{span} | (std::uint64_t{size_class} << 32) |
           (static_cast<std::uint64_t>(kind) << 40) | (static_cast<std::uint64_t>(contract) << 44) |
           (std::uint64_t{type} << 48);
  }
  [[nodiscard]] static constexpr SegmentWord unpack(std::uint64_t bits) {
    return {.kind = static_cast<SegmentKind>((bits >> 40) & 0xFU),
            .contract = static_cast<Contract>((bits >> 44) & 0xFU),
            .size_class = static_cast<std::uint8_t>(bits >> 32),
            .span = static_cast<std::uint32_t>(bits),
            .type = static_cast<std::uint8_t>(bits >> 48)};
  }
};

// Two bitmaps of at most so many bits lie in the header; longer ones at the segment's head: a run
// of live words, then a run of freed words, so that who flushes the former spares the latter.
inline constexpr unsigned kInlineBitmapBits = 128;
inline constexpr unsigned kInlineBitmapWords = kInlineBitmapBits / 64;

// Live: allocated. Of a transactional segment that is always true. Of a recoverable one it is right
// after a clean close; while the heap is open, and after a process died, it also has slots that a
// thread keeps in its cache; after the machine stopped it means nothing.
// Freed: transactional: claimed by who frees it, until it may be allocated again. Recoverable:
// freed by another than the segment's owner, not yet taken back. Zero after a clean close.
struct SegmentHeader {
  persistent<std::uint64_t> word;    // checked word of SegmentWord, or 0
  transient<std::uint32_t> pending;  // others freed in it: the owner is to look
  std::array<std::uint8_t, 4> pad0;
  persistent<std::uint64_t> reserved[2];
  persistent<std::uint64_t> live[kInlineBitmapWords];
  transient<std::uint64_t> freed[kInlineBitmapWords];
};
static_assert(sizeof(SegmentHeader) == kLineBytes);
static_assert(offsetof(SegmentHeader, live) == 32);
static_assert(offsetof(SegmentHeader, freed) == 48);

}  // namespace btd
