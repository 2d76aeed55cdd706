// One long random run from one seed, with more nodes and pages than can be explored.
#pragma once

#include <cstdint>
#include <string>

#include "tests/coherence/world.h"

namespace btd::coherence::model {

struct SimulationReport {
  std::string violation;  // empty: none
  std::uint64_t steps = 0, stores = 0, faults = 0;
};

// At the end nothing more happens around the protocol: it must come to rest, with all stores kept.
SimulationReport simulate(const Scope& scope, std::uint64_t seed, std::uint64_t steps);

}  // namespace btd::coherence::model
