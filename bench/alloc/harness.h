// harness: what every workload of bench/alloc shares: options, clocks, threads, and the stamps by
// which an object's contents are known again. An allocator is a policy class, inlined into the
// workloads, one program an allocator:
//   Slot                where an object's handle lies: void* or PMEMoid, in DRAM or in the pool
//   slots(n)            an array of such places, all empty; never given back (a process is one run)
//   allocate(slot, n)   an object whose handle is then in the slot; nullptr when it cannot
//   release(slot)       frees that object
//   at(slot)            where the object lies
//   counters()          lines flushed and fences so far, where the allocator can say
//   space()             what its memory takes now
// All policies get the same calls, the same touches of the objects and the same warming up.
#pragma once
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace btd::bench {

struct Options {
  std::string workload;
  std::string dir;  // for pools; made and removed by the caller
  unsigned threads = 1;
  double seconds = 0.3;     // of workloads that repeat
  std::size_t objects = 0;  // 0: as published
  std::size_t bytes = 0;
  std::size_t rounds = 0;
  unsigned gc_threads = 1;
  std::string shape = "tree";  // of what gc marks
  bool verify = false;         // fill objects wholly, and check them before they are freed
  bool needs_space = false;    // the workload asks for space()
  bool many_objects = false;   // millions of live objects
};

inline Options options;

template <class T>
T published(T given, T otherwise) {
  return given != T{} ? given : otherwise;
}

[[noreturn]] inline void fail(const std::string& sentence) {
  std::fprintf(stderr, "alloc bench: %s\n", sentence.c_str());
  std::exit(1);
}

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

// A unit of work is done at least once, so a deadline that is over makes a warming-up.
class Deadline {
 public:
  Deadline() = default;
  explicit Deadline(double seconds)
      : at_(Clock::now() +
            std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))) {}
  bool over() const { return Clock::now() >= at_; }

 private:
  Clock::time_point at_{};
};

struct Counters {
  std::uint64_t lines = 0;
  std::uint64_t fences = 0;
};

struct Space {
  double files = 0;   // bytes that the pool's files occupy (volatile: resident memory)
  double mapped = 0;  // bytes of segments the allocator holds (0: it does not say)
};

// What a run prints. `more` are further figures of a workload, in its own units.
struct Outcome {
  double ops = 0;
  double seconds = 0;
  Counters counted;
  std::vector<std::pair<std::string, double>> more;
};

// Time and counters of the parts of a run that count; one thread.
template <class A>
class Stopwatch {
 public:
  void start() {
    before_ = A::counters();
    at_ = Clock::now();
  }
  void stop(std::uint64_t ops) {
    total_.seconds += seconds_since(at_);
    const Counters now = A::counters();
    total_.counted.lines += now.lines - before_.lines;
    total_.counted.fences += now.fences - before_.fences;
    total_.ops += static_cast<double>(ops);
  }
  const Outcome& total() const { return total_; }

 private:
  Clock::time_point at_;
  Counters before_;
  Outcome total_;
};

// Runs work(state of the thread, deadline) -> operations in `threads` threads at once. Each thread
// prepares its state and warms up with one unit; the time is from the common start to the last
// thread's end of work, so what a thread does when it exits is not in it.
template <class A, class Prepare, class Work>
Outcome measure(unsigned threads, Prepare prepare, Work work) {
  struct alignas(64) Lane {
    std::uint64_t ops = 0;
    Clock::time_point end;
  };
  std::vector<Lane> lanes(threads);
  std::barrier start(static_cast<std::ptrdiff_t>(threads) + 1);
  std::barrier stop(static_cast<std::ptrdiff_t>(threads) + 1);
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      auto state = prepare(i);
      work(state, Deadline());
      start.arrive_and_wait();
      start.arrive_and_wait();
      lanes[i].ops = work(state, Deadline(options.seconds));
      lanes[i].end = Clock::now();
      stop.arrive_and_wait();
    });
  }
  start.arrive_and_wait();  // all are warm
  const Counters before = A::counters();
  const auto begin = Clock::now();
  start.arrive_and_wait();
  stop.arrive_and_wait();
  const Counters after = A::counters();
  for (auto& t : running) t.join();
  Outcome out;
  Clock::time_point end = begin;
  for (const Lane& lane : lanes) {
    out.ops += static_cast<double>(lane.ops);
    end = std::max(end, lane.end);
  }
  out.seconds = std::chrono::duration<double>(end - begin).count();
  out.counted = {.lines = after.lines - before.lines, .fences = after.fences - before.fences};
  return out;
}

class Random {  // splitmix64
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
  }
  std::size_t below(std::size_t n) { return (next() >> 32) * n >> 32; }  // n below 2^32
  std::size_t between(std::size_t low, std::size_t high) { return low + below(high - low + 1); }

 private:
  std::uint64_t state_;
};

// The stamp of an object tells its size and its place, so an object that overlaps another, or that
// was handed out twice, does not pass check().
constexpr std::size_t kLongestBits = 32;

inline std::uint64_t stamp_of(const void* p, std::size_t n) {
  const auto place = reinterpret_cast<std::uintptr_t>(p) * 0x9e3779b97f4a7c15U;
  return (place >> kLongestBits << kLongestBits) | n;
}

// Writes the first and the last word, as a program does with what it has allocated.
inline void stamp(void* p, std::size_t n) {
  const std::uint64_t s = stamp_of(p, n);
  auto* bytes = static_cast<unsigned char*>(p);
  if (options.verify) [[unlikely]] {
    std::memset(bytes, static_cast<int>(s >> 56), n);
  }
  std::memcpy(bytes, &s, sizeof s);
  if (n >= 2 * sizeof s) std::memcpy(bytes + n - sizeof s, &s, sizeof s);
}

inline void check(const void* p) {
  std::uint64_t s = 0;
  const auto* bytes = static_cast<const unsigned char*>(p);
  std::memcpy(&s, bytes, sizeof s);
  const std::size_t n = s & 0xffffffffU;
  bool right = s == stamp_of(p, n);
  if (right && n >= 2 * sizeof s) {
    right = std::memcmp(bytes + n - sizeof s, &s, sizeof s) == 0;
    for (std::size_t i = sizeof s; right && i < n - sizeof s; ++i) {
      right = bytes[i] == static_cast<unsigned char>(s >> 56);
    }
  }
  if (!right) fail("an object's contents are not what was written to it");
}

template <class A>
void* make(typename A::Slot& slot, std::size_t n) {
  void* p = A::allocate(slot, n);
  if (p == nullptr) [[unlikely]] {
    fail("an allocation of " + std::to_string(n) + " bytes failed: " + A::why());
  }
  stamp(p, n);
  return p;
}

template <class A>
void drop(typename A::Slot& slot) {
  if (options.verify) [[unlikely]] {
    check(A::at(slot));
  }
  A::release(slot);
}

// Some workloads end threads on purpose: their objects are left to others.
template <class F>
void in_new_thread(F&& f) {
  std::thread(std::forward<F>(f)).join();
}

}  // namespace btd::bench
