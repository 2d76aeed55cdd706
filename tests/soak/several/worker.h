// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "tests/soak/several/shared.h"

namespace btd::soak {

// The life of a worker: joins the heap, lets its threads run random operations until it is told to
// stop, or killed, and leaves.
void work(Common& common, unsigned worker, std::uint64_t life);

}  // namespace btd::soak
