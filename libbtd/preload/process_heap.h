// process_heap: the heap from which libbtd_malloc.so serves an unmodified program.
//
// It is made by the library's constructor. What is allocated before, or while this code itself
// runs, comes from the C library, as do blocks that no heap holds; a block is freed by whom its
// address names. Contract R of alloc/heap.h, nothing flushed.
// ASSUMPTIONS: no call of the heap is made twice at once by one thread. Class Inside sees to it.
// LOCK ORDER across a fork: as Heap::pause(), then that of the arenas.
// Thread-safety: any thread; not from signal handlers, as malloc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "alloc/recoverable.h"

namespace btd::preload {

// Where the heap's addresses are; none where there is no heap. Set once, before the program runs.
struct Window {
  std::uintptr_t base = 0;
  std::uintptr_t bytes = 0;
};
extern constinit Window g_window;

[[nodiscard]] inline bool in_heap(const void* block) {
  return reinterpret_cast<std::uintptr_t>(block) - g_window.base < g_window.bytes;
}
[[nodiscard]] inline Offset offset_of(const void* block) {
  return reinterpret_cast<std::uintptr_t>(block) - g_window.base;
}
[[nodiscard]] inline void* address_of(Offset block) {
  return reinterpret_cast<void*>(g_window.base + block);
}

struct Thread {
  Recoverable* serving;  // the heap; null where this thread must not use it now
  unsigned inside;       // calls of the heap that this thread is in
  void* deferred;        // blocks of the heap that were freed meanwhile, linked by their first word
};
extern thread_local constinit Thread t_thread __attribute__((tls_model("initial-exec")));

// What the short ways do not serve. Null and ENOMEM; `alignment` is a power of two.
[[nodiscard]] void* allocate_slowly(std::size_t bytes, std::size_t alignment);
void free_slowly(void* block);
// Of a block in the heap. `call`, for the message: what is no block ends the program.
[[nodiscard]] std::size_t usable_size(const void* block, const char* call);

struct Usage {
  std::uint64_t reserved = 0;  // bytes of files
  std::uint64_t used = 0;      // bytes of blocks, as rounded up to their class
};
[[nodiscard]] Usage usage();

[[nodiscard, gnu::always_inline]] inline void* allocate(std::size_t bytes) {
  if (Recoverable* const heap = t_thread.serving; heap != nullptr) [[likely]] {
    const Offset block = heap->try_allocate(bytes);
    if (block != 0) [[likely]]
      return address_of(block);
  }
  return allocate_slowly(bytes, 1);
}

}  // namespace btd::preload
