#include "fs/daemon/elastic.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace btd {

namespace {

constexpr std::uint64_t kKept = 4;
constexpr auto kMoment = std::chrono::milliseconds(1);
constexpr auto kWhile = std::chrono::seconds(5);
constexpr auto kPatience = std::chrono::seconds(1);

}  // namespace

// Outlives the object where a thread is blocked.
struct Elastic::Shared {
  std::mutex mutex;
  std::condition_variable posted, watched, ended;
  std::deque<std::function<void()>> tasks;
  std::uint64_t threads = 0, idle = 0, most = 0, taken = 0;
  bool is_watched = false, is_stopping = false;
};

std::shared_ptr<Elastic::Shared> Elastic::make() { return std::make_shared<Shared>(); }

void Elastic::begin_locked(const std::shared_ptr<Shared>& shared) {
  const bool is_kept = shared->threads < kKept;
  shared->most = std::max(shared->most, ++shared->threads);
  std::thread([shared, is_kept] { run(shared, is_kept); }).detach();
}

void Elastic::post(std::function<void()> task) {
  const std::scoped_lock lock(shared_->mutex);
  if (shared_->is_stopping) return;
  shared_->tasks.push_back(std::move(task));
  if (shared_->idle >= shared_->tasks.size()) return shared_->posted.notify_one();
  if (shared_->threads < kKept) return begin_locked(shared_);
  shared_->posted.notify_one();
  if (!std::exchange(shared_->is_watched, true))
    std::thread([shared = shared_] { watch(shared); }).detach();
  shared_->watched.notify_one();
}

// Sees to it that none waits for those that are blocked.
void Elastic::watch(const std::shared_ptr<Shared>& shared) {
  std::unique_lock lock(shared->mutex);
  for (;;) {
    shared->watched.wait(lock, [&] { return shared->is_stopping || !shared->tasks.empty(); });
    if (shared->is_stopping) return;
    const std::uint64_t taken = shared->taken;
    shared->watched.wait_for(lock, kMoment, [&] { return shared->is_stopping; });
    if (shared->taken == taken && !shared->tasks.empty() && shared->idle == 0) begin_locked(shared);
  }
}

void Elastic::run(const std::shared_ptr<Shared>& shared, bool is_kept) {
  std::unique_lock lock(shared->mutex);
  const auto is_called = [&] { return shared->is_stopping || !shared->tasks.empty(); };
  for (;;) {
    ++shared->idle;
    if (is_kept) {
      shared->posted.wait(lock, is_called);
    } else {
      shared->posted.wait_for(lock, kWhile, is_called);
    }
    --shared->idle;
    if (shared->is_stopping || shared->tasks.empty()) break;
    const auto task = std::move(shared->tasks.front());
    shared->tasks.pop_front();
    ++shared->taken;
    lock.unlock();
    task();
    lock.lock();
  }
  if (--shared->threads == 0) shared->ended.notify_all();
}

void Elastic::stop() {
  std::unique_lock lock(shared_->mutex);
  if (std::exchange(shared_->is_stopping, true)) return;
  shared_->tasks.clear();
  shared_->posted.notify_all();
  shared_->watched.notify_all();
  shared_->ended.wait_for(lock, kPatience, [this] { return shared_->threads == 0; });
}

Elastic::Counts Elastic::counts() const {
  const std::scoped_lock lock(shared_->mutex);
  return {.threads = shared_->threads, .waiting = shared_->tasks.size(), .most = shared_->most};
}

}  // namespace btd
