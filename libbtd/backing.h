// The backing file of a file on a mount, from the mount's daemon: a mapping of it may have
// MAP_SYNC, which FUSE never passes on, and says what kind of storage it is on.
//
// Waits kBackingDeadlineMs for the daemon at most. Thread-safety: any thread.
#pragma once

#include "alloc/unique_fd.h"

namespace btd {

inline constexpr int kBackingDeadlineMs = 2000;

// A descriptor with the access that `fd` has; none if `fd` is on no mount of ours, the daemon
// refuses, or it does not answer: then `fd` itself is what there is to map.
UniqueFd backing_of(int fd);

}  // namespace btd
