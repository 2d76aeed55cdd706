// local: workloads whose objects are freed by the thread that allocated them.
//   threadtest         Hoard's: each thread allocates its share of 100,000 objects, frees all,
//   again shbench            MicroQuill's sh6bench: sizes up by a half and down by halves, freed
//   partly in
//                      order and partly in reverse, a fifth surviving each lap
//   linux-scalability  malloc(512) and free at once
//   fastalloc, alloc_free, alloc_free_alloc   nvm_malloc's: 100,000 objects of 64 bytes
//   lines              allocations into fresh memory only, for what they flush
#pragma once
#include "bench/alloc/harness.h"

namespace btd::bench {

template <class A>
struct Slots {
  std::size_t count;
  typename A::Slot* slots;
  explicit Slots(std::size_t n) : count(n), slots(A::slots(n)) {}
};

// Allocates all and frees all, again and again.
template <class A>
std::uint64_t pairs(Slots<A>& s, std::size_t bytes, Deadline until) {
  std::uint64_t ops = 0;
  do {
    for (std::size_t i = 0; i < s.count; ++i) make<A>(s.slots[i], bytes);
    for (std::size_t i = 0; i < s.count; ++i) drop<A>(s.slots[i]);
    ops += s.count;
  } while (!until.over());
  return ops;
}

template <class A>
Outcome threadtest() {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  const std::size_t share = published(options.objects, std::size_t{100000}) / options.threads;
  return measure<A>(
      options.threads, [&](unsigned) { return Slots<A>(share); },
      [&](Slots<A>& s, Deadline until) { return pairs<A>(s, bytes, until); });
}

// The places of shbench: filled from the beginning to the end, around a window of survivors. At
// each end of a lap the window moves on by a fifth and all else is freed, what lies below it in the
// order of allocation, what lies above it in reverse.
template <class A>
class Lap {
 public:
  explicit Lap(std::size_t n) : n_(n), keep_begin_(n), keep_end_(n), slots_(A::slots(n)) {}

  void add(std::size_t bytes) {
    make<A>(slots_[at_++], bytes);
    if (at_ == keep_begin_) at_ = keep_end_;
    if (at_ >= n_) end_of_lap();
  }

 private:
  void end_of_lap() {
    keep_begin_ = keep_end_ >= n_ ? 0 : keep_end_;
    keep_end_ = std::min(n_, keep_begin_ + n_ / 5);
    for (std::size_t i = 0; i < keep_begin_; ++i) drop<A>(slots_[i]);
    for (std::size_t i = n_; i > keep_end_; --i) drop<A>(slots_[i - 1]);
    at_ = keep_begin_ == 0 ? keep_end_ : 0;
  }

  std::size_t n_;
  std::size_t at_ = 0;
  std::size_t keep_begin_;
  std::size_t keep_end_;
  typename A::Slot* slots_;
};

template <class A>
Outcome shbench() {
  constexpr std::size_t kLeast = 64;
  constexpr std::size_t kMost = 400;
  constexpr std::size_t kSmall = 100;  // sizes below this are allocated five times as often
  const std::size_t calls = published(options.objects, std::size_t{100000}) / options.threads;
  const auto pass = [](Lap<A>& lap) {
    std::uint64_t ops = 0;
    for (std::size_t base = kLeast; base <= kMost; base = base * 3 / 2 + 1) {
      for (std::size_t bytes = base; bytes >= kLeast; bytes /= 2) {
        const std::uint64_t times = bytes < kSmall ? 250 : 50;
        for (std::uint64_t i = 0; i < times; ++i) lap.add(bytes);
        ops += times;
      }
    }
    return ops;
  };
  return measure<A>(
      options.threads, [&](unsigned) { return Lap<A>(calls); },
      [&](Lap<A>& lap, Deadline until) {
        std::uint64_t ops = 0;
        do {
          std::uint64_t in_lap = 0;
          while (in_lap < calls) in_lap += pass(lap);
          ops += in_lap;
        } while (!until.over());
        return ops;
      });
}

template <class A>
Outcome linux_scalability() {
  const std::size_t bytes = published(options.bytes, std::size_t{512});
  const std::size_t batch = published(options.objects, std::size_t{1000000}) / 100;
  return measure<A>(
      options.threads, [](unsigned) { return Slots<A>(1); },
      [&](Slots<A>& s, Deadline until) {
        std::uint64_t ops = 0;
        do {
          for (std::size_t i = 0; i < batch; ++i) {
            make<A>(s.slots[0], bytes);
            drop<A>(s.slots[0]);
          }
          ops += batch;
        } while (!until.over());
        return ops;
      });
}

// nvm_malloc's, in one thread: what is not part of the workload (freeing for the next repetition)
// is not timed. Operations are allocations.
template <class A>
Outcome nvm_malloc_like(bool free_between, bool again) {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  Slots<A> s(published(options.objects, std::size_t{100000}));
  const auto allocate = [&] {
    for (std::size_t i = 0; i < s.count; ++i) make<A>(s.slots[i], bytes);
  };
  const auto release = [&] {
    for (std::size_t i = 0; i < s.count; ++i) drop<A>(s.slots[i]);
  };
  allocate();
  release();
  Stopwatch<A> watch;
  const Deadline until(options.seconds);
  do {
    watch.start();
    allocate();
    if (free_between) release();
    if (again) allocate();
    watch.stop(again ? 2 * s.count : s.count);
    if (!free_between || again) release();
  } while (!until.over());
  return watch.total();
}

template <class A>
Outcome fastalloc() {
  return nvm_malloc_like<A>(false, false);
}
template <class A>
Outcome alloc_free() {
  return nvm_malloc_like<A>(true, false);
}
template <class A>
Outcome alloc_free_alloc() {
  return nvm_malloc_like<A>(true, true);
}

template <class A>
Outcome lines() {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  Slots<A> s(published(options.objects, (std::size_t{512} << 20) / bytes));
  Stopwatch<A> watch;
  watch.start();
  for (std::size_t i = 0; i < s.count; ++i) make<A>(s.slots[i], bytes);
  watch.stop(s.count);
  for (std::size_t i = 0; options.verify && i < s.count; ++i) drop<A>(s.slots[i]);
  return watch.total();
}

}  // namespace btd::bench
