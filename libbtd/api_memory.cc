// The C calls of contract R: malloc and its kin. What succeeds stays on the first few lines of
// each; what fails, is large or is rare is out of line.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "alloc/recoverable.h"
#include "alloc/size_class.h"
#include "libbtd/cluster.h"
#include "libbtd/text.h"

namespace btd {
namespace {

constexpr std::size_t kMaxAlignment = kSegmentBytes;
constexpr const char* kOverrun =
    "The block was written to behind its end, as standard error was told; it stays allocated.";

// Arguments that fit registers, so that the fast path needs no frame.
[[gnu::noinline]] void* allocate_slowly(btd_cluster* cluster, std::size_t bytes, const void* caller,
                                        std::uint8_t type = kTypeUntyped,
                                        std::size_t alignment = 1) {
  if (!usable(cluster)) return nullptr;
  return guarded(static_cast<void*>(nullptr), [&] {
    return allocated(cluster, bytes, caller, [&](std::size_t size) {
      Guard* const guard = cluster->watching.guard.get();
      if (guard != nullptr) [[unlikely]]
        return guard->allocate(
            {.bytes = size, .alignment = alignment, .type = type, .caller = caller});
      if (alignment > 1) size = aligned_bytes(alignment, size);
      return cluster->heap->allocate(size, type);
    });
  });
}

// The fast path; null where that is not enough.
[[gnu::always_inline]] inline void* try_allocate(btd_cluster* cluster, std::size_t bytes) {
  if (cluster == nullptr || cluster->recoverable == nullptr) [[unlikely]]
    return nullptr;
  const Offset block = cluster->recoverable->try_allocate(bytes);
  return block != 0 ? cluster->base + block : nullptr;
}

// Inline, so that the address which the C call returns to is read, and on the slow path only.
[[gnu::always_inline]] inline void* allocate(btd_cluster* cluster, std::size_t bytes) {
  if (void* const block = try_allocate(cluster, bytes)) [[likely]]
    return block;
  return allocate_slowly(cluster, bytes, __builtin_return_address(0));
}

// What is wrong with a pointer that should be freed, told once for each kind on standard error: the
// caller has no result to look at.
enum class Misuse : std::uint8_t {
  kForeign,
  kInterior,
  kNotAllocated,
  kContract,
  kInherited,
  kUnrecovered,
};

[[gnu::cold, gnu::noinline]] void complain(Misuse kind, int code, const std::string& sentence) {
  static std::atomic<unsigned> told{0};
  set_error(code, sentence);
  const unsigned bit = 1U << static_cast<unsigned>(kind);
  if (secure_getenv("BTD_QUIET") != nullptr || (told.fetch_or(bit) & bit) != 0) return;
  const std::string line = "libbtd: " + sentence + "\n";
  [[maybe_unused]] const ssize_t put = write(STDERR_FILENO, line.data(), line.size());
  errno = code;
}

[[gnu::cold, gnu::noinline]] void explain(const void* block) {
  btd_cluster* const cluster = cluster_of(block);
  if (cluster == nullptr) {
    const Error error = foreign(block);
    const Misuse kind = error.code == EINVAL ? Misuse::kForeign : Misuse::kInherited;
    return complain(kind, error.code, error.message + " It was not freed.");
  }
  const std::string at = address_text(block);
  const Slot found = cluster->heap->block_of(cluster->offset_of(block));
  if (found.segment == nullptr || is_kept_by_guard(*cluster, found)) {
    return complain(Misuse::kNotAllocated, EINVAL,
                    at + " is not allocated: it was freed before, or never was a block.");
  }
  if (cluster->offset_of(block) != found.offset()) {
    return complain(Misuse::kInterior, EINVAL,
                    at + " points inside the block at " +
                        address_text(cluster->base + found.offset()) + "; free it by its start.");
  }
  complain(Misuse::kContract, EINVAL,
           at + " is a block of contract P or T: free it by btd_free_from(), btd_publish() or "
                "btd_tx_free().");
}

// The guard, where there is one, takes what it gave. Errors: EUCLEAN it was overrun, which was
// told; else as Heap::release().
Status release(btd_cluster& cluster, Offset at, const void* caller) {
  Guard* const guard = cluster.watching.guard.get();
  if (guard != nullptr) {
    switch (guard->free(at, caller)) {
      case Guard::Freed::kTaken:
        return {};
      case Guard::Freed::kDamaged:
        return fail(EUCLEAN, kOverrun);
      case Guard::Freed::kTwice:
        return fail(EINVAL);
      case Guard::Freed::kNotGuarded:
        break;
    }
  }
  Status freed = cluster.heap->release(at);
  if (!freed && freed.error().code == EBUSY && recovered(&cluster))
    freed = cluster.heap->release(at);
  return freed;
}

void free_for(btd_cluster* cluster, void* block, const void* caller) {
  if (block == nullptr) return;
  guarded(0, [&] {
    if (cluster == nullptr) {
      explain(block);
      return 0;
    }
    const Offset at = cluster->offset_of(block);
    Memcheck* const memcheck = cluster->watching.memcheck.get();
    PendingFrees pending;
    pending.add(memcheck, at);
    const Status freed = release(*cluster, at, caller);
    if (freed) {
      pending.done(memcheck);
    } else if (freed.error().code == EUCLEAN) {
      set_error(freed.error());
    } else if (freed.error().code == EBUSY) {
      complain(Misuse::kUnrecovered, EBUSY,
               "What was allocated before the last unclean stop can be freed after btd_gc().");
    } else {
      explain(block);
    }
    return 0;
  });
}

// btd_free() jumps here, so it is its caller that this returns to. It does not hand the address
// over itself: the fast path would need a frame for that.
[[gnu::noinline]] void free_slowly(btd_cluster* cluster, void* block) {
  free_for(cluster, block, __builtin_return_address(0));
}

// The block of contract R that starts at `block`; the error is set where there is none.
Slot recoverable_block(const void* block) {
  const btd_cluster* const cluster = cluster_of(block);
  if (cluster != nullptr) {
    const Offset at = cluster->offset_of(block);
    const Slot found = cluster->heap->block_of(at);
    if (found.segment != nullptr && found.offset() == at && found.segment->recoverable() &&
        !is_kept_by_guard(*cluster, found))
      return found;
  }
  explain(block);
  return {};
}

void* reallocate(btd_cluster* cluster, void* block, std::size_t bytes, const void* caller) {
  const Slot old = recoverable_block(block);
  if (old.segment == nullptr) return nullptr;
  if (cluster_of(block) != cluster) {
    return no_block(EINVAL, "The block is of another heap than the handle; pass that heap's.");
  }
  Guard* const guard = cluster->watching.guard.get();
  if (guard != nullptr && !guard->intact(old.offset())) return no_block(EUCLEAN, kOverrun);
  // It stays where it is unless that would waste half of it.
  if (bytes <= old.bytes() && bytes >= old.bytes() / 2 &&
      (guard == nullptr || guard->resize(old.offset(), bytes))) {
    Memcheck* const memcheck = cluster->watching.memcheck.get();
    if (memcheck != nullptr) memcheck->resized(old.offset(), bytes);
    return block;
  }
  void* moved = try_allocate(cluster, bytes);
  if (moved == nullptr) moved = allocate_slowly(cluster, bytes, caller);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, block, std::min<std::size_t>(bytes, usable_bytes(*cluster, old)));
  if (guard != nullptr) {
    free_for(cluster, block, caller);
  } else {
    btd_free(block);
  }
  return moved;
}

}  // namespace
}  // namespace btd

