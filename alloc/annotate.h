// annotate: what Valgrind's Memcheck is told of memory that is not malloc's. All of it is empty
// without the build option BTD_VALGRIND, and a few instructions outside Valgrind with it.
//
// Memcheck alone: pmemcheck is a Valgrind of its own that Debian has not, and what it looks for is
// found here by crashing at each fence (alloc/emulator.h). Thread-safety: any thread; Quiet and
// Loud are of the thread that has them.
#pragma once

#include <cstddef>

#ifdef BTD_VALGRIND
#include <valgrind/memcheck.h>
#endif

namespace btd::annotate {

#ifdef BTD_VALGRIND

[[nodiscard]] inline bool running() { return RUNNING_ON_VALGRIND != 0; }

// While it lives, what this thread does is not reported: it reads and writes memory that the
// program may not touch, and compares what nobody ever stored to. What a load finds there counts
// as defined.
class Quiet {
 public:
  Quiet() { VALGRIND_DISABLE_ERROR_REPORTING; }
  ~Quiet() { VALGRIND_ENABLE_ERROR_REPORTING; }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};
// The program's own code again, called from within.
class Loud {
 public:
  Loud() { VALGRIND_ENABLE_ERROR_REPORTING; }
  ~Loud() { VALGRIND_DISABLE_ERROR_REPORTING; }
  Loud(const Loud&) = delete;
  Loud& operator=(const Loud&) = delete;
};

inline void hide(const void* at, std::size_t bytes) {
  static_cast<void>(VALGRIND_MAKE_MEM_NOACCESS(at, bytes));
}
inline void undefined(const void* at, std::size_t bytes) {
  static_cast<void>(VALGRIND_MAKE_MEM_UNDEFINED(at, bytes));
}
inline void defined(const void* at, std::size_t bytes) {
  static_cast<void>(VALGRIND_MAKE_MEM_DEFINED(at, bytes));
}
// Reports it where [at, at + bytes) may not be read.
inline void needs(const void* at, std::size_t bytes) {
  static_cast<void>(VALGRIND_CHECK_MEM_IS_ADDRESSABLE(at, bytes));
}
// What is defined of `from` is of `to`, and no more.
inline void copy_state(void* to, const void* from, std::size_t bytes) {
  unsigned char bits[256];
  auto* const target = static_cast<char*>(to);
  const auto* const source = static_cast<const char*>(from);
  for (std::size_t done = 0; done < bytes;) {
    const std::size_t part = bytes - done < sizeof bits ? bytes - done : sizeof bits;
    if (VALGRIND_GET_VBITS(source + done, bits, part) == 1) {
      static_cast<void>(VALGRIND_SET_VBITS(target + done, bits, part));
    }
    done += part;
  }
}

// A pool holds the blocks of one heap: so a report says where a block was allocated and freed, and
// what a heap keeps is not taken for a leak when the pool goes with the heap.
// Up to kPoolEdge behind a block an address is told as that block's. When a block is told of, as
// much before and behind it is hidden: KeepState keeps what others have there.
inline constexpr std::size_t kPoolEdge = 16;
inline void make_pool(const void* pool) { VALGRIND_CREATE_MEMPOOL(pool, kPoolEdge, 0); }
inline void drop_pool(const void* pool) { VALGRIND_DESTROY_MEMPOOL(pool); }
inline void allocated(const void* pool, const void* at, std::size_t bytes) {
  VALGRIND_MEMPOOL_ALLOC(pool, at, bytes);
}
inline void freed(const void* pool, const void* at) { VALGRIND_MEMPOOL_FREE(pool, at); }

class KeepState {
 public:
  explicit KeepState(const std::byte* at) : at_(at) {
    for (std::size_t i = 0; i < kPoolEdge; ++i) {
      if (VALGRIND_GET_VBITS(at_ + i, bits_ + i, 1) == 1) open_ |= 1U << i;
    }
  }
  ~KeepState() {
    for (std::size_t i = 0; i < kPoolEdge; ++i) {
      if ((open_ >> i & 1U) == 0) continue;
      undefined(at_ + i, 1);
      static_cast<void>(VALGRIND_SET_VBITS(at_ + i, bits_ + i, 1));
    }
  }
  KeepState(const KeepState&) = delete;
  KeepState& operator=(const KeepState&) = delete;

 private:
  const std::byte* const at_;
  unsigned open_ = 0;  // a bit for each byte that may be touched
  unsigned char bits_[kPoolEdge] = {};
};

inline void resized(const void* pool, const void* at, std::size_t bytes) {
  VALGRIND_MEMPOOL_CHANGE(pool, at, at, bytes);
}

#else

constexpr bool running() { return false; }

struct Quiet {
  Quiet() {}
  ~Quiet() {}
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};
using Loud = Quiet;

inline void hide(const void*, std::size_t) {}
inline void undefined(const void*, std::size_t) {}
inline void defined(const void*, std::size_t) {}
inline void needs(const void*, std::size_t) {}
inline void copy_state(void*, const void*, std::size_t) {}
inline constexpr std::size_t kPoolEdge = 0;
struct KeepState {
  explicit KeepState(const std::byte*) {}
  ~KeepState() {}
  KeepState(const KeepState&) = delete;
  KeepState& operator=(const KeepState&) = delete;
};
inline void make_pool(const void*) {}
inline void drop_pool(const void*) {}
inline void allocated(const void*, const void*, std::size_t) {}
inline void freed(const void*, const void*) {}
inline void resized(const void*, const void*, std::size_t) {}

#endif

}  // namespace btd::annotate
