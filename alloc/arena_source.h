// ArenaSource: where a heap's memory comes from.
//
// Arenas are equally large and contiguous in address space: arena i lies at base() + i *
// arena_bytes(). The source owns the mappings and outlives the heap that uses it. base() never
// changes. Thread-safety: extend() is called by one thread at a time; the rest from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "alloc/persist.h"
#include "alloc/result.h"
#include "alloc/users.h"

namespace btd {

class ArenaSource {
 public:
  virtual ~ArenaSource() = default;

  [[nodiscard]] virtual std::byte* base() = 0;
  [[nodiscard]] virtual std::uint64_t arena_bytes() const = 0;
  [[nodiscard]] virtual std::uint32_t count() const = 0;
  // Adds one zero-filled arena. ENOSPC if there is no room for it.
  virtual Status extend() = 0;
  // Before arena `index`, which no user has yet, is formatted: under the door. `is_full`: there is
  // no room where it would lie; it is to lie elsewhere. ENOSPC.
  virtual Status provide(std::uint32_t /*index*/, bool /*is_full*/) { return {}; }
  // Whether what lies in that arena is as near as what this user would add.
  [[nodiscard]] virtual bool near(std::uint32_t /*index*/) { return true; }
  // Before memory of an arena that this user does not own is touched: another may have added it
  // since. Errors: why it is not to be had.
  Status reach(std::uint32_t index) {
    if (is_reached(index)) [[likely]]
      return {};
    return fetch(index);
  }
  [[nodiscard]] bool is_reached(std::uint32_t index) const {
    return index >= 64 || (absent_.load(std::memory_order_acquire) >> index & 1U) == 0;
  }
  [[nodiscard]] bool all_reached() const { return absent_.load(std::memory_order_relaxed) == 0; }
  // Whether pages of arenas have a place of their own for each of several kernels: what one of them
  // made durable is what it has stored, or has loaded since.
  [[nodiscard]] virtual bool by_pages_of_nodes() const { return false; }
  // Called before the first store to [off, off + len), which lies in one arena: after it, no store
  // there can meet a full file system. ENOSPC. Sources whose memory is reserved by extend() have
  // nothing to do.
  virtual Status reserve_space(std::uint64_t /*off*/, std::uint64_t /*len*/) { return {}; }
  // Gives the memory of [off, off + len), in which nothing is kept, back to the file system, until
  // it is reserved again. False: it stays reserved.
  virtual bool release_space(std::uint64_t /*off*/, std::uint64_t /*len*/) { return false; }
  [[nodiscard]] virtual Persist& persist() = 0;
  // The bytes at the head of an arena that are there and may have been stored to.
  [[nodiscard]] virtual std::uint64_t used_bytes(std::uint32_t /*arena*/) { return arena_bytes(); }
  // Where the table's cells are to lie, one for each 64 KiB of base() on, all zero; null: anywhere.
  [[nodiscard]] virtual std::atomic<std::uint64_t>* cells() { return nullptr; }
  [[nodiscard]] virtual Users& users() { return one_user_; }

 protected:
  // A bit for each arena that is not mapped yet.
  std::atomic<std::uint64_t> absent_{0};

 private:
  virtual Status fetch(std::uint32_t /*index*/) { return {}; }

  Users one_user_;
};

}  // namespace btd
