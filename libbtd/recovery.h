// Recovery: reclaims, after an unclean stop, what no root reaches, while the program starts.
//
// Runs on a thread of its own. Until it is done only new memory may be used: whoever wants to reach
// old memory calls wait() first. Thread-safety: wait() and running() from any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "alloc/heap.h"

namespace btd {

class Recovery {
 public:
  Recovery() = default;
  // Waits for the thread.
  ~Recovery();
  Recovery(const Recovery&) = delete;
  Recovery& operator=(const Recovery&) = delete;

  // Keeps `types` until the end. Called once, before any wait().
  void start(Heap& heap, TypeLayouts types, unsigned threads);
  // Returns when nothing runs. Errors: what recovery met.
  [[nodiscard]] Status wait();
  [[nodiscard]] bool running() const { return running_.load(std::memory_order_acquire); }
  // In a child after fork, where there is no thread.
  void forget();

 private:
  void run(Heap& heap, unsigned threads);

  std::atomic<bool> running_{false};
  TypeLayouts types_;
  std::mutex mutex_;  // failure_; running_ is lowered under it
  std::condition_variable done_;
  std::optional<Error> failure_;
  std::thread thread_;
};

}  // namespace btd
