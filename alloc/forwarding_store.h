// ForwardingStore: a MetaStore in front of another one. What is not overridden is the other's.
// Thread-safety: that of the other, which outlives this.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "alloc/metastore.h"

namespace btd {

class ForwardingStore : public MetaStore {
 public:
  explicit ForwardingStore(MetaStore& store) : store_(store) {}

  [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key) const override {
    return store_.get(key);
  }
  Status scan(std::string_view from, std::string_view to, const Visitor& visit) const override {
    return store_.scan(from, to, visit);
  }
  Status commit(const Batch& batch) override { return store_.commit(batch); }
  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   Watcher watcher) override {
    return store_.watch(prefix, std::move(watcher));
  }
  [[nodiscard]] Stats stats() const override { return store_.stats(); }

 private:
  MetaStore& store_;
};

}  // namespace btd
