// SimNetwork: nodes, links and time of a simulation, in one thread and from one seed: the same
// seed, the same run. Its links have latency, and faults on purpose: streams that are cut at any
// byte, or frames that are lost, repeated and reordered; one-way and two-way partitions; slow
// nodes; crashes.
//
// Ownership: the engines belong to whoever made them (net/sim/sim_engine.h), and must end before
// the network. Destroying an engine is its node's crash: nobody is told.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "net/types.h"

namespace btd::net::sim {

class SimEngine;

struct Faults {
  Time latency_min = std::chrono::microseconds(5);
  Time latency_max = std::chrono::microseconds(20);
  // Of a stream: how probable it is that a piece of it cuts the link, at a byte within.
  double cut = 0;
  // One side may not be told of a cut, and find out by silence.
  double cut_in_silence = 0;
  // Of frames, if `may_lose`: links then lose, repeat and delay them.
  bool may_lose = false;
  double loss = 0, repeat = 0, delay = 0;
  Time delay_max = std::chrono::milliseconds(5);
  // For a test of tests: a request that is repeated gets a number of its own.
  bool forge = false;
};

class SimNetwork {
 public:
  SimNetwork(std::uint64_t seed, const Faults& faults);
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  [[nodiscard]] Time now() const { return now_; }
  [[nodiscard]] const Faults& faults() const { return faults_; }
  [[nodiscard]] std::mt19937_64& random() { return random_; }
  [[nodiscard]] bool happens(double probability);

  // What `from` sends to `to` is lost, until mended.
  void partition(std::string_view from, std::string_view to);
  void mend();
  // Everything that reaches the node takes so many times as long.
  void slow(std::string_view node, unsigned factor);

  // A node that is stopped, as by SIGSTOP: it does nothing, and what reaches it waits.
  void pause(std::string_view node, bool is_paused);

  // Does the next thing that is due, at its time, `until` at most. False: nothing was due.
  bool run_one(Time until = kNever);
  // Until `condition` holds; false if it does not by then.
  bool run_until(const std::function<bool()>& condition, Time within);

 private:
  friend class SimEngine;

  void join(SimEngine& engine);
  void leave(SimEngine& engine);
  [[nodiscard]] SimEngine* find(std::string_view name) const;
  [[nodiscard]] bool is_cut(const std::string& from, const std::string& to) const;
  [[nodiscard]] Time latency(const std::string& to);
  // Runs `what` at a time, if the engine is still there.
  void at(Time time, std::uint64_t engine, std::function<void(SimEngine&)> what);

  struct Event {
    Time time;
    std::uint64_t order;
    std::uint64_t engine;
    std::function<void(SimEngine&)> what;
    bool operator>(const Event& other) const {
      return std::pair{time, order} > std::pair{other.time, other.order};
    }
  };

  std::mt19937_64 random_;
  Faults faults_;
  Time now_ = std::chrono::seconds(1);
  std::uint64_t next_order_ = 0, next_engine_ = 1;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::map<std::uint64_t, SimEngine*> engines_;  // by a number that is never used again
  std::set<std::pair<std::string, std::string>> cuts_;
  std::map<std::string, unsigned, std::less<>> slow_;
  std::set<std::string, std::less<>> paused_;
  std::vector<Event> held_;  // of those who are paused
};

}  // namespace btd::net::sim
