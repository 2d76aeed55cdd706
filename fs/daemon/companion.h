// Companion: when the leader shares a processor with the one thread that keeps it busy.
//
// A client that waits for each answer and a server on two processors wake each other across them:
// 30 to 60 us on a virtual machine, many times what a request takes. On one processor they take
// turns without a wake-up, but the scheduler does not leave them there: it puts whoever wakes on an
// idle processor. So while one thread asks alone, the leader keeps to that thread's processor and
// counts as idle (SCHED_IDLE) there. Whoever counts as idle may starve, so a guard looks at it
// every millisecond while this lasts, and ends it if the leader does not get on.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>

namespace btd {

// What the last requests say, and nothing else. Used by one leader at a time.
class CompanionPolicy {
 public:
  static constexpr unsigned kStreak = 64;             // requests of one thread, closely spaced
  static constexpr std::uint64_t kCloseNs = 500'000;  // from one request to the next
  static constexpr unsigned kLookAgain = 64;          // requests until its processor is looked up
  enum class Advice {
    kApart,   // nothing to gain
    kBeside,  // as it is
    kMove,    // look where the thread runs, and go there
  };

  // A request of `thread` came at `now`; the leader waited for it, or found it there.
  Advice request(pid_t thread, std::uint64_t now, bool waited) {
    if (thread == 0) return streak_ < kStreak ? Advice::kApart : Advice::kBeside;  // nobody waits
    const bool goes_on = thread == thread_ && now - last_ < kCloseNs;
    thread_ = thread;
    last_ = now;
    streak_ = goes_on ? streak_ + 1 : 0;
    if (streak_ < kStreak) return Advice::kApart;
    return waited || streak_ % kLookAgain == 0 ? Advice::kMove : Advice::kBeside;
  }
  // It did not work out: a new streak has to show that it may.
  void reset() { streak_ = 0; }

 private:
  pid_t thread_ = 0;
  std::uint64_t last_ = 0;
  unsigned streak_ = 0;
};

// What the policy advises, done to the thread that calls. Used by the leader alone, under its lock.
class Companion {
 public:
  // Not `wanted`, on a single processor, or where a thread may not come back from SCHED_IDLE, it
  // does nothing.
  explicit Companion(bool wanted);
  ~Companion();
  Companion(const Companion&) = delete;
  Companion& operator=(const Companion&) = delete;

  // Before a request of `thread`, which came at `now`, is executed.
  void serve(pid_t thread, std::uint64_t now, bool waited);
  // Before the leader sleeps: it does not count as idle while it waits.
  void rest();
  // Before another thread takes the lead: the leader is like any thread again.
  void leave();
  [[nodiscard]] bool beside() const { return beside_; }
  [[nodiscard]] bool possible() const { return possible_; }

 private:
  void go_beside(pid_t thread);
  void guard();

  cpu_set_t everywhere_{};
  bool possible_ = false;
  CompanionPolicy policy_;
  bool beside_ = false;  // the affinity is that of the client
  bool idle_ = false;    // the policy is SCHED_IDLE
  int processor_ = -1;
  // Shared with the guard.
  std::atomic<std::uint32_t> watched_{0};  // the leader's id while it counts as idle
  std::atomic<std::uint64_t> progress_{0};
  std::atomic<bool> helped_{false};  // the guard ended it
  std::atomic<bool> ending_{false};
  std::thread guard_;
};

}  // namespace btd
