// EmbeddedStore: the MetaStore engine in NVRAM, an OrderedMap in a heap of its own or a shared one.
//
// A commit is one transaction of the heap: its requirements are compared, its changes made on
// private copies of pages, and the transaction committed while no reader is inside. So readers see
// committed state only, and wait for a commit's fence but not for its preparation. Lock order:
// writer mutex, readers' lock, the heap's locks; the watch hub's mutex after the writer mutex.
// Thread-safety: any thread, any call.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "alloc/heap.h"
#include "alloc/metastore.h"
#include "alloc/ordered_map.h"
#include "alloc/watch_hub.h"
#include "alloc/writer_first_lock.h"

namespace btd {

class EmbeddedStore final : public MetaStore {
 public:
  // The heap must outlive the store. Errors: those of OrderedMap::create and ::open.
  static Result<std::unique_ptr<EmbeddedStore>> create(Heap& heap, unsigned root_slot);
  static Result<std::unique_ptr<EmbeddedStore>> open(Heap& heap, unsigned root_slot);

  EmbeddedStore(const EmbeddedStore&) = delete;
  EmbeddedStore& operator=(const EmbeddedStore&) = delete;

  [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key) const override;
  Status scan(std::string_view from, std::string_view to, const Visitor& visit) const override;
  // After EIO the batch is in doubt: the medium failed while it was made durable, or the map is
  // damaged and nothing changed.
  Status commit(const Batch& batch) override;
  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   Watcher watcher) override;
  [[nodiscard]] Stats stats() const override;  // bytes are the heap's

  // Reads the whole map while commits wait.
  [[nodiscard]] OrderedMap::Report check(const OrderedMap::BlockVisitor& block = {}) const;

 private:
  EmbeddedStore(Heap& heap, OrderedMap map);
  [[nodiscard]] Status requirementsHoldLocked(const Batch& batch) const;
  Status applyLocked(const Batch& batch);

  Heap& heap_;
  mutable std::mutex writer_;
  mutable WriterFirstLock readers_;
  OrderedMap map_;
  // Scratch of the writer: what it changes, and what was there before if anybody watches.
  std::vector<const Batch::Change*> changes_;
  std::vector<std::optional<std::string>> previous_;
  std::uint64_t commits_ = 0;
  const Persist::Counters at_open_;
  WatchHub hub_;
};

}  // namespace btd
