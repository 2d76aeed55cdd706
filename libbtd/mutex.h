// Mutex: a lock in memory of a heap, between threads of all processes that have the heap open.
//
// All of it is one word: who holds it, as a user of the heap, as the incarnation that this number
// has now, and as a thread; 0: nobody. Taken and left by one atomic operation, which holds between
// nodes where the heap is coherent. Who waits on the machine of who leaves it is woken; who waits
// elsewhere looks again after pauses that grow to kLongestPause. A waiter asks now and then whether
// the holder is still a user of the heap, which the locks of `lock` say: a dead one's mutex is
// taken from it, and who takes it is told so.
// Thread-safety: any thread of any process.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "libbtd/heap_users.h"

namespace btd {

class Mutex {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds kShortestPause{50};
  static constexpr std::chrono::microseconds kLongestPause{10'000};
  static constexpr std::chrono::milliseconds kLook{20};  // at a holder's life

  enum class Taken : std::uint8_t {
    kFree,  // nobody had it
    kDead,  // its holder had died: what it guards may be half changed
  };

  // `word`: 8 bytes of the heap, aligned. `users`: this process's.
  Mutex(std::uint64_t* word, HeapUsers& users) : word_(word), users_(users) {}

  // Errors: EBUSY another holds it; EDEADLK this thread does.
  Result<Taken> try_lock();
  // No deadline: as long as the holder lives. Errors: EDEADLK; ETIMEDOUT.
  Result<Taken> lock(std::optional<Clock::time_point> until);
  // Errors: EPERM this thread does not hold it.
  Status unlock();

 private:
  [[nodiscard]] std::uint64_t mine() const;
  [[nodiscard]] bool take(std::uint64_t& seen, std::uint64_t wanted);
  [[nodiscard]] bool is_dead(std::uint64_t holder);
  // Waits until the word may have changed, `pause` at most.
  void sleep(std::uint64_t seen, std::chrono::microseconds pause);

  std::uint64_t* const word_;
  HeapUsers& users_;
};

// In a child after fork: the thread has another id than its parent's.
void forget_thread_id();

}  // namespace btd
