// SPDX-License-Identifier: BSD-3-Clause
// What the processes of the soak share besides the heap: an anonymous mapping that its parent made,
// which outlives whoever is killed.
//
// A lane is what one thread of one worker works on: a row of cells in the heap, each NULL or a
// pointer to a record. The model of a row stands here: what was acknowledged of each cell, and the
// intent of the thread, the one call that may be under way. So whoever looks after a kill knows the
// two states that the heap may show. A lane's lock guards its cells and their model; locks are
// taken in the order of the lanes. It is robust: who gets it from a dead one leaves the lane alone
// until the checker has been there.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>

namespace btd::soak {

inline constexpr unsigned kMostWorkers = 4;
inline constexpr unsigned kMostThreads = 3;
inline constexpr unsigned kLanes = kMostWorkers * kMostThreads;
inline constexpr unsigned kCells = 64;
inline constexpr unsigned kRoot = kCells;  // the cell that is a root, of contract R
inline constexpr unsigned kLetters = 64;   // blocks on their way to one worker

// No single step may take longer, however busy the machine is.
inline constexpr int kPatienceSeconds = 20;

// What a cell holds: nothing, a block that was never written, or the record of this sequence.
using State = std::uint64_t;
inline constexpr State kEmpty = 0;
inline constexpr State kUnwritten = 1;

struct Change {
  std::uint32_t lane;
  std::uint32_t cell;
  State before;
  State after;
};

enum class Stage : std::uint32_t {
  kNone,
  kBegun,    // the call may have happened or not
  kReturned  // it has
};

// All of the changes are one call: all of them happened or none.
struct Intent {
  static constexpr unsigned kMost = 6;
  std::atomic<Stage> stage;
  std::uint32_t count;
  std::array<Change, kMost> changes;

  // What was stored before stays before, and what is stored afterwards after: a kill cuts there.
  void enter(Stage next) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    stage.store(next);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
};

struct Lane {
  pthread_mutex_t lock;
  std::atomic<bool> suspect;  // its lock was a dead one's: only the checker may look at it
  std::array<State, kCells + 1> cells;
  Intent intent;                          // of the lane's own thread
  std::atomic<std::uint64_t> sequences;   // given out, over all lives of the worker
  std::atomic<std::uint64_t> operations;  // of the thread, the sign that it goes on
};

struct Common {
  unsigned workers;
  std::uint64_t seed;
  char directory[256];
  std::atomic<bool> stop;  // workers leave
  std::array<Lane, kLanes> lanes;
  // Blocks of contract R that one worker allocated and another frees.
  std::array<std::array<std::atomic<void*>, kLetters>, kMostWorkers> letters;
  // Of the last check alone.
  std::uint64_t mapped_bytes;
  std::uint64_t allocated_bytes;
  std::atomic<bool> reported;
  char report[512];  // the first violation
};

// A worker's number of threads is its own, so that they are not all alike.
constexpr unsigned threads_of(unsigned worker) { return 2 + worker % (kMostThreads - 1); }
constexpr unsigned lane_of(unsigned worker, unsigned thread) {
  return worker * kMostThreads + thread;
}
inline bool used(const Common& common, unsigned lane) {
  const unsigned worker = lane / kMostThreads;
  return worker < common.workers && lane % kMostThreads < threads_of(worker);
}

// Ends the process: something is not as it must be. The first who says so is heard.
[[noreturn, gnu::format(printf, 2, 3)]] inline void violation(Common& common, const char* format,
                                                              ...) {
  if (!common.reported.exchange(true)) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(common.report, sizeof common.report, format, arguments);
    va_end(arguments);
  }
  _exit(1);
}

// The lock of a lane, while it lives.
class Hold {
 public:
  Hold(Common& common, unsigned lane) : lane_(common.lanes.at(lane)) {
    // In short waits: who is killed after it was woken, and before it has the lock, takes the
    // wake-up of all who wait behind it along.
    int error = ETIMEDOUT;
    for (int i = 0; error == ETIMEDOUT && i < kPatienceSeconds * 50; ++i) {
      timespec until{};
      clock_gettime(CLOCK_MONOTONIC, &until);
      until.tv_nsec += 20'000'000;
      if (until.tv_nsec >= 1'000'000'000) {
        until.tv_nsec -= 1'000'000'000;
        ++until.tv_sec;
      }
      error = pthread_mutex_clocklock(&lane_.lock, CLOCK_MONOTONIC, &until);
    }
    if (error == EOWNERDEAD) {
      lane_.suspect = true;
      pthread_mutex_consistent(&lane_.lock);
    } else if (error != 0) {
      violation(common, "lane %u was locked by somebody for %d s", lane, kPatienceSeconds);
    }
  }
  ~Hold() { pthread_mutex_unlock(&lane_.lock); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  [[nodiscard]] bool sound() const { return !lane_.suspect; }

 private:
  Lane& lane_;
};

inline std::string table_name(unsigned worker) { return "table." + std::to_string(worker); }
inline std::string root_name(unsigned lane) { return "root." + std::to_string(lane); }

}  // namespace btd::soak
