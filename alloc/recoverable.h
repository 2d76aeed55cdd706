// Recoverable: contract R of a heap: thread caches over recoverable segments, and recovery by
// marking.
//
// A segment belongs to one thread's cache, which alone touches its avail bits; others free into its
// remote bits. Only the header's word is ever persisted, several headers to a fence, before first
// use. When a thread ends its segments are orphans, adopted by whoever runs dry next. LOCK ORDER:
// orphans_mutex_, then the segment table. No lock on the fast path.
#pragma once

#include <array>
#include <atomic>
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
  // What one thread keeps. Bounded: kStack free slots and kMaxEmpty empty segments a class.
  struct Cache {
    static constexpr std::uint32_t kStack = 64;
    static constexpr std::uint32_t kMaxEmpty = 32;  // 2 MiB
    struct PerClass {
      std::array<Slot, kStack> stack;
      std::uint32_t stacked = 0;
      std::uint32_t empty = 0;   // of owned, with all slots available
      std::uint32_t cursor = 0;  // where in owned the search for remote frees goes on
      std::uint32_t growth = 1;  // headers that the next growth persists together
      std::vector<Segment*> owned;
      std::vector<Segment*> partial;  // of owned, with available slots
    };
    std::array<PerClass, kClasses> classes;
  };

  explicit Recoverable(Heap& heap) : heap_(heap), table_(heap.table_) {}
  Recoverable(const Recoverable&) = delete;
  Recoverable& operator=(const Recoverable&) = delete;

  Result<Offset> allocate(std::size_t bytes);
  Status release(Offset block);

  // Takes back a slot that is not live, from any thread.
  Status take_back(const Slot& slot);

  // A segment that open found. Not clean: nothing of it is available before recovery.
  void adopt(Segment& segment, bool clean);
  Status recover(const std::function<void(Heap::Marker&)>& visit);
  Status recover_conservatively();
  [[nodiscard]] bool needs_recovery() const { return dirty_.load(); }
  // For a clean close: what is live, in the media's bitmaps. One fence.
  Status write_bitmaps();
  [[nodiscard]] std::uint64_t live_bytes() const;

  // The heap goes; caches of threads that outlive it become empty husks.
  void detach();
  // A thread ends: its segments become orphans. Does nothing after detach().
  void abandon(Cache& cache);

 private:
  Cache& my_cache();
  Result<Slot> refill(Cache& cache, std::uint8_t size_class);
  static bool fill_stack(Cache::PerClass& mine);
  static bool find_remote(Cache::PerClass& mine);
  bool adopt_orphan(Cache& cache, std::uint8_t size_class);
  Status grow(Cache& cache, std::uint8_t size_class, std::uint32_t& got);
  static void give_back(Cache::PerClass& mine, const Slot& slot);
  Status shed(Cache::PerClass& mine);
  Result<Offset> allocate_large(std::size_t bytes);
  Status sweep();

  Heap& heap_;
  SegmentTable& table_;
  std::atomic<bool> dirty_{false};
  std::atomic<bool> used_{false};  // there ever was a recoverable segment
  mutable std::mutex orphans_mutex_;
  bool attached_ = true;
  std::array<std::vector<Segment*>, kClasses> orphans_;
};

}  // namespace btd
