// SegmentTable: the segments of all arenas: their headers on NVRAM, their state in DRAM, the free
// runs.
//
// Decides when a header is written and in what order, so that after any crash the table says the
// truth: a segment's word is 0 unless it heads something, before it returns to the free runs.
// LOCK ORDER: a bin's lock (alloc/heap.h), then this table's. Lookups take no lock.
#pragma once

#include <array>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/crc.h"
#include "alloc/extent.h"
#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/segment.h"
#include "alloc/size_class.h"

namespace btd {

// Address space for one cell for each segment a heap may have: pages come when used. A cell has the
// segment's address, and above it the number of the bin that its slots come from.
class SegmentMap {
 public:
  static constexpr unsigned kBinShift = 56;
  static constexpr std::uint8_t kNoBin = kClasses;  // large, or of a type: ask the segment

  // `where`: cells of who owns them; null: own ones.
  SegmentMap(std::uint64_t segments, std::atomic<std::uint64_t>* where);
  ~SegmentMap();
  SegmentMap(const SegmentMap&) = delete;
  SegmentMap& operator=(const SegmentMap&) = delete;

  [[nodiscard]] bool usable() const { return cells_ != nullptr; }
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t cell(std::uint64_t id) const {
    return id < size_ ? cells_[id].load(std::memory_order_acquire) : 0;
  }
  [[nodiscard]] static Segment* segment_in(std::uint64_t cell) {
    return reinterpret_cast<Segment*>(cell & ((std::uint64_t{1} << kBinShift) - 1));
  }
  [[nodiscard]] static std::uint8_t bin_in(std::uint64_t cell) {
    return static_cast<std::uint8_t>(cell >> kBinShift);
  }
  [[nodiscard]] Segment* get(std::uint64_t id) const { return segment_in(cell(id)); }
  void set(std::uint64_t id, Segment* to) {
    std::uint64_t bin = 0;
    if (to != nullptr) bin = to->large() || to->word.type != 0 ? kNoBin : to->word.size_class;
    cells_[id].store(reinterpret_cast<std::uint64_t>(to) | bin << kBinShift,
                     std::memory_order_release);
  }

 private:
  std::atomic<std::uint64_t>* cells_ = nullptr;
  std::uint64_t size_ = 0;
  const bool own_;
};

// A bit for each segment a heap may have; pages come when used.
class BitMap {
 public:
  explicit BitMap(std::uint64_t bits)
      : words_(static_cast<std::uint64_t*>(std::calloc(bits / 64 + 1, sizeof(std::uint64_t)))) {}
  [[nodiscard]] bool usable() const { return words_ != nullptr; }
  [[nodiscard]] bool test(std::uint64_t i) const {
    return (words_.get()[i / 64] >> i % 64 & 1) != 0;
  }
  void set(std::uint64_t i, bool to) {
    const std::uint64_t bit = std::uint64_t{1} << i % 64;
    words_.get()[i / 64] = to ? words_.get()[i / 64] | bit : words_.get()[i / 64] & ~bit;
  }

 private:
  struct Free {
    void operator()(std::uint64_t* at) const { std::free(at); }
  };
  std::unique_ptr<std::uint64_t, Free> words_;
};

class SegmentTable {
 public:
  // Extents of at least so many segments, 1 MiB, go back to the file system when they are freed, as
  // far as more than a reservoir of ready memory is free.
  static constexpr std::uint64_t kReleased = 16;
  static constexpr std::uint64_t kReservoir = 1024;

  // Where an arena's parts lie.
  struct Geometry {
    std::uint64_t table_offset = 0;
    std::uint64_t segments_offset = 0;
    std::uint32_t segment_count = 0;
  };
  // The geometry of an arena of `arena_bytes` whose table starts at `table_offset`.
  [[nodiscard]] static Geometry plan(std::uint64_t arena_bytes, std::uint64_t table_offset);

  static constexpr std::uint32_t kMaxArenas = 4096;

  // What the word of a header says: `word`, unless it is `damage`. `room`: segments from it to its
  // arena's end. The word is not 0, which would be a free segment.
  struct Decoded {
    SegmentWord word;
    const char* damage = nullptr;
  };
  [[nodiscard]] static Decoded decode(std::uint64_t word, std::uint64_t room);

  explicit SegmentTable(ArenaSource& source);
  SegmentTable(const SegmentTable&) = delete;
  SegmentTable& operator=(const SegmentTable&) = delete;

