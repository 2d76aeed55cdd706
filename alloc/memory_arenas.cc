#include "alloc/memory_arenas.h"

#include <sys/mman.h>

#include <cerrno>

#include "alloc/layout.h"

namespace btd {

MemoryArenas::MemoryArenas(std::byte* base, std::uint64_t arena_bytes, std::uint32_t max_arenas,
                           Domain domain, PersistBackend* backend)
    : base_(base), arena_bytes_(arena_bytes), max_arenas_(max_arenas), persist_(domain, backend) {}

Result<std::unique_ptr<MemoryArenas>> MemoryArenas::create(std::uint64_t arena_bytes,
                                                           std::uint32_t max_arenas, Domain domain,
                                                           PersistBackend* backend) {
  if (arena_bytes == 0 || arena_bytes % kSegmentBytes != 0 || max_arenas == 0) {
    return fail(EINVAL, "An arena must be a multiple of 64 KiB and there must be at least one.");
  }
  void* at = mmap(nullptr, arena_bytes * max_arenas, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED)
    return fail(ENOMEM, "No address space for the arenas; use fewer or smaller.");
  return std::unique_ptr<MemoryArenas>(
      new MemoryArenas(static_cast<std::byte*>(at), arena_bytes, max_arenas, domain, backend));
}

MemoryArenas::~MemoryArenas() { munmap(base_, arena_bytes_ * max_arenas_); }

Status MemoryArenas::extend() {
  if (count_ == max_arenas_) {
    return fail(ENOSPC, "All " + std::to_string(max_arenas_) + " arenas are in use.");
  }
  ++count_;
  return {};
}

}  // namespace btd
