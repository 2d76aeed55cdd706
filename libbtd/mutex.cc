#include "libbtd/mutex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>

namespace btd {
namespace {

// The low half is what futex(2) compares.
constexpr std::uint64_t kWaiters = std::uint64_t{1} << 31;
constexpr unsigned kUserShift = 24;  // 7 bits: the number plus 1
constexpr std::uint64_t kUserMask = 0x7F;
constexpr std::uint64_t kThreadMask = (std::uint64_t{1} << kUserShift) - 1;  // ids end at 2^22
constexpr unsigned kIncarnationShift = 32;
constexpr unsigned kSpins = 200;
static_assert(Users::kMax < kUserMask);

thread_local pid_t t_thread = 0;

std::uint32_t* low_half(std::uint64_t* word) { return reinterpret_cast<std::uint32_t*>(word); }

unsigned user_of(std::uint64_t holder) {
  return static_cast<unsigned>(holder >> kUserShift & kUserMask) - 1;
}

std::unexpected<Error> held_by_this_thread() {
  return fail(EDEADLK, "This thread holds the mutex already; unlock it first.");
}

}  // namespace

void forget_thread_id() { t_thread = 0; }

std::uint64_t Mutex::mine() const {
  if (t_thread == 0) t_thread = gettid();
  return users_.incarnation() << kIncarnationShift |
         (std::uint64_t{users_.self()} + 1) << kUserShift |
         (static_cast<std::uint64_t>(t_thread) & kThreadMask);
}

bool Mutex::take(std::uint64_t& seen, std::uint64_t wanted) {
  return std::atomic_ref(*word_).compare_exchange_strong(seen, wanted, std::memory_order_acquire,
                                                         std::memory_order_relaxed);
}

// What cannot be asked counts as alive.
bool Mutex::is_dead(std::uint64_t holder) {
  const std::uint64_t incarnation = holder >> kIncarnationShift;
  const unsigned user = user_of(holder);
  if (user >= Users::kMax) return false;
  if (user == users_.self()) return incarnation != users_.incarnation();
  if (!users_.alive(user)) return true;
  const std::uint64_t now = users_.incarnation_of(user);
  return now != 0 && now != incarnation;
}

Result<Mutex::Taken> Mutex::try_lock() {
  std::uint64_t seen = 0;
  if (take(seen, mine())) return Taken::kFree;
  if ((seen & ~kWaiters) == mine()) return held_by_this_thread();
  if (seen != 0 && is_dead(seen) && take(seen, mine() | kWaiters)) return Taken::kDead;
  return fail(EBUSY, "Another thread holds the mutex.");
}

Result<Mutex::Taken> Mutex::lock(std::optional<Clock::time_point> until) {
  std::uint64_t seen = 0;
  if (take(seen, mine())) [[likely]]
    return Taken::kFree;
  if ((seen & ~kWaiters) == mine()) return held_by_this_thread();
  for (unsigned i = 0; i < kSpins; ++i) {
    seen = 0;
    if (take(seen, mine())) return Taken::kFree;
    __builtin_ia32_pause();
  }
  std::chrono::microseconds pause = kShortestPause;
  Clock::time_point look = Clock::now();
  for (;;) {
    seen = std::atomic_ref(*word_).load(std::memory_order_relaxed);
    // Others may wait too, so it is taken with the flag set.
    if (seen == 0) {
      if (take(seen, mine() | kWaiters)) return Taken::kFree;
      continue;
    }
    const Clock::time_point now = Clock::now();
    if (now >= look) {
      if (is_dead(seen)) {
        if (take(seen, mine() | kWaiters)) return Taken::kDead;
        continue;
      }
      look = now + kLook;
    }
    if (until && now >= *until) {
      return fail(ETIMEDOUT, "Process " + std::to_string(users_.process_of(user_of(seen))) +
                                 " did not unlock the mutex in time.");
    }
    if ((seen & kWaiters) == 0) {
      if (!take(seen, seen | kWaiters)) continue;
      seen |= kWaiters;
    }
    std::chrono::microseconds most = pause;
    if (until)
      most = std::min(most, std::chrono::duration_cast<std::chrono::microseconds>(*until - now) +
                                std::chrono::microseconds(1));
    sleep(seen, most);
    pause = std::min(pause * 2, kLongestPause);
  }
}

void Mutex::sleep(std::uint64_t seen, std::chrono::microseconds pause) {
  const timespec timeout{.tv_sec = 0, .tv_nsec = pause.count() * 1000};
  syscall(SYS_futex, low_half(word_), FUTEX_WAIT, static_cast<std::uint32_t>(seen), &timeout,
          nullptr, 0);
}

Status Mutex::unlock() {
  std::uint64_t seen = mine();
  const auto word = std::atomic_ref(*word_);
  if (word.compare_exchange_strong(seen, 0, std::memory_order_release, std::memory_order_relaxed))
      [[likely]]
    return {};
  if ((seen & ~kWaiters) != mine()) {
    return fail(EPERM, seen == 0 ? "The mutex is not locked."
                                 : "Another thread holds the mutex; only that may unlock it.");
  }
  word.store(0, std::memory_order_release);
  syscall(SYS_futex, low_half(word_), FUTEX_WAKE, 1, nullptr, nullptr, 0);
  return {};
}

}  // namespace btd
