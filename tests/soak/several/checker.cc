// SPDX-License-Identifier: BSD-3-Clause
// Compares the heap with the model. All lanes are locked meanwhile, so the only calls under way are
// those of the dead, and what those had come to must be all of it or nothing.
#include "tests/soak/several/checker.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <vector>

#include "tests/soak/several/heap.h"
#include "tests/soak/several/record.h"

namespace btd::soak {
namespace {

class Checker {
 public:
  Checker(Common& common, btd_cluster* heap) : common_(common), heap_(heap) {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (used(common, lane)) read(lane);
    }
  }

  void run() {
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (used(common_, lane)) settle(lane);
    }
    for (unsigned lane = 0; lane < kLanes; ++lane) {
      if (used(common_, lane)) compare(lane);
    }
    expect_no_block_twice();
  }
  [[nodiscard]] std::uint64_t blocks() const {
    std::uint64_t full = 0;
    for (const auto& row : seen_) {
      full += static_cast<std::uint64_t>(
          std::count_if(row.begin(), row.begin() + kCells, [](void* p) { return p != nullptr; }));
    }
    return full;
  }
  // What is reachable of contract R: the heads of the tables, and the roots' records.
  [[nodiscard]] std::vector<const void*> recoverable() const {
    std::vector<const void*> all;
    for (unsigned worker = 0; worker < common_.workers; ++worker) {
      all.push_back(btd_root(heap_, table_name(worker).c_str()));
    }
    for (const auto& row : seen_) {
      if (row.at(kRoot) != nullptr) all.push_back(row.at(kRoot));
    }
    return all;
  }

 private:
  void read(unsigned lane) {
    auto& seen = seen_.at(lane);
    void** const row = row_of(common_, heap_, lane);
    std::copy(row, row + kCells, seen.begin());
    seen.at(kRoot) = btd_root(heap_, root_name(lane).c_str());
  }
  [[nodiscard]] bool shows(unsigned lane, unsigned cell, State state) const {
    const void* const block = seen_.at(lane).at(cell);
    if (state == kEmpty || block == nullptr) return state == kEmpty && block == nullptr;
    const std::size_t bytes = btd_usable_size(block);
    if (state == kUnwritten) return bytes > 0;
    return bytes >= bytes_of(state) && is_record(block, state);
  }
  template <State Change::* kWhich>
  [[nodiscard]] bool all(const Intent& intent) const {
    const auto* const end = intent.changes.data() + intent.count;
    return std::all_of(intent.changes.data(), end,
                       [&](const Change& c) { return shows(c.lane, c.cell, c.*kWhich); });
  }
  // A call that a kill cut off: it happened or not, and where it had returned, it did.
  void settle(unsigned lane) {
    Intent& intent = common_.lanes.at(lane).intent;
    const Stage stage = intent.stage;
    if (stage == Stage::kNone) return;
    const bool after = all<&Change::after>(intent);
    const bool before = stage == Stage::kBegun && all<&Change::before>(intent);
    if (!after && !before) complain(lane, intent);
    for (std::uint32_t i = 0; i < intent.count; ++i) {
      const Change& c = intent.changes.at(i);
      common_.lanes.at(c.lane).cells.at(c.cell) = after ? c.after : c.before;
    }
    intent.enter(Stage::kNone);
  }
  [[noreturn]] void complain(unsigned lane, const Intent& intent) {
    std::string all_of_it;
    for (std::uint32_t i = 0; i < intent.count; ++i) {
      const Change& c = intent.changes.at(i);
      all_of_it += " [lane " + std::to_string(c.lane) + " cell " + std::to_string(c.cell) + ": " +
                   std::to_string(c.before) + " to " + std::to_string(c.after) + ", found " +
                   found(c.lane, c.cell) + "]";
    }
    violation(common_, "what lane %u was doing is %s:%s", lane,
              intent.stage == Stage::kReturned ? "acknowledged but not all there"
                                               : "neither all there nor not at all",
              all_of_it.c_str());
  }
  [[nodiscard]] std::string found(unsigned lane, unsigned cell) const {
    const void* const block = seen_.at(lane).at(cell);
    if (block == nullptr) return "nothing";
    return btd_usable_size(block) == 0 ? "a pointer to no block" : described(block);
  }
  void compare(unsigned lane) {
    for (unsigned cell = 0; cell <= kCells; ++cell) {
      const State state = common_.lanes.at(lane).cells.at(cell);
      if (shows(lane, cell, state)) continue;
      violation(common_, "lane %u cell %u: acknowledged is sequence %llu, but found %s", lane, cell,
                static_cast<unsigned long long>(state), found(lane, cell).c_str());
    }
  }
  void expect_no_block_twice() {
    std::vector<void*> all;
    for (const auto& row : seen_) all.insert(all.end(), row.begin(), row.end());
    std::erase(all, nullptr);
    std::sort(all.begin(), all.end());
    const auto twice = std::adjacent_find(all.begin(), all.end());
    if (twice != all.end()) violation(common_, "two cells point to the block at %p", *twice);
  }

