// One simulated run from one seed: two clients of one server under faults, and what is wrong with
// what they were told. The model knows, for each client, what it posted and in which order.
#pragma once

#include <cstdint>
#include <string>

#include "net/sim/sim_network.h"

namespace btd::net::sim {

struct ScheduleOptions {
  std::uint64_t seed = 0;
  std::uint64_t steps = 40;
  bool forge = false;  // a mutation: the network numbers repeated requests anew
};

struct ScheduleReport {
  std::string violation;  // empty: none
  std::uint64_t completed = 0, failed = 0, connections = 0;
};

ScheduleReport run_schedule(const ScheduleOptions& options);

}  // namespace btd::net::sim
