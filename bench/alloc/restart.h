// restart: workloads of two processes, run one after the other in one pool directory.
//   fill      a structure of live objects, linked from a root; then this process kills itself
//   hold      the same, then it says "ready" and goes on allocating and freeing until its standard
//             input ends: the pool is copied meanwhile
//   reopen    the time from opening to the first allocation; then it kills itself, so that the next
//             one finds an unclean heap too
//   gc        (libbtd) the time to mark and sweep, after a fill
//   recovery  nvm_malloc's, in one process: 10 times (a named root, 1,000 nodes, 1,000 payloads of
//             256 bytes), closed, and the time to open again
// A policy brings fill_live(), count_live(), open(), close() and first_allocation().
#pragma once
#include <poll.h>
#include <unistd.h>

#include <csignal>

#include "bench/alloc/durable.h"

namespace btd::bench {

[[noreturn]] inline void die_at_once() {
  std::fflush(nullptr);
  kill(getpid(), SIGKILL);
  std::abort();
}

template <class A>
Outcome fill() {
  const std::size_t objects = published(options.objects, std::size_t{8000000});
  const auto began = Clock::now();
  A::fill_live(objects);
  Outcome out;
  out.ops = static_cast<double>(objects);
  out.seconds = seconds_since(began);
  return out;  // main() prints, then kills
}

template <class A>
Outcome hold() {
  const std::size_t objects = published(options.objects, std::size_t{1000000});
  A::fill_live(objects);
  Slots<A> s(1000);
  for (std::size_t i = 0; i < s.count; ++i) make<A>(s.slots[i], 64);
  std::puts("ready");
  std::fflush(stdout);
  Outcome out;
  const auto began = Clock::now();
  Random random(1);
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  do {
    for (int i = 0; i < 1000; ++i) {
      auto& slot = s.slots[random.below(s.count)];
      drop<A>(slot);
      make<A>(slot, random.between(64, 400));
    }
    out.ops += 1000;
  } while (poll(&input, 1, 0) == 0);
  out.seconds = seconds_since(began);
  return out;
}

template <class A>
Outcome reopen() {
  Outcome out;
  const auto began = Clock::now();
  A::open(false);
  A::first_allocation();
  out.seconds = seconds_since(began);
  out.ops = 1;
  out.more = {{"open_ms", 1e3 * out.seconds}};
  A::wait_for_roots();
  out.more.emplace_back("root_ms", 1e3 * seconds_since(began));
  if (options.verify) {
    const std::size_t live = A::count_live();
    if (live < published(options.objects, std::size_t{8000000})) {
      fail("after the restart " + std::to_string(live) + " objects were found");
    }
    out.more.emplace_back("live", static_cast<double>(live));
  }
  return out;
}

template <class A>
Outcome recovery() {
  constexpr std::size_t kNodes = 1000;
  constexpr std::size_t kPayload = 256;
  const std::size_t roots = published(options.rounds, std::size_t{10});
  for (std::size_t i = 0; i < roots; ++i) {
    typename A::Slot* at = A::named_slot(i);
    for (std::size_t k = 0; k < kNodes; ++k) {
      auto* node = static_cast<Node<A>*>(link<A>(*at, Node<A>::kBytes));
      node->number = k;
      std::memset(link<A>(node->payload, kPayload), 5, kPayload);
      at = &node->next;
    }
  }
  Outcome out;
  for (const Deadline until(options.seconds); out.ops < 3 || !until.over(); out.ops += 1) {
    A::close();
    const auto began = Clock::now();
    A::open(false);
    out.seconds += seconds_since(began);
  }
  for (std::size_t i = 0; i < roots; ++i) {
    const auto* node = static_cast<Node<A>*>(A::at(*A::named_slot(i)));
    for (std::size_t k = 0; k < kNodes; ++k) {
      if (node->number != k) fail("after the restart a list is not what was linked");
      if (k + 1 < kNodes) node = static_cast<Node<A>*>(A::at(node->next));
    }
  }
  out.more = {{"open_ms", 1e3 * out.seconds / out.ops}};
  return out;
}

}  // namespace btd::bench
