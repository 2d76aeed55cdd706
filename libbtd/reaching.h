// Reaching: memory of a heap that another node added since this process opened the heap.
//
// Arenas of other nodes are mapped when the library meets them. What a program touches by itself
// it maps by btd_map(), or lets the handler of faults do that, which is there only when asked for.
// Thread-safety: any thread.
#pragma once

#include <cstddef>

#include "alloc/result.h"

struct btd_cluster;

namespace btd {

// Has [at, at + bytes) mapped, as far as it is the heap's. Errors: why the node it lies on does not
// give it.
Status reach(btd_cluster& cluster, const void* at, std::size_t bytes);

// From now on the first touch of such an arena maps it. What is no such touch goes to the handler
// that the program had before. For good; again, it does nothing. Errors: those of sigaction(2).
Status map_on_touch();

}  // namespace btd