extern "C" {

void* btd_malloc(struct btd_cluster* cluster, size_t bytes) {
  return btd::allocate(cluster, bytes);
}

void* btd_calloc(struct btd_cluster* cluster, size_t count, size_t bytes) {
  std::size_t sum = 0;
  if (__builtin_mul_overflow(count, bytes, &sum)) [[unlikely]] {
    return btd::no_block(EOVERFLOW, "The product of count and size is larger than any memory.");
  }
  void* const block = btd::allocate(cluster, sum);
  if (block != nullptr) [[likely]]
    std::memset(block, 0, sum);
  return block;
}

void* btd_realloc(struct btd_cluster* cluster, void* block, size_t bytes) {
  const void* const caller = __builtin_return_address(0);
  if (block == nullptr) return btd::allocate(cluster, bytes);
  if (!btd::usable(cluster)) return nullptr;
  if (bytes == 0) {
    btd_free(block);
    return nullptr;
  }
  return btd::guarded(static_cast<void*>(nullptr),
                      [&] { return btd::reallocate(cluster, block, bytes, caller); });
}

void* btd_aligned_alloc(struct btd_cluster* cluster, size_t alignment, size_t bytes) {
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > btd::kMaxAlignment) {
    return btd::no_block(EINVAL, "An alignment is a power of two of at most 64 KiB.");
  }
  if (void* const block = btd::try_allocate(cluster, btd::aligned_bytes(alignment, bytes)))
      [[likely]]
    return block;
  return btd::allocate_slowly(cluster, bytes, __builtin_return_address(0), btd::kTypeUntyped,
                              alignment);
}

