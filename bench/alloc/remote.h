// remote: workloads whose objects are freed by other threads than those that allocated them.
//   larson        a server: each thread replaces random objects of its 1,000 (64 to 400 bytes), and
//                 after a while leaves them to a new thread. Published are 10,000 rounds of 1,000
//                 before that; here 100, as in mimalloc-bench, so that a short visit has successors
//   prod-con      pairs of threads: one allocates and writes 64 bytes, the other frees
//   xmalloc-test  pairs of threads that share batches of 4,096 objects of 64 bytes
//   mstress       threads that keep a part of what they allocate, exchange a part, and end
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

#include "bench/alloc/local.h"

namespace btd::bench {

template <class A>
Outcome larson() {
  constexpr std::size_t kLeast = 64;
  constexpr std::size_t kMost = 400;
  constexpr std::uint64_t kSeed = 123;
  constexpr std::uint64_t kLook = 1000;  // operations from one look at the clock to the next
  const std::size_t objects = published(options.objects, std::size_t{1000});
  const std::size_t life = published(options.rounds, std::size_t{100}) * objects;
  struct State {
    Slots<A> s;
    Random random;
  };
  return measure<A>(
      options.threads,
      [&](unsigned i) {
        State state{Slots<A>(objects), Random(kSeed + i)};
        for (std::size_t k = 0; k < objects; ++k) {
          make<A>(state.s.slots[k], state.random.between(kLeast, kMost));
        }
        return state;
      },
      [&](State& state, Deadline until) {
        std::uint64_t ops = 0;
        do {
          in_new_thread([&] {
            for (std::uint64_t lived = 0; lived < life;) {
              for (std::uint64_t k = 0; k < kLook; ++k) {
                auto& slot = state.s.slots[state.random.below(objects)];
                drop<A>(slot);
                make<A>(slot, state.random.between(kLeast, kMost));
              }
              lived += kLook;
              ops += kLook;
              if (until.over()) break;
            }
          });
        } while (!until.over());
        return ops;
      });
}

inline void relax(unsigned& spins) {
  if (++spins % 256 == 0) {
    std::this_thread::yield();
  } else {
    __builtin_ia32_pause();
  }
}

// One pair's bounded queue: the producer allocates into its places, the consumer frees from them.
template <class A>
struct Ring {
  static constexpr std::size_t kPlaces = 4096;
  typename A::Slot* slots = A::slots(kPlaces);
  alignas(64) std::atomic<std::uint64_t> made{0};
  alignas(64) std::atomic<std::uint64_t> taken{0};
  alignas(64) std::atomic<std::uint64_t> runs_made{0};  // by the producer; the first is the warm-up
};

template <class A>
std::uint64_t produce(Ring<A>& ring, std::size_t bytes, Deadline until) {
  constexpr std::uint64_t kLook = 256;  // also the longest step in which progress is not shown
  std::uint64_t made = ring.made.load(std::memory_order_relaxed);
  do {
    for (std::uint64_t i = 0; i < kLook; ++i, ++made) {
      unsigned spins = 0;
      while (made - ring.taken.load(std::memory_order_acquire) == Ring<A>::kPlaces) relax(spins);
      void* p = make<A>(ring.slots[made % Ring<A>::kPlaces], bytes);
      if (!options.verify) std::memset(p, 7, bytes);  // as published, all of it is written
      ring.made.store(made + 1, std::memory_order_release);
    }
  } while (!until.over());
  ring.runs_made.fetch_add(1, std::memory_order_release);
  return 0;  // the consumer counts
}

template <class A>
std::uint64_t consume(Ring<A>& ring, std::uint64_t run) {
  std::uint64_t ops = 0;
  std::uint64_t taken = ring.taken.load(std::memory_order_relaxed);
  for (unsigned spins = 0;;) {
    const bool last = ring.runs_made.load(std::memory_order_acquire) == run;
    const std::uint64_t made = ring.made.load(std::memory_order_acquire);
    if (made == taken) {
      if (last) return ops;
      relax(spins);
      continue;
    }
    for (; taken != made; ++ops) {
      drop<A>(ring.slots[taken % Ring<A>::kPlaces]);
      ring.taken.store(++taken, std::memory_order_release);
    }
  }
}

template <class A>
Outcome prod_con() {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  const unsigned pairs = std::max(1U, options.threads / 2);
  std::vector<std::unique_ptr<Ring<A>>> rings;
  for (unsigned i = 0; i < pairs; ++i) rings.push_back(std::make_unique<Ring<A>>());
  struct State {
    unsigned thread;
    std::uint64_t run;
  };
  return measure<A>(
      2 * pairs, [](unsigned i) { return State{i, 0}; },
      [&](State& state, Deadline until) {
        Ring<A>& ring = *rings[state.thread / 2];
        return state.thread % 2 == 0 ? produce<A>(ring, bytes, until)
                                     : consume<A>(ring, ++state.run);
      });
}

// Batches on their way from those who allocate to those who free, and empty ones on their way back.
template <class A>
class Exchange {
 public:
  static constexpr std::size_t kBatch = 4096;
  explicit Exchange(std::size_t batches) {
    for (std::size_t i = 0; i < batches; ++i) empty_.push_back(A::slots(kBatch));
  }
  typename A::Slot* take_empty() {
    return take(empty_, [] { return false; });
  }
  // nullptr: all producers have finished run `run`, and nothing is left.
  typename A::Slot* take_full(std::uint64_t finished) {
    return take(full_, [&] { return finished_ == finished; });
  }
  void put_empty(typename A::Slot* batch) { put(empty_, batch); }
  void put_full(typename A::Slot* batch) { put(full_, batch); }
  void finish() {
    const std::lock_guard hold(lock_);
    ++finished_;
    changed_.notify_all();
  }

