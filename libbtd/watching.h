// Watching: what looks at each call, where that is asked for: the table of call sites (BTD_TRACK),
// the guard (BTD_GUARD), and Memcheck.
//
// Each is null where it is not wanted. With any of them the fast paths of the heap are shut, so
// that every call takes the long way, which asks for them; without, the fast paths are the same
// instructions. Thread-safety: as each of them; start and finish under the lock of opens.
#pragma once

#include <cstddef>
#include <memory>

#include "libbtd/guard.h"
#include "libbtd/memcheck.h"
#include "libbtd/track.h"

struct btd_cluster;

namespace btd {

struct Watching {
  std::unique_ptr<Track> track;
  std::unique_ptr<Memcheck> memcheck;
  std::unique_ptr<Guard> guard;
  std::unique_ptr<Recoverable> shut;  // its fast paths say no to everything; null: nobody looks
};

// Frees are to take the long way too: their cells are not where the fast path looks.
[[nodiscard]] bool frees_watched();
// Errors: EINVAL a variable of the environment is wrong; what the table's file met.
Status start_watching(btd_cluster& cluster, int dirfd);
// The heap is recovered, or is not going to be before the program says so.
void watch_old_blocks(btd_cluster& cluster);
// Where Memcheck listens: other processes may have allocated meanwhile.
void watch_others(btd_cluster& cluster);
// The heap is about to be closed: nobody uses it.
void finish_watching(btd_cluster& cluster);
// Around a collection.
void before_reclaim(btd_cluster& cluster);
void after_reclaim(btd_cluster& cluster);

// How much of the block the program may use: what it asked for, where that is known.
[[nodiscard]] std::size_t usable_bytes(const btd_cluster& cluster, const Slot& block);
// [at, at + bytes) lies in what usable_bytes() says of one block; true too where the heap is to
// say.
[[nodiscard]] bool may_store(const btd_cluster& cluster, Offset at, std::size_t bytes);
// The block was freed by the program, and only the guard keeps it.
[[nodiscard]] bool is_kept_by_guard(const btd_cluster& cluster, const Slot& block);

}  // namespace btd
