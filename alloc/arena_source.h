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

 private:
  Users one_user_;
};

}  // namespace btd
