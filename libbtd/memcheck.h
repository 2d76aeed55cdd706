// Memcheck: tells Valgrind which memory of a heap the program may touch, where the library was
// built with BTD_VALGRIND and runs under it.
//
// All of the arenas that this process has when it opens the heap is out of bounds but for the
// blocks that the program has, each as long as was asked for: what lies behind that in its slot is
// not. Other arenas have blocks of other processes, of which nothing is known: there only what this
// process frees is. What the library does with its own memory is not reported at all
// (annotate::Quiet, in guarded()). A block that is told of has a ticket, so that a free which is
// told late does not take the block of who got the memory since.
// Thread-safety: any thread, one mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "alloc/heap.h"
#include "libbtd/heap_files.h"

namespace btd {

class Memcheck {
 public:
  using Ticket = std::uint64_t;  // 0: of no block
  // Null where nobody listens.
  static std::unique_ptr<Memcheck> start_if_running(HeapFiles& files, const Heap& heap);
  ~Memcheck();  // the heap closes: all of its blocks are forgotten
  Memcheck(const Memcheck&) = delete;
  Memcheck& operator=(const Memcheck&) = delete;

  // The blocks that are there when the heap is opened; what they hold counts as stored.
  void adopt();
  // After a collection: those that are no more.
  void forget_reclaimed();
  // Before the program gets at what other processes may have allocated meanwhile.
  void look_at_others();

  // What the block holds is undefined, and `bytes` of it may be touched.
  void allocated(const Slot& slot, std::size_t bytes);
  void resized(Offset block, std::size_t bytes);
  [[nodiscard]] Ticket ticket(Offset block) const;
  void freed(Offset block, Ticket ticket);
  // The library stored to it, in a way that Memcheck could not follow.
  void stored(Offset at, std::size_t bytes) const;
  // As asked for; none for what is no block of the program's.
  [[nodiscard]] std::optional<std::size_t> bytes(Offset block) const;

 private:
  struct Block {
    std::size_t bytes = 0;
    Ticket ticket = 0;
  };
  Memcheck(HeapFiles& files, const Heap& heap);
  void open_others();
  template <class Tell>
  void beside_others(Offset block, std::size_t bytes, Tell&& tell);
  void note(Offset block, std::size_t bytes, std::size_t slot_bytes);
  void forget(Offset block);

  const Heap& heap_;
  std::byte* const base_;
  const std::uint64_t arena_bytes_;
  const std::uint32_t arenas_;  // that there may ever be
  mutable std::mutex mutex_;
  std::vector<bool> strict_;         // by arena: this process's when it opened the heap
  std::vector<std::uint64_t> open_;  // by arena: of others, how much of it is not hidden
  Ticket last_ = 0;
  std::map<Offset, Block> blocks_;
};

// The blocks that a call, or a transaction, is about to free: told when it did. Does nothing where
// `memcheck` is null.
class PendingFrees {
 public:
  void add(const Memcheck* memcheck, Offset block) {
    if (memcheck != nullptr) blocks_.emplace_back(block, memcheck->ticket(block));
  }
  void done(Memcheck* memcheck) {
    if (memcheck == nullptr) return;
    for (const auto& [block, ticket] : blocks_) memcheck->freed(block, ticket);
    blocks_.clear();
  }
  void clear() { blocks_.clear(); }

 private:
  std::vector<std::pair<Offset, Memcheck::Ticket>> blocks_;
};

}  // namespace btd
