#include "fs/daemon/erasure.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstring>
#include <utility>

namespace btd {

namespace {

// Removals come in crowds, and one sync serves all of a crowd.
constexpr std::chrono::seconds kPatience{1};
constexpr std::size_t kCrowd = 4096;
constexpr std::size_t kMost = 16 * kCrowd;

}  // namespace

Erasure::Erasure(Namespace& names, const BackingStore& backing, bool later)
    : names_(names), backing_(backing) {
  if (later || backing_.outlives_machine()) thread_ = std::thread([this] { loop(); });
}

Erasure::~Erasure() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Erasure::add(InodeId id) {
  if (!thread_.joinable()) return erase({id});
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return waiting_.size() < kMost; });
  waiting_.push_back(id);
  if (waiting_.size() == 1 || waiting_.size() == kCrowd) changed_.notify_all();
}

void Erasure::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    changed_.wait_for(lock, kPatience, [this] { return stopping_ || waiting_.size() >= kCrowd; });
    const std::vector<InodeId> ids = std::exchange(waiting_, {});
    changed_.notify_all();
    lock.unlock();
    erase(ids);
    lock.lock();
  }
}

void Erasure::erase(const std::vector<InodeId>& ids) {
  if (auto synced = backing_.sync_removals(ids); !synced) {
    spdlog::warn("the rows of {} removed files stay until the next mount: {}", ids.size(),
                 synced.error().message);
    return;
  }
  for (const InodeId id : ids) {
    if (auto erased = names_.erase_orphan(id); !erased)
      spdlog::warn("the row of removed file {} stays until the next mount: {}", id,
                   strerrordesc_np(erased.error().code));
  }
}

}  // namespace btd
