// Recoverable: contract R of a heap: thread caches over recoverable segments.
//
// A segment belongs to one thread's cache. What is allocated stands in its states, a byte a slot,
// in DRAM; its live bits on the medium are set a word at a time, as a cache claims slots, and
// cleared as slots go back. Others set its freed bits and hand it to that cache's pending list,
// whose owner takes it up when it runs dry. Only the header's word is ever persisted, several
// headers to a fence, before first use. When a thread ends its cache rests with all its segments
// until a new thread takes it over, or others, run dry, take segments from it. No lock, no atomic
// read-modify-write and no load of what was just stored on the fast path. LOCK ORDER:
// resting_mutex_, then the segment table. Method: segments owned by threads with remote frees kept
// apart (Leijen et al., mimalloc, APLAS 2019); nothing persisted but headers (Cai et al., Ralloc,
// ISMM 2020).
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "alloc/heap.h"
#include "alloc/segment.h"
#include "alloc/size_class.h"

namespace btd {

class Recoverable : public std::enable_shared_from_this<Recoverable> {
 public:
  // A slot that was freed here: where it is, and where its state is.
  struct Freed {
    Offset block = 0;
    std::uint8_t* state = nullptr;
  };
  // What one thread keeps of one class and type. First `freed` serves, last in first out, as its
  // blocks are in the processor's cache; then `mask`: slots of one word, claimed from its segment.
  // The live bits of both are set.
  struct Bin {
    static constexpr std::uint32_t kMaxFreed = 64;
    // Bounds, in bytes, what a thread that dies takes along until the next marking.
    static constexpr std::uint64_t kMaxFreedBytes = 16 * 1024;
    static constexpr std::uint64_t kMaxClaimedBytes = 8 * 1024;
    std::uint32_t freed_count = 0;
    std::uint32_t most_freed = kMaxFreed;
    std::uint32_t growth = 1;  // headers that the next growth persists together
    std::uint64_t mask = 0;
    Offset word_start = 0;           // slot 0 of the claimed word
    std::uint8_t* states = nullptr;  // of slot 0 of the claimed word
    std::uint64_t slot_bytes = 0;
    Segment* current = nullptr;     // the segment of that word, its `hint` says which
    std::vector<Segment*> partial;  // with free slots, without `current`
    std::array<Freed, kMaxFreed> freed;

    // 0 where there is none.
    [[nodiscard]] Offset take() {
      if (freed_count != 0) [[likely]] {
        const Freed& last = freed[--freed_count];
        __atomic_store_n(last.state, Segment::kAllocated, __ATOMIC_RELAXED);
        return last.block;
      }
      return mask != 0 ? take_claimed() : 0;
    }
    void set_bounds(std::uint64_t bytes) {
      most_freed = static_cast<std::uint32_t>(
          std::clamp<std::uint64_t>(kMaxFreedBytes / bytes, 2, kMaxFreed));
    }
    [[nodiscard]] Offset take_claimed() {
      const auto bit = static_cast<unsigned>(std::countr_zero(mask));
      mask &= mask - 1;
      __atomic_store_n(states + bit, Segment::kAllocated, __ATOMIC_RELAXED);
      return word_start + bit * slot_bytes;
    }
  };
  template <std::size_t N>
  struct BinsOf : std::array<Bin, N> {
    BinsOf() {
      for (std::size_t i = 0; i < kClasses; ++i) (*this)[i].set_bounds(kSizeClasses[i].bytes);
    }
  };
  using Bins = BinsOf<kClasses>;
  // One more, which takes nothing: of what has no bin in the table.
  using CacheBins = BinsOf<kClasses + 1>;
  struct alignas(2 * kLineBytes) Cache {
    explicit Cache(Recoverable& owner) : engine(&owner) {
      bins[SegmentMap::kNoBin].freed_count = Bin::kMaxFreed;
    }
    Recoverable* const engine;
    CacheBins bins;                                  // of untyped objects
    std::array<std::unique_ptr<Bins>, 256> typed{};  // by type, from 1
    std::uint32_t empty = 0;                         // listed segments with all slots free
    alignas(2 * kLineBytes) std::atomic<Segment*> pending{nullptr};
  };
  // Bounds what a thread keeps: segments that are wholly free, 16 MiB.
  static constexpr std::uint32_t kMaxEmpty = 256;