  Common& common_;
  btd_cluster* heap_;
  std::array<std::array<void*, kCells + 1>, kLanes> seen_{};  // NULL in lanes that are not used
};

void report_problem(const char* sentence, void* common) {
  violation(*static_cast<Common*>(common), "btd_check: %s", sentence);
}
void expect_sound(Common& common, btd_cluster* heap) {
  if (btd_check(heap, report_problem, &common) != 0) {
    violation(common, "btd_check failed: %s", btd_strerror());
  }
}

std::vector<btd_object> objects(Common& common, btd_cluster* heap) {
  std::vector<btd_object> all;
  const auto visit = [](const btd_object* object, void* context) {
    static_cast<std::vector<btd_object>*>(context)->push_back(*object);
    return 0;
  };
  if (btd_foreach(heap, visit, &all) != 0) violation(common, "btd_foreach: %s", btd_strerror());
  return all;
}

void expect_count(Common& common, char contract, std::uint64_t seen, std::uint64_t expected) {
  if (seen == expected) return;
  violation(common, "the heap has %llu blocks of contract %c, but %llu are reached",
            static_cast<unsigned long long>(seen), contract,
            static_cast<unsigned long long>(expected));
}

void expect_transactional(Common& common, btd_cluster* heap, std::uint64_t expected) {
  const auto all = objects(common, heap);
  const auto seen = std::count_if(all.begin(), all.end(),
                                  [](const btd_object& object) { return object.contract == 'T'; });
  expect_count(common, 'T', static_cast<std::uint64_t>(seen), expected);
}

// Whether a word of `holder` points into `block`.
bool points_into(const btd_object& holder, const btd_object& block) {
  const auto start = reinterpret_cast<std::uintptr_t>(block.at);
  const auto* const words = static_cast<const std::uintptr_t*>(holder.at);
  return std::any_of(words, words + holder.bytes / sizeof *words,
                     [&](std::uintptr_t word) { return word - start < block.bytes; });
}

// Marking takes each word of a block without a type for a pointer. So what lies in the rest of a
// block, behind its record, may keep a block alive: a root's that was there before. Nothing else
// may.
void expect_recoverable(Common& common, btd_cluster* heap,
                        const std::vector<const void*>& reached) {
  const auto all = objects(common, heap);
  std::uint64_t seen = 0;
  std::uint64_t kept = 0;
  for (const btd_object& each : all) {
    if (each.contract != 'R') continue;
    ++seen;
    if (std::find(reached.begin(), reached.end(), each.at) != reached.end()) continue;
    const bool held = std::any_of(all.begin(), all.end(), [&](const btd_object& other) {
      return other.at != each.at && points_into(other, each);
    });
    if (held) ++kept;
  }
  if (kept != 0) {
    std::fprintf(stderr, "kept by a stale word only: %llu blocks\n",
                 static_cast<unsigned long long>(kept));
  }
  expect_count(common, 'R', seen - kept, reached.size());
}

btd_statistics statistics(Common& common, btd_cluster* heap) {
  btd_statistics now{};
  if (btd_stats(heap, &now) != 0) violation(common, "btd_stats: %s", btd_strerror());
  return now;
}

// Holding the locks of all lanes.
class AllLocked {
 public:
  explicit AllLocked(Common& common) : common_(common) {
    for (unsigned lane = 0; lane < kLanes; ++lane) locks_.emplace_back(common, lane);
  }
  // What was a dead one's is as the model says by now.
  void clear_suspicion() {
    for (Lane& lane : common_.lanes) lane.suspect = false;
  }

 private:
  Common& common_;
  std::deque<Hold> locks_;
};

}  // namespace

void check_joining(Common& common) {
  btd_cluster* const heap = open_heap(common);
  {
    AllLocked locked(common);
    Checker(common, heap).run();
    locked.clear_suspicion();
  }
  close_heap(common, heap);
}

void check_alone(Common& common) {
  // What was only in DRAM is gone, or goes now.
  for (auto& box : common.letters) {
    for (auto& letter : box) letter = nullptr;
  }
  btd_cluster* heap = open_heap(common);
  {
    AllLocked locked(common);
    Checker checker(common, heap);
    checker.run();
    locked.clear_suspicion();
    expect_sound(common, heap);
    expect_transactional(common, heap, common.workers + checker.blocks());
    if (btd_gc(heap) != 0) violation(common, "btd_gc: %s", btd_strerror());
    expect_recoverable(common, heap, checker.recoverable());
    expect_sound(common, heap);
    Checker(common, heap).run();
  }
  const btd_statistics now = statistics(common, heap);
  common.mapped_bytes = now.mapped_bytes;
  common.allocated_bytes = now.allocated_bytes;
  close_heap(common, heap);
  heap = open_heap(common);
  if (statistics(common, heap).was_clean == 0) violation(common, "the heap was closed, not clean");
  close_heap(common, heap);
}

}  // namespace btd::soak
