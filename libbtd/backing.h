// The backing file of a file on a mount, from the mount's daemon: a mapping of it may have
// MAP_SYNC, which FUSE never passes on, and says what kind of storage it is on.
//
// Waits kBackingDeadlineMs for the daemon at most. Thread-safety: any thread.
#pragma once

#include <sys/un.h>

#include <optional>

#include "alloc/unique_fd.h"

namespace btd {

inline constexpr int kBackingDeadlineMs = 2000;

// The daemon's socket, the same for all files of a mount; none if `fd` is on no mount of ours.
std::optional<sockaddr_un> backing_socket_of(int fd);
// A descriptor with the access that `fd` has; none if the daemon refuses or does not answer: then
// `fd` itself is what there is to map.
UniqueFd backing_of(int fd, const sockaddr_un& address);

}  // namespace btd