  explicit Recoverable(Heap& heap) : heap_(heap), table_(heap.table_) {}
  Recoverable(const Recoverable&) = delete;
  Recoverable& operator=(const Recoverable&) = delete;

  // The fast path of allocate(): 0 where that is not enough.
  [[nodiscard]] [[gnu::always_inline]] Offset try_allocate(std::size_t bytes) {
    if (bytes > kTabledBytes || t_last.heap != this) [[unlikely]]
      return 0;
    return t_last.cache->bins[size_class_of(bytes)].take();
  }
  // The fast path of release(): false, and nothing done, where that is not enough. `cell` is the
  // block's in the table of its heap, which may be any.
  [[nodiscard]] [[gnu::always_inline]] static bool try_release(std::uint64_t cell, Offset block) {
    Segment* const segment = SegmentMap::segment_in(cell);
    Cache* const cache = t_last.cache;
    // A cache is of one heap.
    if (segment == nullptr || segment->fast.load(std::memory_order_relaxed) != cache) [[unlikely]]
      return false;
    const Offset into = block - segment->data;
    const auto slot = static_cast<std::uint32_t>((into * segment->inverse) >> kInverseShift);
    if (slot >= segment->slots || slot * segment->slot_bytes != into) [[unlikely]]
      return false;
    Bin& bin = cache->bins[SegmentMap::bin_in(cell)];
    const std::uint32_t count = bin.freed_count;
    std::uint8_t* const state = segment->state + slot;
    if (__atomic_load_n(state, __ATOMIC_RELAXED) != Segment::kAllocated) [[unlikely]]
      return false;
    __atomic_store_n(state, Segment::kFree, __ATOMIC_RELAXED);
    if (count >= bin.most_freed) [[unlikely]] {
      cache->engine->spill(*cache, *segment, slot);
      return true;
    }
    bin.freed[count] = {.block = block, .state = state};
    bin.freed_count = count + 1;
    return true;
  }
  [[nodiscard]] bool try_release(Offset block) { return try_release(table_.cell_of(block), block); }
  Result<Offset> allocate(std::size_t bytes, std::uint8_t type);
  Status release(Offset block);

  // Takes in what other users freed in it; a large one that is free now goes to `empty`.
  void freed_by_others(Segment& segment, std::vector<Segment*>& empty);
  // Takes back a slot that is not live, from any thread.
  Status take_back(const Slot& slot);

  // A segment that open found.
  void adopt(Segment& segment);
  // After an unclean stop segments are dirty: nothing is taken from them or freed in them until
  // their live bits were marked and swept. Meanwhile other segments may be used as ever.
  [[nodiscard]] bool needs_recovery() const { return dirty_.load(); }
  // Makes all segments dirty. Nobody else may use the heap until sweep() returned.
  void soil();
  // Zeroes the live bits of dirty segments, for marking.
  void begin_marking();
  // What is dirty and not marked becomes free. Returns the bytes that were live before.
  Result<std::uint64_t> sweep();
  // For a clean close: the live bits, on NVRAM. One fence.
  Status write_bitmaps();
  [[nodiscard]] std::uint64_t live_bytes() const;
  // Gives empty segments that rest with ended threads back to the heap.
  Status trim();

  // Held: no cache comes, rests or wakes.
  [[nodiscard]] std::mutex& mutex() { return resting_mutex_; }

  // The heap goes; threads that outlive it keep nothing of it.
  void detach();
  // A thread ends: its cache rests.
  void rest(Cache& cache);
  // In a child after fork: this thread has no caches, and its end touches none of the parent's.
  static void forget_thread();

 private:
  // The heap used last by this thread, and its cache there.
  struct Last {
    const Recoverable* heap = nullptr;
    Cache* cache = nullptr;  // null: no segment's `fast` is that
  };
  static thread_local constinit Last t_last __attribute__((tls_model("initial-exec")));

