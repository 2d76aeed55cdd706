#include "libbtd/watching.h"

#include <unistd.h>

#include "alloc/annotate.h"
#include "libbtd/cluster.h"

namespace btd {

bool frees_watched() {
  const Result<bool> guard = Guard::wanted();
  return annotate::running() || (guard && *guard);
}

Status start_watching(btd_cluster& cluster, int dirfd) {
  Watching& watching = cluster.watching;
  const bool alone = cluster.heap->alone();
  BTD_ASSIGN(watching.track, Track::open_if_wanted(dirfd, alone));
  // A table that is not kept up would tell of calls that freed blocks came from.
  if (watching.track == nullptr && alone) unlinkat(dirfd, kTrackFile, 0);
  BTD_ASSIGN(const bool guard, Guard::wanted());
  if (guard) watching.guard = Guard::start(*cluster.heap, cluster.name);
  watching.memcheck = Memcheck::start_if_running(*cluster.files, *cluster.heap);
  if (watching.track == nullptr && watching.guard == nullptr && watching.memcheck == nullptr)
    return {};
  watching.shut = std::make_unique<Recoverable>(*cluster.heap);
  cluster.recoverable = watching.shut.get();
  return {};
}

void watch_old_blocks(btd_cluster& cluster) {
  if (cluster.watching.memcheck == nullptr) return;
  static_cast<void>(cluster.recovery.wait());  // it fails for who asks for old blocks
  cluster.watching.memcheck->adopt();
}

void watch_others(btd_cluster& cluster) {
  const annotate::Quiet quiet;
  cluster.watching.memcheck->look_at_others();
}

void finish_watching(btd_cluster& cluster) {
  const annotate::Quiet quiet;
  if (cluster.watching.guard != nullptr) cluster.watching.guard->finish();
  cluster.watching.memcheck.reset();
}

void before_reclaim(btd_cluster& cluster) {
  if (cluster.watching.guard != nullptr) cluster.watching.guard->release_waiting();
}

void after_reclaim(btd_cluster& cluster) {
  if (cluster.watching.guard != nullptr) cluster.watching.guard->forget_reclaimed();
  if (cluster.watching.memcheck != nullptr) cluster.watching.memcheck->forget_reclaimed();
}

std::size_t usable_bytes(const btd_cluster& cluster, const Slot& block) {
  const Watching& watching = cluster.watching;
  if (watching.guard != nullptr && block.segment->recoverable()) {
    if (const auto bytes = watching.guard->bytes(block.offset())) return *bytes;
  }
  if (watching.memcheck != nullptr) {
    if (const auto bytes = watching.memcheck->bytes(block.offset())) return *bytes;
  }
  return block.bytes();
}

bool may_store(const btd_cluster& cluster, Offset at, std::size_t bytes) {
  if (cluster.watching.guard == nullptr && cluster.watching.memcheck == nullptr) return true;
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
