// malloc_policy: glibc, jemalloc, tcmalloc by malloc and free, as their users link them; mimalloc
// by its own names, which are the same functions. Which library answers is in the output.
#pragma once
#ifdef BTD_BENCH_MIMALLOC
#include <mimalloc.h>
#endif

#include "bench/alloc/space.h"

namespace btd::bench {

class Policy {
 public:
  using Slot = void*;
  static constexpr bool kPersistent = false;
  static constexpr bool kSlotsInPool = false;
  static constexpr const char* kContract = "volatile";

  static void* allocate(Slot& slot, std::size_t bytes) {
#ifdef BTD_BENCH_MIMALLOC
    return slot = mi_malloc(bytes);
#else
    return slot = std::malloc(bytes);
#endif
  }
  static void release(Slot& slot) {
#ifdef BTD_BENCH_MIMALLOC
    mi_free(slot);
#else
    std::free(slot);
#endif
  }
  static void* at(const Slot& slot) { return slot; }
  static Slot* slots(std::size_t n) {
    auto* made = new Slot[n];
    std::fill(made, made + n, nullptr);  // its pages are touched before anything is measured
    return made;
  }

  static void open(bool) {}
  static void close() {}
  static const void* function() {
#ifdef BTD_BENCH_MIMALLOC
    return reinterpret_cast<const void*>(&mi_malloc);
#else
    return reinterpret_cast<const void*>(&std::malloc);
#endif
  }
  static std::string why() { return "out of memory"; }
  static Counters counters() { return {}; }
  static Space space() { return {.files = resident_bytes(), .mapped = 0}; }
};

}  // namespace btd::bench
