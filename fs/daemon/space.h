// Reservation of space: the calls that keep a mapped store from dying for want of room.
// Pure functions over a descriptor of a backing file; no state.
#pragma once

#include <sys/types.h>

#include "alloc/result.h"

namespace btd::space {

// A file whose space is reserved is at most so large: what a heap's offsets reach.
inline constexpr off_t kMaxReservedBytes = off_t{1} << 48;

// Sets the size. Growth reserves its space first, unless `sparse`; on ENOSPC and
// EFBIG nothing has changed.
Status resize(int fd, off_t size, bool sparse);

// fallocate(2) as far as the file system has it; PUNCH_HOLE and ZERO_RANGE are emulated where it
// has not. Errors: EOPNOTSUPP for other modes; ENOSPC; EFBIG.
Status allocate(int fd, int mode, off_t offset, off_t length);

// Fills the holes of a file whose blocks are fewer than its size needs. Errors: ENOSPC.
Status fill_holes(int fd);

}  // namespace btd::space