  [[gnu::noinline]] void spill(Cache& cache, Segment& segment, std::uint32_t slot) {
    return_slot(cache, bin_of(cache, segment), segment, slot);
  }
  // A slot whose state is free goes back to its segment.
  void return_slot(Cache& cache, Bin& bin, Segment& segment, std::uint32_t slot) {
    const std::uint32_t word = slot / 64;
    const std::uint64_t bit = Segment::mask_of(slot);
    if (bin.current == &segment && segment.hint == word) {
      bin.mask |= bit;
      return;
    }
    segment.store_live(word, segment.load_live(word) & ~bit);
    const std::uint32_t free = ++segment.free_slots;
    if (free == 1 || free == segment.slots) [[unlikely]]
      note_free(cache, bin, segment);
  }
  static Bin& bin_of(Cache& cache, const Segment& segment) {
    const std::uint8_t type = segment.word.type;
    const std::uint8_t size_class = segment.word.size_class;
    return type == 0 ? cache.bins[size_class] : (*cache.typed[type])[size_class];
  }
  // Frees by the thread of `cache` take the fast path from now on.
  static void open_fast_path(Segment& segment, const Cache* cache) {
    if (segment.state == nullptr || segment.large() || segment.logged_seq.load() != 0) return;
    segment.fast.store(cache);
    if (segment.logged_seq.load() != 0) segment.fast.store(&Segment::kNobody);  // meanwhile
  }
  static void give_to(Segment& segment, const Cache* cache);

  // This thread's cache; of a thread whose caches rest already, one for the moment.
  class Lease {
   public:
    explicit Lease(Recoverable& heap);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Cache& operator*() const { return *cache_; }

   private:
    Recoverable& heap_;
    Cache* cache_ = nullptr;
    bool for_the_moment_ = false;
  };
  Cache& my_cache();
  Cache& take_cache();
  Cache& make_cache();
  static Bin& bin_for(Cache& cache, std::uint8_t size_class, std::uint8_t type);
  Result<Offset> refill(Cache& cache, Bin& bin, std::uint8_t size_class, std::uint8_t type);
  bool claim_word(Cache& cache, Bin& bin);
  [[nodiscard]] bool waits(const Segment& segment) const;
  static void unclaim(Bin& bin);
  void return_freed(Cache& cache, Bin& bin);
  void note_free(Cache& cache, Bin& bin, Segment& segment);
  static void list(Cache& cache, Bin& bin, Segment& segment);
  static void unlist(Cache& cache, Bin& bin, Segment& segment);
  static void count(Segment& segment);
  static void push_pending(Segment& segment);
  static void link_pending(Cache& cache, Segment& segment);
  void drain_pending(Cache& cache);
  void collect_remote(Cache& cache, Segment& segment);
  static void collect_word(Bin& bin, Segment& segment, std::uint32_t i);
  bool take_from_resting(Cache& cache, Bin& bin, std::uint8_t size_class, std::uint8_t type);
  Status grow(Cache& cache, Bin& bin, SegmentWord word, std::uint32_t& got);
  Status shed(Cache& cache, std::uint32_t keep);
  template <class Visit>
  static void for_bins(Cache& cache, Visit&& visit);
  Result<Offset> allocate_large(std::size_t bytes, std::uint8_t type);
  Status give_back(Segment& segment, std::uint32_t slot);

  Heap& heap_;
  SegmentTable& table_;
  std::atomic<bool> dirty_{false};
  std::atomic<bool> used_{false};  // there ever was a recoverable segment
  mutable std::mutex resting_mutex_;
  bool attached_ = true;
  std::vector<std::unique_ptr<Cache>> caches_;  // all, until the heap goes
  std::vector<Cache*> resting_;                 // of no thread
  std::vector<Segment*> dirty_segments_;
  std::uint64_t dirty_bytes_ = 0;  // live before marking, as far as the bits are right
};

}  // namespace btd
