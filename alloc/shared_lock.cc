#include "alloc/shared_lock.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <string>

namespace btd {
namespace {

constexpr unsigned kSpins = 200;      // about what a commit takes
constexpr long kLookNs = 20'000'000;  // how often a waiter looks whether the holder lives

// Not private: the word is shared by processes.
void futex_wait(std::uint32_t* word, std::uint32_t value) {
  const timespec timeout{.tv_sec = 0, .tv_nsec = kLookNs};
  syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, nullptr, 0);
}

Status still_held(const std::string& name, bool died, int process) {
  if (died) {
    return fail(ETIMEDOUT, "A user of the heap died holding " + name +
                               ", and nobody finishes its work; end the other processes that have "
                               "the heap open, and open it again.");
  }
  return fail(ETIMEDOUT, "Another user of the heap" +
                             (process != 0 ? " (process " + std::to_string(process) + ")" : "") +
                             " holds " + name +
                             " and does not go on; continue or end that process.");
}

}  // namespace

void SharedLock::wake(transient<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

Status SharedLock::wait(transient<std::uint32_t>& word, const Context& context, const char* name) {
  using Clock = std::chrono::steady_clock;
  const std::uint32_t mine = context.users.self() + 1;
  for (unsigned i = 0; i < kSpins; ++i) {
    if (word.load() == 0 && try_lock(word, context.users.self())) return {};
    __builtin_ia32_pause();
  }
  const auto until = Clock::now() + std::chrono::milliseconds(kPatienceMs);
  auto at = word.shared();
  for (;;) {
    std::uint32_t value = at.load(std::memory_order_relaxed);
    if (value == 0) {
      // Others may wait too, so it is taken with the flag set.
      if (at.compare_exchange_strong(value, mine | kWaiters, std::memory_order_acquire)) return {};
      continue;
    }
    if ((value & kWaiters) == 0 && !at.compare_exchange_strong(value, value | kWaiters)) continue;
    futex_wait(reinterpret_cast<std::uint32_t*>(&word), value | kWaiters);
    const unsigned user = (value & ~kWaiters) - 1;
    if ((at.load(std::memory_order_relaxed) & ~kWaiters) != user + 1) continue;
    const bool died = user != context.users.self() && !context.users.alive(user);
    if (died) context.bury(user);
    if (Clock::now() > until && holder(word) == user)
      return still_held(name, died, context.users.process_of(user));
  }
}

}  // namespace btd
