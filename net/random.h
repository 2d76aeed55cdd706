// Random: where the numbers come from that nobody may guess (a region's key, a session's id and
// state). Engines draw them from the system, a simulation from its seed.
#pragma once

#include <cstdint>
#include <functional>

#include "alloc/result.h"

namespace btd::net {

using Random = std::function<std::uint64_t()>;

// The system's. Errors: EIO it has none.
Result<Random> system_random();

// The same numbers for the same seed, to all copies together; some of them give the others away.
// For simulations and tests.
Random seeded_random(std::uint64_t seed);

}  // namespace btd::net
