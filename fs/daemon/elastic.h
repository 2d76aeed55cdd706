// Elastic: threads for calls into the kernel that may block until another one of them, or a
// request that waits for another node, is through. So there is no fixed number of them.
//
// The first few are there at once; another one begins whenever a task has waited for a moment for
// those that are blocked, and ends when it has had nothing to do for a while. Thread-safety: any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace btd {

class Elastic {
 public:
  Elastic() = default;
  Elastic(const Elastic&) = delete;
  Elastic& operator=(const Elastic&) = delete;
  ~Elastic() { stop(); }

  void post(std::function<void()> task);
  // Drops what did not begin, and waits for what did, but not for long: what is blocked in the
  // kernel ends with the process.
  void stop();

  struct Counts {
    std::uint64_t threads = 0, waiting = 0, most = 0;
  };
  [[nodiscard]] Counts counts() const;

 private:
  struct Shared;
  static void run(const std::shared_ptr<Shared>& shared, bool is_kept);
  static void watch(const std::shared_ptr<Shared>& shared);
  static void begin_locked(const std::shared_ptr<Shared>& shared);

  std::shared_ptr<Shared> shared_ = make();
  static std::shared_ptr<Shared> make();
};

}  // namespace btd
