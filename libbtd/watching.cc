#include "libbtd/watching.h"

#include <unistd.h>

#include "libbtd/cluster.h"

namespace btd {

bool frees_watched() {
  const Result<bool> guard = Guard::wanted();
  return guard && *guard;
}

Status start_watching(btd_cluster& cluster, int dirfd) {
  Watching& watching = cluster.watching;
  const bool alone = cluster.heap->alone();
  BTD_ASSIGN(watching.track, Track::open_if_wanted(dirfd, alone));
  // A table that is not kept up would tell of calls that freed blocks came from.
  if (watching.track == nullptr && alone) unlinkat(dirfd, kTrackFile, 0);
  BTD_ASSIGN(const bool guard, Guard::wanted());
  if (guard) watching.guard = Guard::start(*cluster.heap, cluster.name);
  if (watching.track == nullptr && watching.guard == nullptr) return {};
  watching.shut = std::make_unique<Recoverable>(*cluster.heap);
  cluster.recoverable = watching.shut.get();
  return {};
}

void finish_watching(btd_cluster& cluster) {
  if (cluster.watching.guard != nullptr) cluster.watching.guard->finish();
}

void before_reclaim(btd_cluster& cluster) {
  if (cluster.watching.guard != nullptr) cluster.watching.guard->release_waiting();
}

void after_reclaim(btd_cluster& cluster) {
  if (cluster.watching.guard != nullptr) cluster.watching.guard->forget_reclaimed();
}

std::size_t usable_bytes(const btd_cluster& cluster, const Slot& block) {
  const Watching& watching = cluster.watching;
  if (watching.guard != nullptr && block.segment->recoverable()) {
    if (const auto bytes = watching.guard->bytes(block.offset())) return *bytes;
  }
  return block.bytes();
}

bool may_store(const btd_cluster& cluster, Offset at, std::size_t bytes) {
  if (cluster.watching.guard == nullptr) return true;
  const Slot slot = cluster.heap->slot_of(at);
  if (slot.segment == nullptr) return true;
  if (is_kept_by_guard(cluster, slot)) return false;
  const std::uint64_t usable = usable_bytes(cluster, slot);
  const std::uint64_t into = at - slot.offset();
  return into <= usable && bytes <= usable - into;
}

bool is_kept_by_guard(const btd_cluster& cluster, const Slot& block) {
  return cluster.watching.guard != nullptr && block.segment->recoverable() &&
         cluster.watching.guard->waits(block.offset());
}

}  // namespace btd
