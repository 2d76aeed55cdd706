// The names that libbtd_malloc.so takes over from the C library. What is served from the heap stays
// on the first lines of each; the rest is out of line in process_heap.cc.
//
// operator new and delete are not among them: libstdc++'s call malloc and free, and throw in a way
// that the program's own copy of it can catch.
#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "libbtd/preload/glibc.h"
#include "libbtd/preload/process_heap.h"

#define BTD_EXPORT __attribute__((visibility("default")))

namespace btd::preload {
namespace {

[[gnu::cold]] void* no_memory() {
  errno = ENOMEM;
  return nullptr;
}

constexpr std::size_t kMostBytes = PTRDIFF_MAX;

// `alignment`: a power of two.
void* allocate_aligned(std::size_t alignment, std::size_t bytes) {
  if (bytes > kMostBytes) return no_memory();
  if (alignment <= alignof(std::max_align_t)) return allocate(bytes);
  return allocate_slowly(bytes, alignment);
}

void* reallocate(void* block, std::size_t bytes) {
  const std::size_t old = usable_size(block, "realloc()");
  // It stays where it is unless that would waste half of it.
  if (bytes <= old && bytes >= old / 2) return block;
  // A large block that grows will grow again: room for an eighth more makes copying cheap.
  const bool ahead = bytes > old && bytes > kMaxSmallBytes && bytes < kMostBytes / 2;
  void* moved = ahead ? allocate(bytes + bytes / 8) : nullptr;
  if (moved == nullptr) moved = allocate(bytes);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, block, std::min(bytes, old));
  free(block);
  return moved;
}

template <class Function>
Function next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

std::size_t page() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace
}  // namespace btd::preload

using namespace btd::preload;  // NOLINT(google-build-using-namespace): this file is their C face

extern "C" {

BTD_EXPORT void* malloc(size_t bytes) {
  if (bytes > kMostBytes) [[unlikely]]
    return no_memory();
  return allocate(bytes);
}

BTD_EXPORT void free(void* block) {
  if (!in_heap(block)) [[unlikely]]
    return __libc_free(block);
  if (btd::Recoverable* const heap = t_thread.serving;
      heap == nullptr || !heap->try_release(offset_of(block))) [[unlikely]] {
    free_slowly(block);
  }
}

BTD_EXPORT void* calloc(size_t count, size_t bytes) {
  size_t sum = 0;
  if (__builtin_mul_overflow(count, bytes, &sum) || sum > kMostBytes) [[unlikely]]
    return no_memory();
  void* const block = allocate(sum);
  if (block != nullptr) [[likely]]
    std::memset(block, 0, sum);
  return block;
}

BTD_EXPORT void* realloc(void* block, size_t bytes) {
  if (block == nullptr) return malloc(bytes);
  if (!in_heap(block)) return __libc_realloc(block, bytes);
  if (bytes == 0) {
    free(block);
    return nullptr;
  }
  return bytes > kMostBytes ? no_memory() : reallocate(block, bytes);
}

BTD_EXPORT void* reallocarray(void* block, size_t count, size_t bytes) {
  size_t sum = 0;
  if (__builtin_mul_overflow(count, bytes, &sum)) return no_memory();
  return realloc(block, sum);
}

BTD_EXPORT int posix_memalign(void** to, size_t alignment, size_t bytes) {
  if (!std::has_single_bit(alignment) || alignment % sizeof(void*) != 0) return EINVAL;
  const int before = errno;
  void* const block = allocate_aligned(alignment, bytes);
  errno = before;
  if (block == nullptr) return ENOMEM;
  *to = block;
  return 0;
}

BTD_EXPORT void* aligned_alloc(size_t alignment, size_t bytes) {
  if (std::has_single_bit(alignment)) return allocate_aligned(alignment, bytes);
  errno = EINVAL;
  return nullptr;
}

BTD_EXPORT void* memalign(size_t alignment, size_t bytes) {
  if (alignment <= SIZE_MAX / 2 + 1) return allocate_aligned(std::bit_ceil(alignment), bytes);
  errno = EINVAL;
  return nullptr;
}

BTD_EXPORT void* valloc(size_t bytes) { return allocate_aligned(page(), bytes); }

BTD_EXPORT void* pvalloc(size_t bytes) {
  if (bytes > kMostBytes) return no_memory();
  return allocate_aligned(page(), (bytes + page() - 1) / page() * page());
}

BTD_EXPORT size_t malloc_usable_size(void* block) {
  if (block == nullptr) return 0;
  if (in_heap(block)) return usable_size(block, "malloc_usable_size()");
  static const auto theirs = next<size_t (*)(void*)>("malloc_usable_size");
  return theirs(block);
}

// Memory of the heap stays reserved; what the C library can give back it gives.
BTD_EXPORT int malloc_trim(size_t pad) {
  static const auto theirs = next<int (*)(size_t)>("malloc_trim");
  return theirs(pad);
}

BTD_EXPORT struct mallinfo2 mallinfo2(void) {
  static const auto theirs = next<struct mallinfo2 (*)()>("mallinfo2");
  struct mallinfo2 info = theirs();
  const Usage heap = usage();
  info.arena += heap.reserved;
  info.uordblks += heap.used;
  info.fordblks += heap.reserved - std::min(heap.used, heap.reserved);
  return info;
}

BTD_EXPORT void cfree(void* block) { free(block); }
}

// What this library's own code, and the C++ library in it, call: --wrap sends them here, so that
// nothing that serves the heap is served by it.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp): the linker chose them.
void* __wrap_malloc(size_t bytes) { return __libc_malloc(bytes); }
void* __wrap_calloc(size_t count, size_t bytes) { return __libc_calloc(count, bytes); }
void* __wrap_realloc(void* block, size_t bytes) { return __libc_realloc(block, bytes); }
void* __wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return __libc_memalign(alignment, bytes);
}
void __wrap_free(void* block) { __libc_free(block); }
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
}
