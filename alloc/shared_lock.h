// SharedLock: a mutex in a word of shared memory, between threads of any processes.
//
// The word holds the user (alloc/users.h) whose thread has the lock. Uncontended it is one atomic
// operation; else a short spin, then a futex. A waiter looks now and then whether the holder still
// lives: a dead one is reported to who can clean up after it. No wait is for ever: a holder
// that lives and does not go on (stopped by a debugger) is an error after kPatience, and so is a
// dead one that cannot be buried.
// Not recursive. Thread-safety: any thread of any process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/users.h"

namespace btd {

class SharedLock {
 public:
  static constexpr std::uint32_t kWaiters = std::uint32_t{1} << 31;
  static constexpr unsigned kPatienceMs = 5000;

  // `bury` is called, without the lock, when its holder is found dead; it frees the lock.
  struct Context {
    Users& users;
    std::function<void(unsigned user)> bury;
  };

  [[nodiscard]] static bool try_lock(transient<std::uint32_t>& word, unsigned user) {
    std::uint32_t free = 0;
    return word.shared().compare_exchange_strong(free, user + 1, std::memory_order_acquire,
                                                 std::memory_order_relaxed);
  }
  // `name` is what messages call it. Errors: ETIMEDOUT.
  static Status lock(transient<std::uint32_t>& word, const Context& context, const char* name) {
    if (try_lock(word, context.users.self())) [[likely]]
      return {};
    return wait(word, context, name);
  }
  static void unlock(transient<std::uint32_t>& word) {
    if ((word.shared().exchange(0, std::memory_order_release) & kWaiters) != 0) [[unlikely]]
      wake(word);
  }
  // The user that holds it; Users::kMax if none does.
  [[nodiscard]] static unsigned holder(const transient<std::uint32_t>& word) {
    const std::uint32_t value = word.load() & ~kWaiters;
    return value == 0 ? Users::kMax : value - 1;
  }
  // Takes a dead user's lock from it: frees it, unless somebody else did.
  static void release_of(transient<std::uint32_t>& word, unsigned user) {
    for (const std::uint32_t flag : {std::uint32_t{0}, kWaiters}) {
      std::uint32_t held = (user + 1) | flag;
      if (word.shared().compare_exchange_strong(held, 0) && flag != 0) wake(word);
    }
  }

 private:
  static Status wait(transient<std::uint32_t>& word, const Context& context, const char* name);
  static void wake(transient<std::uint32_t>& word);
};

// Holds a SharedLock to the end of its life.
class SharedHold {
 public:
  static Result<SharedHold> take(transient<std::uint32_t>& word, const SharedLock::Context& context,
                                 const char* name) {
    BTD_TRY(SharedLock::lock(word, context, name));
    return SharedHold(word);
  }
  SharedHold(SharedHold&& other) noexcept : word_(std::exchange(other.word_, nullptr)) {}
  SharedHold& operator=(SharedHold&&) = delete;
  SharedHold(const SharedHold&) = delete;
  SharedHold& operator=(const SharedHold&) = delete;
  ~SharedHold() {
    if (word_ != nullptr) SharedLock::unlock(*word_);
  }

 private:
  explicit SharedHold(transient<std::uint32_t>& word) : word_(&word) {}
  transient<std::uint32_t>* word_;
};

}  // namespace btd
