// btd_cluster: an open heap of this process, as the C calls see it.
//
// Opens and closes are one at a time, under one lock; all else goes straight to the heap. The first
// two fields are all that allocation reads. Where calls are watched (watching.h), the first is an
// engine that serves nothing, so that each call takes the long way; the fast one stays as it is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>

#include "alloc/heap.h"
#include "alloc/recoverable.h"
#include "libbtd/error.h"
#include "libbtd/heap_files.h"
#include "libbtd/include/bartender.h"
#include "libbtd/names.h"
#include "libbtd/placement.h"
#include "libbtd/recovery.h"
#include "libbtd/watching.h"
#include "libbtd/windows.h"

struct btd_cluster {
  btd::Recoverable* recoverable = nullptr;  // of the heap, or a shut one; null where the heap is
  std::byte* base = nullptr;
  btd::Heap* heap = nullptr;  // null: closed, or the parent process's

  unsigned references = 0;
  std::string name;  // directory/heap, for messages
  dev_t device = 0;  // of the heap's directory: whether it is open already
  ino_t inode = 0;
  std::unique_ptr<btd::HeapFiles> files;
  std::unique_ptr<btd::Heap> owned;
  std::unique_ptr<btd::Names> names;
  btd::Watching watching;
  btd::Recovery recovery;  // gone before what it works on
  unsigned gc_threads = 0;
  btd::Persist::Counters at_open;

  [[nodiscard]] btd::Offset offset_of(const void* at) const {
    return static_cast<btd::Offset>(static_cast<const std::byte*>(at) - base);
  }
  [[nodiscard]] bool holds(const void* at, std::size_t bytes) const {
    const btd::annotate::Quiet quiet;  // it reads the heap's header
    return at >= base && heap->contains(offset_of(at), bytes);
  }
};

namespace btd {

// Opens the heap or counts one more user of it.
Result<btd_cluster*> open_cluster(const Settings& settings);
// One user less; the last one closes it. Errors: EBUSY, EIO.
Status close_cluster(btd_cluster* cluster);
// Keeps what roots and blocks of P and T reach. Nobody else uses the heap meanwhile.
Status reclaim(btd_cluster& cluster);

// The heap in which [at, at + bytes) lies, if it is open to be read only; else null.
[[nodiscard]] btd_cluster* reader_of(const void* at, std::size_t bytes);
// Whether the handle is of such a one.
[[nodiscard]] bool is_reader(const btd_cluster* cluster);

// Why a call cannot serve `cluster`: EINVAL null or closed, EOWNERDEAD after a fork, EROFS.
[[gnu::cold]] Error unusable(const btd_cluster* cluster);
// Why cluster_of(at) was null.
[[gnu::cold]] Error foreign(const void* at);

// The handle's heap is there; else the error is set.
[[nodiscard]] inline bool usable(const btd_cluster* cluster) {
  if (cluster != nullptr && cluster->heap != nullptr) [[likely]]
    return true;
  set_error(unusable(cluster));
  return false;
}
// The same, and what the heap held before it was opened may be reached: recovery is over.
[[nodiscard]] inline bool recovered(btd_cluster* cluster) {
  if (!usable(cluster)) return false;
  const Status done = cluster->recovery.wait();
  if (cluster->watching.memcheck != nullptr) [[unlikely]]
    watch_others(*cluster);
  if (done) return true;
  set_error(done.error());
  return false;
}
// The block that take(bytes) gives; null and the error set where it gives none. It is recorded as
// that of the call which returns to `caller`, if calls are. 0 bytes ask for a distinct block.
template <class Take>
void* allocated(btd_cluster* cluster, std::size_t bytes, const void* caller, Take&& take) {
  if (bytes > kWindowBytes)
    return no_block(ENOSPC, "A block of " + std::to_string(bytes) + " bytes fits no heap.");
  bytes = std::max<std::size_t>(bytes, 1);
  const Result<Offset> block = take(bytes);
  if (!block) return no_block(block.error());
  const Watching& watching = cluster->watching;
  if (watching.track != nullptr) watching.track->note(*block, caller);
  if (watching.memcheck != nullptr)
    watching.memcheck->allocated(cluster->heap->slot_of(*block), bytes);
  return cluster->base + *block;
}
// The heap in whose arenas [at, at + bytes) lies; else null and the error is set.
[[nodiscard]] btd_cluster* cluster_holding(const void* at, std::size_t bytes);

}  // namespace btd
