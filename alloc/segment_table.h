// SegmentTable: the segments of all arenas: their headers on NVRAM, their state in DRAM, the free
// runs.
//
// Decides when a header is written and in what order, so that after any crash the table says the
// truth: a segment's word is 0 unless it heads something, before it returns to the free runs.
// LOCK ORDER: a bin's lock (alloc/heap.h), then this table's. Lookups take no lock.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/extent.h"
#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/segment.h"
#include "alloc/size_class.h"

namespace btd {

class SegmentTable {
 public:
  // Where an arena's parts lie.
  struct Geometry {
    std::uint64_t table_offset = 0;
    std::uint64_t segments_offset = 0;
    std::uint32_t segment_count = 0;
  };
  // The geometry of an arena of `arena_bytes` whose table starts at `table_offset`.
  [[nodiscard]] static Geometry plan(std::uint64_t arena_bytes, std::uint64_t table_offset);

  static constexpr std::uint32_t kMaxArenas = 4096;

  explicit SegmentTable(ArenaSource& source);
  SegmentTable(const SegmentTable&) = delete;
  SegmentTable& operator=(const SegmentTable&) = delete;

  // Takes in arena `index`, whose header is valid: reads its table, one line a segment; `found`
  // gets every segment in use. A fresh arena has an all-zero table. `clean`: the bitmaps of
  // recoverable segments are true; else all their slots count as live. Errors: EUCLEAN.
  Status attach(std::uint32_t index, const Geometry& geometry, bool clean,
                std::vector<Segment*>& found);
  // Calls visit(Segment&) for every segment in use. No segment may come or go meanwhile.
  template <class Visit>
  void for_each(Visit&& visit) const {
    for (std::uint32_t a = 0; a < arenas(); ++a) {
      const Arena& arena = *arenas_[a];
      for (std::uint32_t i = 0; i < arena.geometry.segment_count; ++i) {
        Segment* segment = arena.segments[i].load(std::memory_order_acquire);
        if (segment != nullptr && segment->id == id_of(a, i)) visit(*segment);
      }
    }
  }

  // Takes `span` neighbouring free segments, or null when there are none.
  // The header on NVRAM is not written: create() or a transaction does that.
  [[nodiscard]] Segment* take(SegmentWord word);
  // Persists the headers of new segments: one fence, two where a transactional bitmap is cleared.
  Status create(std::span<Segment* const> fresh);
  // Persists zero words in the headers of empty segments, in one fence, and frees them.
  Status retire(std::span<Segment* const> empty);
  // Frees a segment whose header needs no change: a large extent whose bit is clear on NVRAM, or a
  // segment whose header was never written.
  void put_back(Segment* segment);

  // The slot that holds byte `at`, or a null segment where there is none.
  [[nodiscard]] Slot find(Offset at) const;

  [[nodiscard]] std::uint32_t arenas() const {
    return arena_count_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t free_segments() const;
  [[nodiscard]] std::uint64_t total_segments() const;
  [[nodiscard]] std::uint64_t longest_run() const;

 private:
  struct Arena {
    Geometry geometry;
    Offset base = 0;
    std::uint32_t index = 0;
    std::unique_ptr<std::atomic<Segment*>[]> segments;  // by index; a large extent's, in all its
  };

  // Ids leave a gap between arenas, so that runs never join across them.
  [[nodiscard]] std::uint64_t id_of(std::uint32_t arena, std::uint32_t segment) const {
    return arena * stride_ + segment;
  }
  Segment* make(SegmentWord word, std::uint64_t id);
  void set_pointers(const Segment& segment, Segment* to);
  Status read_segment(Arena& arena, std::uint32_t index, bool clean, std::vector<Segment*>& found,
                      std::uint32_t& used);
  Status load_bitmap(Segment& segment, bool clean) const;
  Status damaged(const Arena& arena, std::uint32_t index, const char* what) const;
  [[nodiscard]] SegmentHeader* header_of(const Segment& segment) const {
    return reinterpret_cast<SegmentHeader*>(base_ + segment.header);
  }

  std::byte* const base_;
  const std::uint64_t arena_bytes_;
  const std::uint64_t stride_;  // more than the segments of any arena
  Persist& persist_;
  std::unique_ptr<Arena> arenas_[kMaxArenas];
  std::atomic<std::uint32_t> arena_count_{0};
  mutable std::mutex mutex_;  // extents_, pool_, spare_
  ExtentTree extents_;
  std::deque<Segment> pool_;  // never shrinks: a stale lookup must not meet freed memory
  std::vector<Segment*> spare_;
};

}  // namespace btd
