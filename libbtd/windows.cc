#include "libbtd/windows.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "alloc/annotate.h"
#include "libbtd/text.h"

namespace btd {

constinit std::atomic<btd_cluster*> g_windows[kWindows] = {};
constinit std::atomic<btd_cluster*> g_readers[kWindows] = {};
constinit std::atomic<std::uint32_t> g_inherited{0};
constinit std::atomic<std::uint64_t>* g_cells = nullptr;

namespace {

// What the kernel lists as mapped in [from, to): the first of it, for a message.
std::string what_lies_in(std::uintptr_t from, std::uintptr_t to) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    int name = 0;
    if (std::sscanf(line.c_str(), "%zx-%zx %*s %*s %*s %*s %n", &begin, &end, &name) < 2) continue;
    if (begin >= to || end <= from) continue;
    const std::string what = line.substr(std::min(line.size(), static_cast<std::size_t>(name)));
    return (what.empty() ? "anonymous memory" : what) + " at " + hex(begin);
  }
  return "something that /proc/self/maps does not show";
}

}  // namespace

unsigned window_of_gib(std::uint32_t gib) {
  for (unsigned window = 0; window < kWindows; ++window) {
    if (window_gib(window) == gib) return window;
  }
  return kWindows;
}

// Pages come as segments do; what is reserved costs nothing.
Status reserve_cells() {
  // Memcheck would look for leaks in all of them; every call takes the long way there.
  if (g_cells != nullptr || annotate::running()) return {};
  void* const at = mmap(nullptr, (kWindows + 1) * kWindowCells * sizeof(std::uint64_t),
                        PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    return fail(ENOMEM,
                "There is no address space for the tables of heaps; raise the limit (ulimit -v).");
  }
  g_cells = static_cast<std::atomic<std::uint64_t>*>(at);
  return {};
}

void forget_cells(unsigned window) {
  if (g_cells == nullptr) return;
  madvise(g_cells + window * kWindowCells, kWindowCells * sizeof(*g_cells), MADV_DONTNEED);
}

// Memcheck writes down each 64 KiB of what is reserved, seconds for a window: so only as much as
// small heaps need. It gives nobody else's mapping such an address.
static std::uint64_t reserved_bytes() {
  constexpr std::uint64_t kUnderMemcheck = std::uint64_t{4} << 30;
  return annotate::running() ? std::min(kUnderMemcheck, kWindowBytes) : kWindowBytes;
}

Status reserve_window(unsigned window) {
  BTD_TRY(reserve_cells());
  std::byte* const base = window_base(window);
  void* const at = mmap(base, reserved_bytes(), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  const int code = errno;
  if (at == base) {
    // A child gets none of it: it must not write to a heap that its parent uses.
    madvise(at, reserved_bytes(), MADV_DONTFORK);
    return {};
  }
  const auto from = reinterpret_cast<std::uintptr_t>(base);
  // A kernel that does not know MAP_FIXED_NOREPLACE maps elsewhere.
  if (at != MAP_FAILED) munmap(at, reserved_bytes());
  if (at != MAP_FAILED || code == EEXIST) {
    return fail(EADDRINUSE, "The heap belongs at " + hex(from) + ", where this process has " +
                                what_lies_in(from, from + kWindowBytes) +
                                "; close or move that, and open the heap again.");
  }
  return fail(code, "The heap's address window at " + hex(from) + " cannot be reserved (" +
                        strerrordesc_np(code) + "); raise the limit on address space (ulimit -v).");
}

void release_window(unsigned window, std::uint64_t mapped) {
  munmap(window_base(window), std::max(reserved_bytes(), mapped));
}

}  // namespace btd
