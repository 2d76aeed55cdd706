// ExtentTree: the free segments of a heap, as runs that coalesce; DRAM only.
//
// Best fit by length, then by place. Runs are keyed by segment id; ids of different arenas are
// never neighbours, so runs do not cross arenas. Not thread-safe: the owner locks.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace btd {

class ExtentTree {
 public:
  // Adds a free run; it joins its neighbours.
  void put(std::uint64_t start, std::uint64_t length) {
    free_ += length;
    auto next = runs_.lower_bound(start);
    if (next != runs_.end() && next->first == start + length) {
      length += next->second;
      by_length_.erase({next->second, next->first});
      next = runs_.erase(next);
    }
    if (next != runs_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second == start) {
        by_length_.erase({before->second, before->first});
        before->second += length;
        by_length_.insert({before->second, before->first});
        return;
      }
    }
    runs_.emplace_hint(next, start, length);
    by_length_.insert({length, start});
  }

  // Takes a run of exactly `length`, from the shortest run that has it.
  std::optional<std::uint64_t> take(std::uint64_t length) {
    auto fit = by_length_.lower_bound({length, 0});
    if (fit == by_length_.end()) return std::nullopt;
    const auto [run, start] = *fit;
    by_length_.erase(fit);
    runs_.erase(start);
    if (run > length) {
      runs_.emplace(start + length, run - length);
      by_length_.insert({run - length, start + length});
    }
    free_ -= length;
    return start;
  }

  // The length of the free run that ends at `end`.
  [[nodiscard]] std::uint64_t ending_at(std::uint64_t end) const {
    const auto next = runs_.lower_bound(end);
    if (next == runs_.begin()) return 0;
    const auto& [start, length] = *std::prev(next);
    return start + length == end ? length : 0;
  }
  [[nodiscard]] std::uint64_t free_segments() const { return free_; }
  [[nodiscard]] std::size_t runs() const { return runs_.size(); }
  [[nodiscard]] std::uint64_t longest() const {
    return by_length_.empty() ? 0 : by_length_.rbegin()->first;
  }

 private:
  std::map<std::uint64_t, std::uint64_t> runs_;  // start -> length
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_length_;
  std::uint64_t free_ = 0;
};

}  // namespace btd
