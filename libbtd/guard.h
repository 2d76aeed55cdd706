// Guard: finds writes outside of blocks of contract R and writes to freed ones, when BTD_GUARD is
// set.
//
// What a slot has behind the bytes that were asked for, at least kCanaryBytes, holds a canary. It
// is looked at when the block is freed or resized and when the heap is closed; a block whose canary
// is damaged is told of once and not freed. Nothing stands before a block, for a later run must be
// able to free it by its slot's start: there the canary of its neighbour is. Freed blocks wait,
// filled with a pattern, and are still allocated for the heap; so many at most, the oldest leave
// first and are looked at then. Which blocks are guarded is known in DRAM alone: nothing of it is
// on the medium, and a block of another run or process is freed as ever. As another process may
// free a guarded block too, the heap is asked whether it is there before anything is said of it.
// Thread-safety: any thread, but for the calls that say otherwise. LOCK ORDER: a shard, then what
// the heap takes; waiting_mutex_ is taken with none held.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "alloc/heap.h"
#include "alloc/result.h"

namespace btd {

class Guard {
 public:
  static constexpr std::size_t kCanaryBytes = 16;
  static constexpr std::byte kCanary{0xCB};
  static constexpr std::byte kFreed{0xDF};  // neither makes a word that looks like a pointer
  static constexpr std::uint64_t kMaxWaitingBytes = std::uint64_t{16} << 20;
  static constexpr std::size_t kMaxWaiting = 4096;

  struct Wanted {
    std::size_t bytes = 0;
    std::size_t alignment = 1;
    std::uint8_t type = kTypeUntyped;
    const void* caller = nullptr;
  };
  enum class Freed : std::uint8_t {
    kNotGuarded,  // nothing was done: it is the heap's to free
    kTaken,
    kDamaged,  // it was told, and stays allocated
    kTwice,    // it was freed before
  };

  // Whether BTD_GUARD asks for it. Errors: EINVAL it is neither a number nor "verbose".
  static Result<bool> wanted();
  // `name` is the heap's, for messages.
  static std::unique_ptr<Guard> start(Heap& heap, std::string name);
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  Result<Offset> allocate(const Wanted& wanted);  // as Heap::allocate()
  Freed free(Offset block, const void* caller);
  // False where the canary is damaged, which is told. True for what is not guarded.
  bool intact(Offset block);
  // The block stays where it is, and is `bytes` long now; false where it has no room for that.
  bool resize(Offset block, std::size_t bytes);

  // As asked for; none for what is not guarded, or was freed.
  [[nodiscard]] std::optional<std::size_t> bytes(Offset block) const;
  [[nodiscard]] bool waits(Offset block) const;  // freed, and not the heap's yet
  [[nodiscard]] std::uint64_t waiting_bytes() const { return waiting_bytes_.load(); }

  // All that wait leave.
  void release_waiting() { let_leave(0, 0); }
  // After a collection: forgets blocks that are no more. Nobody else uses the heap.
  void forget_reclaimed();
  // Looks at everything once more, the heap's own headers too. Nobody else uses the heap.
  void finish();

 private:
  static constexpr std::size_t kShards = 64;
  struct Block {
    std::uint64_t bytes = 0;       // asked for
    std::uint64_t slot_bytes = 0;  // the canary reaches to the end of its slot
    const void* allocated_by = nullptr;
    const void* freed_by = nullptr;
    bool waits = false;
    bool told = false;
  };
  struct Shard {
    mutable std::mutex mutex;
    std::unordered_map<Offset, Block> blocks;
  };
  struct Waiting {
    Offset block = 0;
    std::uint64_t bytes = 0;
  };

  Guard(Heap& heap, std::string name) : heap_(heap), name_(std::move(name)) {}
  [[nodiscard]] bool is_there(Offset block) const;
  [[nodiscard]] Shard& shard_of(Offset block) const { return shards_[block / 16 % kShards]; }
  void put_canary(Offset at, const Block& block);
  bool check_canary(Offset at, Block& block);
  void let_leave(std::uint64_t keep_bytes, std::size_t keep);
  void leave(Offset at);
  void tell(const std::string& sentence) const;

  Heap& heap_;
  const std::string name_;
  mutable std::array<Shard, kShards> shards_;
  std::mutex waiting_mutex_;
  std::deque<Waiting> waiting_;                  // the oldest first
  std::atomic<std::uint64_t> waiting_bytes_{0};  // of their slots
};

}  // namespace btd
