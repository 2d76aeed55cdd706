// Windows: where heaps lie in address space, and which heap a pointer belongs to.
//
// Sixteen equal windows far from what the kernel and the sanitizers use. A heap keeps its window
// for life, so its pointers stay true, and the heap of a pointer is found by a shift.
// Thread-safety: lookups from any thread; a window is taken and left under the lock of libbtd's
// opens (cluster.cc).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "alloc/result.h"

struct btd_cluster;

namespace btd {

// What may be mapped where is fixed by each sanitizer: ThreadSanitizer leaves the first 512 GiB,
// MemorySanitizer the 15 TiB from 0x510000000000. AddressSanitizer leaves nearly everything.
#if defined(__SANITIZE_THREAD__)
inline constexpr std::uintptr_t kRegion = 0x10'0000'0000;
inline constexpr unsigned kWindowShift = 34;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr std::uintptr_t kRegion = 0x10'0000'0000;
inline constexpr unsigned kWindowShift = 34;
#elif __has_feature(memory_sanitizer)
inline constexpr std::uintptr_t kRegion = 0x5200'0000'0000;
inline constexpr unsigned kWindowShift = 36;
#else
inline constexpr std::uintptr_t kRegion = 0x2000'0000'0000;
inline constexpr unsigned kWindowShift = 40;
#endif
#else
inline constexpr std::uintptr_t kRegion = 0x2000'0000'0000;
inline constexpr unsigned kWindowShift = 40;
#endif
inline constexpr unsigned kWindows = 16;
// Behind the windows of heaps that have a name: where libbtd_malloc.so puts a process's own heap.
inline constexpr unsigned kPrivateWindow = kWindows;
inline constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << kWindowShift;
static_assert(kRegion % (std::uint64_t{1} << 30) == 0 && kWindowShift > 30);

inline constexpr std::uint64_t kRegionBytes = (kWindows + 1) * kWindowBytes;
// The tables of all heaps, one behind the other: a cell for each 64 KiB of the region, so that a
// free finds its segment by one load. Null before the first heap.
extern constinit std::atomic<std::uint64_t>* g_cells;
inline constexpr unsigned kCellShift = 16;
inline constexpr std::uint64_t kWindowCells = kWindowBytes >> kCellShift;
// Makes room for them. Errors: ENOMEM.
Status reserve_cells();

// In a child after fork: the tables of its parent's heap in this window are not its own.
void forget_cells(unsigned window);

// The open heap of each window.
extern constinit std::atomic<btd_cluster*> g_windows[kWindows];
// Of each window, a heap that is open to be read only: no pointer into it is any other call's.
extern constinit std::atomic<btd_cluster*> g_readers[kWindows];
// Bit i: this process was forked while its parent had a heap in window i.
extern constinit std::atomic<std::uint32_t> g_inherited;

[[nodiscard]] inline std::uintptr_t window_of(const void* at) {
  return (reinterpret_cast<std::uintptr_t>(at) - kRegion) >> kWindowShift;
}
// The open heap whose window holds `at`, or null.
[[nodiscard]] inline btd_cluster* cluster_of(const void* at) {
  const std::uintptr_t window = window_of(at);
  return window < kWindows ? g_windows[window].load(std::memory_order_acquire) : nullptr;
}
[[nodiscard]] inline std::byte* window_base(unsigned window) {
  return reinterpret_cast<std::byte*>(kRegion + (std::uintptr_t{window} << kWindowShift));
}
// What a heap's identity says of its window, and back; kWindows where it is none of ours.
[[nodiscard]] inline std::uint32_t window_gib(unsigned window) {
  return static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(window_base(window)) >> 30);
}
[[nodiscard]] unsigned window_of_gib(std::uint32_t gib);

// Reserves a window's addresses without access. Errors: EADDRINUSE naming what lies there; ENOMEM.
Status reserve_window(unsigned window);
// Also of what was mapped there, which may be more than was reserved: see windows.cc.
void release_window(unsigned window, std::uint64_t mapped = 0);

}  // namespace btd
