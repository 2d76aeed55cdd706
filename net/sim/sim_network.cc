#include "net/sim/sim_network.h"

#include <algorithm>

#include "net/sim/sim_engine.h"

namespace btd::net::sim {

SimNetwork::SimNetwork(std::uint64_t seed, const Faults& faults) : random_(seed), faults_(faults) {}

bool SimNetwork::happens(double probability) {
  return probability > 0 && std::uniform_real_distribution<>(0, 1)(random_) < probability;
}

void SimNetwork::partition(std::string_view from, std::string_view to) { cuts_.emplace(from, to); }

void SimNetwork::mend() { cuts_.clear(); }

void SimNetwork::slow(std::string_view node, unsigned factor) { slow_[std::string(node)] = factor; }

void SimNetwork::pause(std::string_view node, bool is_paused) {
  if (is_paused) {
    paused_.emplace(node);
    return;
  }
  paused_.erase(std::string(node));
  for (Event& event : held_) {
    event.time = std::max(event.time, now_);
    events_.push(std::move(event));
  }
  held_.clear();
}

void SimNetwork::join(SimEngine& engine) {
  engine.number_ = next_engine_++;
  engines_.emplace(engine.number_, &engine);
}

void SimNetwork::leave(SimEngine& engine) { engines_.erase(engine.number_); }

SimEngine* SimNetwork::find(std::string_view name) const {
  for (const auto& [number, engine] : engines_)
    if (engine->name() == name) return engine;
  return nullptr;
}

bool SimNetwork::is_cut(const std::string& from, const std::string& to) const {
  return cuts_.contains({from, to});
}

Time SimNetwork::latency(const std::string& to) {
  const auto span = std::max<std::int64_t>((faults_.latency_max - faults_.latency_min).count(), 0);
  const Time time =
      faults_.latency_min + Time(std::uniform_int_distribution<std::int64_t>(0, span)(random_));
  const auto found = slow_.find(to);
  return found == slow_.end() ? time : time * found->second;
}

void SimNetwork::at(Time time, std::uint64_t engine, std::function<void(SimEngine&)> what) {
  events_.push({.time = time, .order = next_order_++, .engine = engine, .what = std::move(what)});
}

bool SimNetwork::run_one(Time until) {
  SimEngine* timer = nullptr;
  Time first = kNever;
  for (const auto& [number, engine] : engines_) {
    if (paused_.contains(engine->name())) continue;
    const Time next = std::max(engine->next_time(), now_);
    if (timer == nullptr || next < first) {
      timer = engine;
      first = next;
    }
  }
  const bool is_event = !events_.empty() && events_.top().time <= first;
  const Time time = is_event ? events_.top().time : first;
  if (time == kNever || time > until) {
    if (until != kNever) now_ = std::max(now_, until);
    return false;
  }
  now_ = std::max(now_, time);
  if (!is_event) {
    timer->step();
    return true;
  }
  Event event = events_.top();
  events_.pop();
  const auto found = engines_.find(event.engine);
  if (found == engines_.end()) return true;
  SimEngine& engine = *found->second;
  if (paused_.contains(engine.name())) {
    held_.push_back(std::move(event));
    return true;
  }
  engine.is_awake_ = true;
  event.what(engine);
  engine.step();
  return true;
}

bool SimNetwork::run_until(const std::function<bool()>& condition, Time within) {
  const Time end = now_ + within;
  while (!condition())
    if (!run_one(end)) return condition();
  return true;
}

}  // namespace btd::net::sim
