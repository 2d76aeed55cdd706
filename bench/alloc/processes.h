// processes: workloads whose actors are processes, which this one forks.
//   oneproc      one process allocates and frees pairs of 64 bytes: what the others compare with
//   twoproc      two processes do that in one pool
//   twoproc-own  two processes, each in a pool of its own
// The parent has no pool open. Each process opens, warms up and waits for the others; all then work
// for the time given, and none closes its pool before all have worked.
#pragma once
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <new>

#include "bench/alloc/local.h"

namespace btd::bench {

// What the processes share besides a pool.
struct Meeting {
  static constexpr unsigned kMost = 2;
  struct alignas(64) Seat {
    std::uint64_t ops;
    Clock::time_point begin;  // the clock is the machine's, the same for all
    Clock::time_point end;
    Counters counted;
  };
  std::atomic<unsigned> opened;
  std::atomic<unsigned> warm;
  std::atomic<unsigned> done;
  Seat seats[kMost];

  static Meeting& make() {
    void* at =
        mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail("no memory can be shared");
    return *new (at) Meeting{};
  }
  // The parent kills those who would wait in vain.
  static void wait_for(const std::atomic<unsigned>& arrived, unsigned all) {
    while (arrived.load() < all) sched_yield();
  }
};

template <class A>
void take_part(Meeting& meeting, unsigned seat, unsigned processes) {
  Meeting::wait_for(meeting.opened, seat);  // one after the other
  A::open(true);
  ++meeting.opened;
  const std::size_t bytes = published(options.bytes, std::size_t{64});
  Slots<A> slots(std::min(published(options.objects, std::size_t{64}), std::size_t{4096}));
  pairs<A>(slots, bytes, Deadline());
  ++meeting.warm;
  Meeting::wait_for(meeting.warm, processes);
  Meeting::Seat& mine = meeting.seats[seat];
  const Counters before = A::counters();
  mine.begin = Clock::now();
  mine.ops = pairs<A>(slots, bytes, Deadline(options.seconds));
  mine.end = Clock::now();
  const Counters after = A::counters();
  mine.counted = {.lines = after.lines - before.lines, .fences = after.fences - before.fences};
  ++meeting.done;
  Meeting::wait_for(meeting.done, processes);
  A::close();
}

// Ends with the first that fails: the others would wait for it.
inline void wait_for_all(const std::vector<pid_t>& children) {
  for (std::size_t i = 0; i < children.size(); ++i) {
    int status = 0;
    if (wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    for (const pid_t each : children) kill(each, SIGKILL);
    while (wait(nullptr) > 0) continue;
    fail("a process of several failed");
  }
}

enum class Pools { kOne, kOwn };

template <class A>
Outcome processes(unsigned count, Pools pools) {
  Meeting& meeting = Meeting::make();
  std::vector<pid_t> children;
  for (unsigned seat = 0; seat < count; ++seat) {
    std::fflush(nullptr);
    children.push_back(fork());
    if (children.back() < 0) fail("no process can be made");
    if (children.back() > 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (pools == Pools::kOwn) {
      options.dir += "/" + std::to_string(seat);
      std::filesystem::create_directory(options.dir);
    }
    take_part<A>(meeting, seat, count);
    std::fflush(nullptr);
    _exit(0);
  }
  wait_for_all(children);
  Outcome out;
  Clock::time_point begin = meeting.seats[0].begin;
  Clock::time_point end = meeting.seats[0].end;
  for (unsigned seat = 0; seat < count; ++seat) {
    const Meeting::Seat& each = meeting.seats[seat];
    out.ops += static_cast<double>(each.ops);
    out.counted.lines += each.counted.lines;
    out.counted.fences += each.counted.fences;
    begin = std::min(begin, each.begin);
    end = std::max(end, each.end);
  }
  out.seconds = std::chrono::duration<double>(end - begin).count();
  out.more = {{"processes", static_cast<double>(count)}};
  return out;
}

}  // namespace btd::bench
