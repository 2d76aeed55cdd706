#include "alloc/memory_store.h"

#include <mutex>
#include <utility>
#include <vector>

#include "alloc/metastore_engine.h"

namespace btd {

Result<std::optional<std::string>> MemoryStore::get(std::string_view key) const {
  BTD_TRY(check_key(key));
  const std::shared_lock lock(mutex_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) return std::optional<std::string>{};
  return std::optional<std::string>{it->second};
}

Status MemoryStore::scan(std::string_view from, std::string_view to, const Visitor& visit) const {
  const std::shared_lock lock(mutex_);
  for (auto it = entries_.lower_bound(from); it != entries_.end(); ++it) {
    if (!to.empty() && it->first >= to) break;
    if (!visit(it->first, it->second)) break;
  }
  return {};
}

bool MemoryStore::holdsLocked(const Batch::Requirement& requirement) const {
  const auto it = entries_.find(requirement.key);
  if (it == entries_.end()) return !requirement.value;
  return requirement.value == it->second;
}

bool MemoryStore::applyLocked(const Batch::Change& change,
                              std::vector<std::optional<std::string>>& previous) {
  auto it = entries_.find(change.key);
  if (!change.value) {
    if (it == entries_.end()) return false;
    bytes_ -= it->first.size() + it->second.size();
    previous.emplace_back(std::move(it->second));
    entries_.erase(it);
    return true;
  }
  if (it == entries_.end()) {
    it = entries_.emplace(change.key, std::string{}).first;
    bytes_ += change.key.size();
    previous.emplace_back();
  } else {
    previous.emplace_back(it->second);
  }
  bytes_ += change.value->size();
  bytes_ -= it->second.size();
  it->second = *change.value;
  return true;
}

Status MemoryStore::commit(const Batch& batch) {
  BTD_TRY(check_batch(batch));
  std::vector<const Batch::Change*> changes;
  std::vector<std::optional<std::string>> previous;
  effective_changes(batch, changes);
  WatchHub::Ticket ticket = 0;
  {
    const std::unique_lock lock(mutex_);
    for (const auto& r : batch.requirements()) {
      if (!holdsLocked(r)) return requirement_failed();
    }
    std::erase_if(changes, [&](const Batch::Change* c) { return !applyLocked(*c, previous); });
    ++commits_;
    ticket = hub_.enqueue(changes, previous);
  }
  hub_.deliver(ticket);
  return {};
}

std::unique_ptr<WatchHandle> MemoryStore::watch(std::string_view prefix, Watcher watcher) {
  return hub_.watch(prefix, std::move(watcher));
}

MetaStore::Stats MemoryStore::stats() const {
  const std::shared_lock lock(mutex_);
  Stats s;
  s.entries = entries_.size();
  s.used_bytes = bytes_;
  s.total_bytes = bytes_;
  s.commits = commits_;
  return s;
}

}  // namespace btd