 private:
  using Queue = std::deque<typename A::Slot*>;
  template <class Over>
  typename A::Slot* take(Queue& from, Over over) {
    std::unique_lock hold(lock_);
    changed_.wait(hold, [&] { return !from.empty() || over(); });
    if (from.empty()) return nullptr;
    auto* batch = from.front();
    from.pop_front();
    return batch;
  }
  void put(Queue& to, typename A::Slot* batch) {
    const std::lock_guard hold(lock_);
    to.push_back(batch);
    changed_.notify_all();
  }

  std::mutex lock_;
  std::condition_variable changed_;
  Queue empty_, full_;
  std::uint64_t finished_ = 0;
};

template <class A>
Outcome xmalloc_test() {
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  const unsigned pairs = std::max(1U, options.threads / 2);
  Exchange<A> exchange(std::size_t{8} * pairs);
  struct State {
    unsigned thread;
    std::uint64_t run;
  };
  return measure<A>(
      2 * pairs, [](unsigned i) { return State{i, 0}; },
      [&](State& state, Deadline until) {
        std::uint64_t ops = 0;
        if (state.thread % 2 == 0) {
          do {
            auto* batch = exchange.take_empty();
            for (std::size_t i = 0; i < Exchange<A>::kBatch; ++i) make<A>(batch[i], bytes);
            exchange.put_full(batch);
          } while (!until.over());
          exchange.finish();
          return ops;
        }
        ++state.run;
        while (auto* batch = exchange.take_full(state.run * pairs)) {
          for (std::size_t i = 0; i < Exchange<A>::kBatch; ++i) drop<A>(batch[i]);
          exchange.put_empty(batch);
          ops += Exchange<A>::kBatch;
        }
        return ops;
      });
}

// mstress moves handles between threads, so it needs slots that lie in DRAM.
template <class A>
class Transfers {
 public:
  static constexpr std::size_t kPlaces = 1000;
  // A place holds the handle of an object or none; its flag guards it.
  void exchange(std::size_t i, typename A::Slot& slot, bool& filled) {
    Place& place = places_[i];
    while (place.busy.test_and_set(std::memory_order_acquire)) __builtin_ia32_pause();
    std::swap(place.slot, slot);
    std::swap(place.filled, filled);
    place.busy.clear(std::memory_order_release);
  }

 private:
  struct Place {
    std::atomic_flag busy;
    bool filled = false;
    typename A::Slot slot{};
  };
  std::vector<Place> places_{kPlaces};
};

// The life of one thread of mstress; returns how many objects it allocated. Half of its objects are
// retained to the end; after each allocation one of the others is freed with a chance of 66 in a
// hundred, and one exchanged with the threads' common places with a chance of 25.
template <class A>
std::uint64_t mstress_life(Transfers<A>& transfers, Random& random, std::size_t allocations) {
  struct Held {
    typename A::Slot slot{};
    bool filled = false;
  };
  std::vector<Held> held;
  std::vector<Held> retained;
  std::uint64_t ops = 0;
  const auto add = [&](std::vector<Held>& to, unsigned shifts) {
    std::size_t words = std::size_t{1} << random.below(shifts);
    if (random.below(100) == 0) words *= 100;
    to.push_back({.filled = true});
    make<A>(to.back().slot, 8 * words);
    ++ops;
  };
  const auto remove = [](Held& one) {
    if (one.filled) drop<A>(one.slot);
    one.filled = false;
  };
  std::size_t retain = allocations / 2;
  while (allocations + retain > 0) {
    if (retain == 0 || (allocations > 0 && random.below(100) < 50)) {
      --allocations;
      add(held, 5);
    } else {
      --retain;
      add(retained, 7);
    }
    if (!held.empty() && random.below(100) < 66) remove(held[random.below(held.size())]);
    if (!held.empty() && random.below(100) < 25) {
      Held& one = held[random.below(held.size())];
      transfers.exchange(random.below(Transfers<A>::kPlaces), one.slot, one.filled);
    }
  }
  for (Held& one : retained) remove(one);
  for (Held& one : held) remove(one);
  return ops;
}

template <class A>
Outcome mstress() {
  const std::size_t allocations = 100 * published(options.objects, std::size_t{50});
  Transfers<A> transfers;
  Outcome out = measure<A>(
      options.threads, [](unsigned i) { return Random(43 * (i + 1)); },
      [&](Random& random, Deadline until) {
        std::uint64_t ops = 0;
        do {
          in_new_thread([&] { ops += mstress_life<A>(transfers, random, allocations); });
        } while (!until.over());
        return ops;
      });
  for (std::size_t i = 0; i < Transfers<A>::kPlaces; ++i) {
    typename A::Slot slot{};
    bool filled = false;
    transfers.exchange(i, slot, filled);
    if (filled) drop<A>(slot);
  }
  return out;
}

}  // namespace btd::bench
