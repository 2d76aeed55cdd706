// Every state that a scope allows, breadth first.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "tests/coherence/world.h"

namespace btd::coherence::model {

struct Exploration {
  std::uint64_t states = 0, transitions = 0;
  bool is_complete = false;
  // Empty: none. What is wrong, and the steps that lead there, the fewest possible.
  std::string violation;
  std::vector<Step> trace;
  std::set<std::vector<std::uint8_t>> outcomes;  // of programs: what each node's loads saw

  [[nodiscard]] std::string text() const;
};

// A state from which the protocol alone cannot come to rest is a violation too: a deadlock.
Exploration explore(const Scope& scope, std::uint64_t max_states);

}  // namespace btd::coherence::model
