#include "tests/coherence/explore.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <utility>

namespace btd::coherence::model {
namespace {

// Number of each state by the hash of its bytes. Two states with one hash of 64 bits would pass for
// one: with ten million states that is a chance of one in a hundred thousand.
class Numbers {
 public:
  Numbers() : slots_(1 << 16) {}

  // The number of `hash`, and whether it is new.
  std::pair<std::uint32_t, bool> insert(std::uint64_t hash) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& slot = find(hash);
    if (slot.number != 0) return {slot.number - 1, false};
    slot = {hash, ++count_};
    return {count_ - 1, true};
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t number = 0;  // plus one; 0: free
  };
  Slot& find(std::uint64_t hash) {
    for (std::size_t at = hash & (slots_.size() - 1);; at = (at + 1) & (slots_.size() - 1))
      if (slots_[at].number == 0 || slots_[at].hash == hash) return slots_[at];
  }
  void grow() {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots_.size() * 2));
    for (const Slot& slot : old)
      if (slot.number != 0) find(slot.hash) = slot;
  }
  std::vector<Slot> slots_;
  std::uint32_t count_ = 0;
};

struct Origin {
  std::uint32_t parent = 0;
  Step step;
};

struct Edge {
  std::uint32_t to = 0, from = 0;
};

class Explorer {
 public:
  Explorer(const Scope& scope, std::uint64_t max_states) : scope_(scope), max_(max_states) {}

  Exploration run() {
    World first(scope_);
    visit(std::move(first), 0, {});
    while (!frontier_.empty() && out_.violation.empty() && out_.states < max_) {
      const World world = std::move(frontier_.front());
      frontier_.pop_front();
      expand(world, next_++);
    }
    out_.is_complete = frontier_.empty();
    if (out_.is_complete && out_.violation.empty()) find_deadlock();
    return std::move(out_);
  }

 private:
  void expand(const World& world, std::uint32_t number) {
    steps_.clear();
    world.protocol_steps(steps_);
    world.environment_steps(steps_);
    for (const Step& step : steps_) {
      World next = world;
      next.take(step);
      ++out_.transitions;
      const std::uint32_t to = visit(std::move(next), number, step);
      if (is_protocol(step)) edges_.push_back({to, number});
      if (!out_.violation.empty()) return;
    }
  }

  std::uint32_t visit(World world, std::uint32_t parent, const Step& step) {
    world.normalise();
    const auto [number, is_new] = numbers_.insert(std::hash<std::string>{}(world.encode()));
    if (!is_new) return number;
    ++out_.states;
    origins_.push_back({parent, step});
    is_quiet_.push_back(world.is_quiet());
    if (!world.violation().empty()) found(world.violation(), number);
    if (!scope_.programs.empty() && world.is_program_done()) {
      std::vector<std::uint8_t> outcome;
      for (std::size_t n = 0; n < scope_.nodes; ++n) outcome.push_back(world.node(n).loaded);
      out_.outcomes.insert(outcome);
    }
    frontier_.push_back(std::move(world));
    return number;
  }

  void found(const std::string& what, std::uint32_t number) {
    if (!out_.violation.empty()) return;
    out_.violation = what;
    for (; number != 0; number = origins_[number].parent)
      out_.trace.push_back(origins_[number].step);
    std::reverse(out_.trace.begin(), out_.trace.end());
  }

  // Back from the states at rest over the protocol's steps: who is not met cannot come to rest.
  void find_deadlock() {
    std::sort(edges_.begin(), edges_.end(), [](Edge a, Edge b) { return a.to < b.to; });
    std::vector<bool> rests = is_quiet_;
    std::vector<std::uint32_t> todo;
    for (std::uint32_t i = 0; i < rests.size(); ++i)
      if (rests[i]) todo.push_back(i);
    while (!todo.empty()) {
      const std::uint32_t to = todo.back();
      todo.pop_back();
      auto at = std::lower_bound(edges_.begin(), edges_.end(), to,
                                 [](Edge edge, std::uint32_t node) { return edge.to < node; });
      for (; at != edges_.end() && at->to == to; ++at) {
        if (rests[at->from]) continue;
        rests[at->from] = true;
        todo.push_back(at->from);
      }
    }
    const auto stuck = std::find(rests.begin(), rests.end(), false);
    if (stuck != rests.end()) found("deadlock", static_cast<std::uint32_t>(stuck - rests.begin()));
  }

  const Scope& scope_;
  const std::uint64_t max_;
  Exploration out_;
  Numbers numbers_;
  std::deque<World> frontier_;
  std::uint32_t next_ = 0;  // the number of the frontier's first
  std::vector<Origin> origins_;
  std::vector<bool> is_quiet_;
  std::vector<Edge> edges_;
  std::vector<Step> steps_;
};

}  // namespace

Exploration explore(const Scope& scope, std::uint64_t max_states) {
  return Explorer(scope, max_states).run();
}

std::string Exploration::text() const {
  std::string all = violation + " after " + std::to_string(trace.size()) + " steps:\n";
  for (const Step& step : trace) all += "  " + model::text(step) + "\n";
  return all;
}

}  // namespace btd::coherence::model
