// Recoverable: contract R of a heap: thread caches over recoverable segments.
//
// A segment belongs to one thread's cache, which alone writes its live bits; others set its remote
// bits and hand it to that cache's pending list, whose owner takes it up when it runs dry. Only the
// header's word is ever persisted, several headers to a fence, before first use. When a thread ends
// its cache rests with all its segments until a new thread takes it over, or others, run dry, take
// segments from it. No lock and no atomic read-modify-write on the fast path.
// LOCK ORDER: resting_mutex_, then the segment table.
// Method: segments owned by threads with remote frees kept apart (Leijen et al., mimalloc, APLAS
// 2019); nothing persisted but headers (Cai et al., Ralloc, ISMM 2020).
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
  // What one thread keeps of one class and type. `mask`: slots of one word, claimed from its
  // segment and free to hand out.
  struct Bin {
    std::uint64_t mask = 0;
    Offset word_start = 0;          // slot 0 of that word
    std::uint64_t* live = nullptr;  // of that word
    std::uint64_t slot_bytes = 0;
    Segment* current = nullptr;     // the segment of that word
    std::uint32_t growth = 1;       // headers that the next growth persists together
    std::vector<Segment*> partial;  // with free slots, without `current`
  };
  using Bins = std::array<Bin, kClasses>;
  struct alignas(2 * kLineBytes) Cache {
    Bins bins;                                       // of untyped objects
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
  [[nodiscard]] Offset try_allocate(std::size_t bytes) {
    if (bytes > kMaxSmallBytes || t_last.heap != this) [[unlikely]]
      return 0;
    Bin& bin = t_last.cache->bins[size_class_of(bytes)];
    return bin.mask != 0 ? take_claimed(bin) : 0;
  }
  // The fast path of release(): false, and nothing done, where that is not enough.
  [[nodiscard]] bool try_release(Offset block) {
    Segment* const segment = table_.segment_of(block);
    if (segment == nullptr || t_last.heap != this ||
        segment->owner.load(std::memory_order_relaxed) != t_last.cache) [[unlikely]]
      return false;
    return release_own(*t_last.cache, *segment, block);
  }

  Result<Offset> allocate(std::size_t bytes, std::uint8_t type);
  Status release(Offset block);

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
    const Recoverable* heap;
    Cache* cache;
  };
  static thread_local constinit Last t_last __attribute__((tls_model("initial-exec")));

  static Offset take_claimed(Bin& bin) {
    const auto bit = static_cast<unsigned>(std::countr_zero(bin.mask));
    const std::uint64_t one = bin.mask & (~bin.mask + 1);
    bin.mask ^= one;
    __atomic_store_n(bin.live, *bin.live | one, __ATOMIC_RELAXED);
    return bin.word_start + bit * bin.slot_bytes;
  }
  bool release_own(Cache& cache, Segment& segment, Offset block) {
    if (segment.slow.load(std::memory_order_relaxed)) [[unlikely]]
      return false;
    const Offset into = block - segment.data;
    const auto slot = static_cast<std::uint32_t>((into * segment.inverse) >> kInverseShift);
    const std::uint32_t word = slot / 64;
    const std::uint64_t bit = Segment::mask_of(slot);
    if (slot >= segment.slots || slot * segment.slot_bytes != into) [[unlikely]]
      return false;
    const std::uint64_t live = segment.load_live(word);
    if ((live & bit) == 0 || (segment.load_remote(word) & bit) != 0) [[unlikely]]
      return false;
    segment.store_live(word, live & ~bit);
    Bin& bin = bin_of(cache, segment);
    if (bin.live == segment.live_at(word)) {
      bin.mask |= bit;
      return true;
    }
    const std::uint32_t free = ++segment.free_slots;
    if (free == 1 || free == segment.slots) [[unlikely]]
      note_free(cache, bin, segment);
    return true;
  }
  static Bin& bin_of(Cache& cache, const Segment& segment) {
    const std::uint8_t type = segment.word.type;
    return (type == 0 ? cache.bins : *cache.typed[type])[segment.word.size_class];
  }

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
  static bool claim_word(Cache& cache, Bin& bin);
  static void unclaim(Bin& bin);
  void note_free(Cache& cache, Bin& bin, Segment& segment);
  static void list(Cache& cache, Bin& bin, Segment& segment);
  static void unlist(Cache& cache, Bin& bin, Segment& segment);
  static void count(Segment& segment);
  static void push_pending(Segment& segment);
  static void link_pending(Cache& cache, Segment& segment);
  void drain_pending(Cache& cache);
  static void collect_remote(Cache& cache, Segment& segment);
  bool take_from_resting(Cache& cache, Bin& bin, std::uint8_t size_class, std::uint8_t type);
  Status grow(Cache& cache, Bin& bin, SegmentWord word, std::uint32_t& got);
  Status shed(Cache& cache, std::uint32_t keep);
  template <class Visit>
  static void for_bins(Cache& cache, Visit&& visit);
  Result<Offset> allocate_large(std::size_t bytes, std::uint8_t type);
  Status release_slowly(Segment& segment, std::uint32_t slot);

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
