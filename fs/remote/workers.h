// Workers: a few threads for calls that may block.
//
// Thread-safety: any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace btd::remote {

class Workers {
 public:
  Workers(unsigned threads, std::size_t most_waiting);
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  ~Workers();

  // False: too many wait, or stop() was called.
  bool post(std::function<void()> task);
  // For what must not be lost, and whose number something else bounds.
  void post_always(std::function<void()> task);
  // Takes no more, drops what did not begin, and returns what must not be lost of that. Tasks that
  // did begin go on: busy().
  std::vector<std::function<void()>> stop();
  [[nodiscard]] bool busy() const;

 private:
  void run();

  const std::size_t most_waiting_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  struct Task {
    std::function<void()> run;
    bool is_lasting = false;
  };
  std::deque<Task> tasks_;
  unsigned running_ = 0;
  bool is_stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace btd::remote
