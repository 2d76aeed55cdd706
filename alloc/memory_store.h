// MemoryStore: the MetaStore engine in DRAM. The reference for what the others must do, and the
// store of tests; nothing survives its destructor.
//
// Thread-safety: any thread, any call. Readers share a lock, a commit holds it alone.
#pragma once

#include <cstdint>
#include <map>
#include <shared_mutex>
#include <string>

#include "alloc/metastore.h"
#include "alloc/watch_hub.h"

namespace btd {

class MemoryStore final : public MetaStore {
 public:
  MemoryStore() = default;
  MemoryStore(const MemoryStore&) = delete;
  MemoryStore& operator=(const MemoryStore&) = delete;

  [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key) const override;
  Status scan(std::string_view from, std::string_view to, const Visitor& visit) const override;
  Status commit(const Batch& batch) override;
  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   Watcher watcher) override;
  [[nodiscard]] Stats stats() const override;

 private:
  [[nodiscard]] bool holdsLocked(const Batch::Requirement& requirement) const;
  // Adds what was there before. False: nothing to erase.
  bool applyLocked(const Batch::Change& change, std::vector<std::optional<std::string>>& previous);

  mutable std::shared_mutex mutex_;
  std::map<std::string, std::string, std::less<>> entries_;
  std::uint64_t bytes_ = 0;
  std::uint64_t commits_ = 0;
  WatchHub hub_;
};

}  // namespace btd