void btd_free(void* block) {
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(block) - btd::kRegion;
  if (at < btd::kRegionBytes && btd::g_cells != nullptr) [[likely]] {
    const std::uint64_t cell = btd::g_cells[at >> btd::kCellShift].load(std::memory_order_acquire);
    if (btd::Recoverable::try_release(cell, at & (btd::kWindowBytes - 1))) [[likely]]
      return;
  }
  btd::free_slowly(btd::cluster_of(block), block);
}

size_t btd_usable_size(const void* block) {
  return btd::guarded(std::size_t{0}, [&]() -> std::size_t {
    const btd_cluster* const cluster = btd::cluster_of(block);
    if (cluster == nullptr) {
      btd::set_error(btd::foreign(block));
      return 0;
    }
    const btd::Offset at = cluster->offset_of(block);
    const btd::Result<std::uint64_t> bytes = cluster->heap->block_bytes(at);
    const btd::Slot found = cluster->heap->slot_of(at);
    if (bytes && !btd::is_kept_by_guard(*cluster, found)) return btd::usable_bytes(*cluster, found);
    btd::set_error(bytes ? btd::Error{.code = EINVAL, .message = "The block was freed."}
                         : bytes.error());
    return 0;
  });
}

int btd_register_type(struct btd_cluster* cluster, unsigned type, size_t bytes,
                      const uint64_t* pointers) {
  if (!btd::usable(cluster)) return -1;
  if (type < 2 || type > 255 || bytes == 0 || bytes % 8 != 0 || bytes > btd::kMaxTypeBytes ||
      pointers == nullptr) {
    return btd::failed(EINVAL,
                       "A type has a number of 2 to 255, objects of a multiple of 8 bytes up to "
                       "4096, and a bitmap of its pointers.");
  }
  return btd::guarded(-1, [&] {
    btd::TypeRecord layout{.bytes = bytes};
    const std::size_t words = bytes / 8;
    for (std::size_t i = 0; i < words; ++i) {
      layout.pointers.at(i / 64) |= pointers[i / 64] & std::uint64_t{1} << (i % 64);
    }
    return btd::to_int(cluster->names->register_type(type, layout));
  });
}

void* btd_malloc_typed(struct btd_cluster* cluster, size_t bytes, unsigned type) {
  if (!btd::usable(cluster)) return nullptr;
  if (type > BTD_TYPE_NO_POINTERS && !cluster->names->has_type(type)) {
    return btd::no_block(EINVAL, "The type is not registered; call btd_register_type() first.");
  }
  return btd::allocate_slowly(cluster, bytes, __builtin_return_address(0),
                              static_cast<std::uint8_t>(type));
}

}  // extern "C"
