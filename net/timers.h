// Timers: what an engine does later. The engine's thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "net/types.h"

namespace btd::net {

using TimerId = std::uint64_t;

class Timers {
 public:
  TimerId add(Time when, std::function<void()> task) {
    tasks_.emplace(std::pair{when, next_}, std::move(task));
    times_.emplace(next_, when);
    return next_++;
  }
  // False: it has run, or runs now.
  bool cancel(TimerId id) {
    const auto found = times_.find(id);
    if (found == times_.end()) return false;
    tasks_.erase({found->second, id});
    times_.erase(found);
    return true;
  }
  // Runs what is due; what is added meanwhile has its turn at the next call.
  std::size_t run(Time now) {
    const TimerId end = next_;
    std::size_t count = 0;
    for (auto at = tasks_.begin(); at != tasks_.end() && at->first.first <= now;) {
      if (at->first.second >= end) {
        ++at;
        continue;
      }
      const auto task = std::move(at->second);
      times_.erase(at->first.second);
      tasks_.erase(at);
      task();
      ++count;
      at = tasks_.begin();
    }
    return count;
  }
  [[nodiscard]] Time next() const { return tasks_.empty() ? kNever : tasks_.begin()->first.first; }

 private:
  std::map<std::pair<Time, TimerId>, std::function<void()>> tasks_;
  std::map<TimerId, Time> times_;
  TimerId next_ = 1;
};

}  // namespace btd::net
