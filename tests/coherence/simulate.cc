#include "tests/coherence/simulate.h"

#include <random>

namespace btd::coherence::model {
namespace {

using Kind = Step::Kind;

constexpr std::uint64_t kRestWithin = 100'000;  // steps of the protocol alone

// Faults and stores are what programs do most; a node is cut off in few runs.
constexpr Kind kUsual[] = {Kind::kFault,      Kind::kFault,          Kind::kStore,
                           Kind::kStore,      Kind::kFault,          Kind::kStore,
                           Kind::kReclaim,    Kind::kWriteback,      Kind::kDirectWrite,
                           Kind::kDirectRead, Kind::kInvalidateBusy, Kind::kRefuseStore,
                           Kind::kAcceptLoss, Kind::kOpenWrite};
constexpr Kind kSeldom[] = {Kind::kMmap,  Kind::kResize, Kind::kOpenRead,
                            Kind::kClose, Kind::kClose,  Kind::kCut};

class Simulation {
 public:
  Simulation(const Scope& scope, std::uint64_t seed)
      : scope_(scope), random_(seed), world_(scope) {}

  SimulationReport run(std::uint64_t steps) {
    // Each run has a few hot pages and a mood of its own: how much happens around the protocol.
    hot_ = 1 + below(scope_.pages);
    const std::uint64_t mood = 10 + below(50);
    while (report_.steps < steps && world_.violation().empty())
      if (below(100) >= mood || !environment()) protocol();
    for (std::uint64_t i = 0; i < kRestWithin && world_.violation().empty(); ++i)
      if (world_.is_quiet() || !protocol()) break;
    report_.violation = world_.violation();
    if (report_.violation.empty() && !world_.is_quiet()) report_.violation = "deadlock";
    return report_;
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  void take(const Step& step) {
    ++report_.steps;
    report_.stores += step.kind == Kind::kStore ? 1 : 0;
    report_.faults += step.kind == Kind::kFault ? 1 : 0;
    world_.now += Time{below(20'000)};
    world_.take(step);
  }

  bool environment() {
    const bool is_seldom = below(50) == 0;
    Step step{
        .kind = is_seldom ? kSeldom[below(std::size(kSeldom))] : kUsual[below(std::size(kUsual))],
        .node = static_cast<std::uint8_t>(below(scope_.nodes)),
        .at = static_cast<std::uint8_t>(below(hot_))};
    if (step.kind == Kind::kOpenRead || step.kind == Kind::kOpenWrite || step.kind == Kind::kClose)
      step.at = static_cast<std::uint8_t>(below(scope_.openers));
    if (step.kind == Kind::kResize) step.at = static_cast<std::uint8_t>(1 + below(scope_.pages));
    if (step.kind == Kind::kCut && below(10) != 0) return false;
    if (!world_.is_enabled(step)) return false;
    take(step);
    return true;
  }

  bool protocol() {
    steps_.clear();
    world_.protocol_steps(steps_);
    if (steps_.empty()) return false;
    take(steps_[below(steps_.size())]);
    return true;
  }

  const Scope& scope_;
  std::mt19937_64 random_;
  World world_;
  std::uint64_t hot_ = 1;
  std::vector<Step> steps_;
  SimulationReport report_;
};

}  // namespace

SimulationReport simulate(const Scope& scope, std::uint64_t seed, std::uint64_t steps) {
  return Simulation(scope, seed).run(steps);
}

}  // namespace btd::coherence::model
