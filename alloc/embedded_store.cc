#include "alloc/embedded_store.h"

#include <algorithm>
#include <shared_mutex>
#include <utility>

#include "alloc/metastore_engine.h"

namespace btd {

Result<std::unique_ptr<EmbeddedStore>> EmbeddedStore::create(Heap& heap, unsigned root_slot) {
  BTD_ASSIGN(OrderedMap map, OrderedMap::create(heap, root_slot));
  return std::unique_ptr<EmbeddedStore>(new EmbeddedStore(heap, map));
}

Result<std::unique_ptr<EmbeddedStore>> EmbeddedStore::open(Heap& heap, unsigned root_slot) {
  BTD_ASSIGN(OrderedMap map, OrderedMap::open(heap, root_slot));
  return std::unique_ptr<EmbeddedStore>(new EmbeddedStore(heap, map));
}

EmbeddedStore::EmbeddedStore(Heap& heap, OrderedMap map)
    : heap_(heap), map_(map), at_open_(heap.persist().counters()) {
  changes_.reserve(kMaxBatchChanges);
}

Result<std::optional<std::string>> EmbeddedStore::get(std::string_view key) const {
  BTD_TRY(check_key(key));
  const std::shared_lock lock(readers_);
  BTD_ASSIGN(const std::optional<std::string_view> value, map_.find(key));
  if (!value) return std::nullopt;
  return std::optional<std::string>(*value);
}

Status EmbeddedStore::scan(std::string_view from, std::string_view to, const Visitor& visit) const {
  const std::shared_lock lock(readers_);
  return map_.scan(from, to, visit);
}

// The writer alone changes what is committed, so it may read without the readers' lock.
Status EmbeddedStore::requirementsHoldLocked(const Batch& batch) const {
  for (const Batch::Requirement& r : batch.requirements()) {
    BTD_ASSIGN(const std::optional<std::string_view> value, map_.find(r.key));
    const bool holds = r.value ? value && *value == *r.value : !value;
    if (!holds) return requirement_failed();
  }
  return {};
}

Status EmbeddedStore::applyLocked(const Batch& batch) {
  changes_.clear();
  effective_changes(batch, changes_);
  const bool erases =
      std::any_of(changes_.begin(), changes_.end(), [](const auto* c) { return !c->value; });
  previous_.clear();
  const bool is_watched = hub_.is_watched();
  Tx tx = heap_.begin();
  OrderedMap::Change change(map_, tx, erases);
  std::size_t kept = 0;
  for (const Batch::Change* c : changes_) {
    std::optional<std::string> before;
    if (is_watched) {
      BTD_ASSIGN(before, map_.find(c->key));
    }
    if (c->value) {
      BTD_TRY(change.put(c->key, *c->value));
    } else {
      BTD_ASSIGN(const bool erased, change.erase(c->key));
      if (!erased) continue;
    }
    changes_[kept++] = c;
    if (is_watched) previous_.push_back(std::move(before));
  }
  changes_.resize(kept);
  if (kept == 0) return {};
  BTD_TRY(change.finish());
  const std::unique_lock lock(readers_);
  return tx.commit();
}

Status EmbeddedStore::commit(const Batch& batch) {
  BTD_TRY(check_batch(batch));
  WatchHub::Ticket ticket = 0;
  {
    const std::lock_guard lock(writer_);
    BTD_TRY(requirementsHoldLocked(batch));
    BTD_TRY(applyLocked(batch));
    ++commits_;
    ticket = hub_.enqueue(changes_, previous_);
  }
  hub_.deliver(ticket);
  return {};
}

std::unique_ptr<WatchHandle> EmbeddedStore::watch(std::string_view prefix, Watcher watcher) {
  return hub_.watch(prefix, std::move(watcher));
}

MetaStore::Stats EmbeddedStore::stats() const {
  const std::lock_guard lock(writer_);
  const Heap::Stats heap = heap_.stats();
  const Persist::Counters now = heap_.persist().counters();
  Stats s;
  s.entries = map_.header().entries;
  s.used_bytes = heap.used_bytes;
  s.total_bytes = heap.total_bytes;
  s.commits = commits_;
  s.fences = now.fences - at_open_.fences;
  s.lines = now.lines - at_open_.lines;
  return s;
}

OrderedMap::Report EmbeddedStore::check(const OrderedMap::BlockVisitor& block) const {
  const std::lock_guard lock(writer_);
  return map_.check(block);
}

}  // namespace btd