  // Before all else: the geometry of arena 0, and of all others.
  void set_geometry(const Geometry& first, const Geometry& rest) { geometry_ = {first, rest}; }
  [[nodiscard]] const Geometry& geometry(std::uint32_t arena) const {
    return geometry_[arena == 0 ? 0 : 1];
  }
  // Takes in arena `index`, whose header is valid and which is this user's from now on: reads its
  // table as far as the arena has grown,
  // one line a segment; `found` gets every segment in use. `clean`: the bits of recoverable
  // segments are true; else they are dirty. Errors: EUCLEAN, ENOMEM.
  Status attach(std::uint32_t index, bool clean, std::vector<Segment*>& found);
  // Calls visit(Segment&) for every segment in use of this user's arenas. No segment may come or go
  // meanwhile.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const std::uint32_t arena : own_arenas()) {
      const std::uint64_t first = first_id(arena);
      for (std::uint64_t id = first; id < first + grown(arena); ++id) {
        Segment* segment = map_.get(id);
        if (segment != nullptr && segment->id == id) visit(*segment);
      }
    }
  }
  // The same for the arenas of others, as they are at the moment.
  void for_each_foreign(const std::function<void(Segment&)>& visit) const;
  // Both, this user's first.
  template <class Visit>
  void for_all(Visit&& visit) const {
    for_each(visit);
    for_each_foreign(visit);
  }
  // The segments of arena `index`, this user's, in which others freed since the last call.
  void take_flagged(std::uint32_t arena, std::vector<Segment*>& found) const;
  // Tells the owner of a segment that slots of it were freed.
  void flag(const Segment& segment) const { flag(segment.header); }
  // The same by any place in the segment's header, or at its head.
  void flag(Offset at) const;
  // Claims slots by the place of their live bits: of a user that died, in a segment of whomever.
  void mark_freed(Offset live, std::uint64_t bits) const;
  // Makes the freed bits of this user's segments durable: whoever reads them after a clean stop,
  // and does not own them, believes them.
  Status persist_freed();

  // Takes `span` neighbouring free segments, growing an arena where it must, if all are this
  // user's; null when there are none. The header on NVRAM is not written: create() or a transaction
  // does that. Errors: EIO.
  [[nodiscard]] Result<Segment*> take(SegmentWord word);
  // Gives an arena memory for so many more segments that a run of `span` is free, or fails: ENOSPC
  // the source has no more; false: no arena has room. One fence.
  Result<bool> grow(std::uint64_t span);
  // Persists the headers of new segments: one fence, two where a transactional bitmap is cleared.
  Status create(std::span<Segment* const> fresh);
  // Persists zero words in the headers of empty segments, in one fence, and frees them.
  Status retire(std::span<Segment* const> empty);
  // Frees a segment whose header needs no change: a large extent whose bit is clear on NVRAM, or a
  // segment whose header was never written.
  void put_back(Segment* segment);

  [[nodiscard]] std::uint64_t cell_of(Offset at) const { return map_.cell(at / kSegmentBytes); }
  // The segment that holds byte `at`, or null.
  [[nodiscard]] Segment* segment_of(Offset at) const { return map_.get(at / kSegmentBytes); }
  // Whether the segment is in use and its header says so.
  [[nodiscard]] bool is_made(const Segment& segment) const {
    return segment_of(segment.data) == &segment &&
           (segment.large() ||
            load_word(header_of(segment)->word) == checked_word(segment.word.pack()));
  }
  // The slot that holds byte `at`, or a null segment where there is none.
  [[nodiscard]] Slot find(Offset at) const {
    Segment* segment = segment_of(at);
    if (segment == nullptr) [[unlikely]]
      segment = foreign_of(at);
    if (segment == nullptr || at < segment->data) return {};
    const std::uint32_t slot = segment->slot_of(at);
    if (slot >= segment->slots) return {};
    return {.segment = segment, .index = slot};
  }

  // In between no segment comes or goes.
  void pause() {
    growth_mutex_.lock();
    mutex_.lock();
  }
  void resume() {
    mutex_.unlock();
    growth_mutex_.unlock();
  }

  [[nodiscard]] std::span<const std::uint32_t> own_arenas() const {
    return {own_.data(), own_count_.load(std::memory_order_acquire)};
  }
  [[nodiscard]] bool owns(std::uint32_t arena) const { return map_of_own_.at(arena).load(); }
  // Arenas of the heap, of whomever.
  [[nodiscard]] std::uint32_t arenas() const {
    return static_cast<std::uint32_t>(load_word(arena_header(0)->arena_count) >> 8);
  }
  [[nodiscard]] std::uint64_t free_segments() const;
  // Segments that have memory, in arenas of whomever.
  [[nodiscard]] std::uint64_t total_segments() const;
  // Segments that this user's arenas may grow to.
  [[nodiscard]] std::uint64_t capacity() const;
  [[nodiscard]] std::uint32_t grown(std::uint32_t arena) const {
    if (!source_.reach(arena)) return 0;
    const auto said = static_cast<std::uint32_t>(load_word(arena_header(arena)->grown) >> 8);
    return said < geometry(arena).segment_count ? said : geometry(arena).segment_count;
  }
  [[nodiscard]] std::uint64_t longest_run() const;

 private:
  [[nodiscard]] ArenaHeader* arena_header(std::uint32_t arena) const {
    return reinterpret_cast<ArenaHeader*>(base_ + arena * arena_bytes_);
  }
  Status grow_arena(std::uint32_t arena, std::uint64_t segments);
  void put_free(std::uint64_t id, std::uint64_t span);
  bool take_backed(std::uint64_t id, std::uint64_t span);
  Segment* make_fresh(SegmentWord word, std::uint64_t id);
  [[nodiscard]] std::uint64_t first_id(std::uint32_t arena) const {
    return (arena * arena_bytes_ + geometry(arena).segments_offset) / kSegmentBytes;
  }
  template <class T>
  [[nodiscard]] static std::uint64_t load_word(const T& word) {
    return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(&word), __ATOMIC_ACQUIRE);
  }
  // Of which segment that lies in its header or at its head; not below `segment_count` if of none.
  [[nodiscard]] std::uint64_t index_of(Offset at) const;
  [[nodiscard]] SegmentHeader* header_at(std::uint32_t arena, std::uint32_t index) const {
    return reinterpret_cast<SegmentHeader*>(base_ + arena * arena_bytes_ +
                                            geometry(arena).table_offset) +
           index;
  }
  [[nodiscard]] Segment* foreign_of(Offset at) const;
  [[nodiscard]] Segment* view_of(const SegmentWord& word, std::uint64_t id) const;
  void describe(Segment& segment, const SegmentWord& word, std::uint64_t id) const;
  Segment* make(SegmentWord word, std::uint64_t id);
  void set_pointers(const Segment& segment, Segment* to);
  void clear_bits(const Segment& segment) const;
  Status read_segment(std::uint32_t arena, std::uint32_t index, bool clean,
                      std::vector<Segment*>& found, std::uint32_t& used);
  [[nodiscard]] bool load_bitmap(Segment& segment) const;
  static void set_places(Segment& segment);
  [[nodiscard]] static std::unexpected<Error> damaged(std::uint32_t arena, std::uint32_t index,
                                                      const char* what);
  [[nodiscard]] SegmentHeader* header_of(const Segment& segment) const {
    return reinterpret_cast<SegmentHeader*>(base_ + segment.header);
  }

  ArenaSource& source_;
  std::byte* const base_;
  const std::uint64_t arena_bytes_;
  Persist& persist_;
  // By Offset / kSegmentBytes; a large extent's in all its cells. Ids leave a gap between arenas,
  // where an arena's header lies, so that runs never join across them.
  SegmentMap map_;
  std::array<Geometry, 2> geometry_{};
  std::array<std::uint32_t, kMaxArenas> own_{};
  std::atomic<std::uint32_t> own_count_{0};
  std::array<std::atomic<bool>, kMaxArenas> map_of_own_{};
  std::mutex growth_mutex_;   // one growth at a time; before mutex_
  mutable std::mutex mutex_;  // extents_, backed_, pool_, spare_
  ExtentTree extents_;
  // Free segments known to have memory; of the others it is reserved when they are taken.
  BitMap backed_;
  std::uint64_t backed_count_ = 0;
  std::deque<Segment> pool_;  // never shrinks: a stale lookup must not meet freed memory
  std::vector<Segment*> spare_;
  // What was seen of the segments of others, by id: one for each word that a header had, so that
  // none changes while somebody looks at it.
  mutable std::mutex views_mutex_;
  mutable std::unordered_map<std::uint64_t, std::vector<std::unique_ptr<Segment>>> views_;
};

}  // namespace btd
