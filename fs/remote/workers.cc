#include "fs/remote/workers.h"

#include <utility>

namespace btd::remote {

Workers::Workers(unsigned threads, std::size_t most_waiting) : most_waiting_(most_waiting) {
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
}

Workers::~Workers() {
  static_cast<void>(stop());
  for (std::thread& thread : threads_) thread.join();
}

bool Workers::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    if (is_stopping_ || tasks_.size() >= most_waiting_) return false;
    tasks_.push_back({.run = std::move(task)});
  }
  changed_.notify_one();
  return true;
}

void Workers::post_always(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back({.run = std::move(task), .is_lasting = true});
  }
  changed_.notify_one();
}

std::vector<std::function<void()>> Workers::stop() {
  std::deque<Task> left;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    left.swap(tasks_);
  }
  changed_.notify_all();
  std::vector<std::function<void()>> lasting;
  for (Task& task : left)
    if (task.is_lasting) lasting.push_back(std::move(task.run));
  return lasting;
}

bool Workers::busy() const {
  const std::lock_guard lock(mutex_);
  return running_ > 0;
}

void Workers::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return is_stopping_ || !tasks_.empty(); });
    if (is_stopping_) return;
    const std::function<void()> task = std::move(tasks_.front().run);
    tasks_.pop_front();
    ++running_;
    lock.unlock();
    task();
    lock.lock();
    --running_;
  }
}

}  // namespace btd::remote
