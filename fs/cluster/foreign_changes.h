// ForeignChanges: a MetaStore in front of a cluster's one, which tells apart who made a change.
//
// A node's kernel knows what it asked for itself; of what other nodes did it must be told. The
// store's watch tells of both. Own changes are noted before they are committed, and the events that
// equal them are taken for theirs; should another node make the same change at that moment, it is
// the later one of the two events that is taken for foreign, so one always is.
// Thread-safety: any thread.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "alloc/forwarding_store.h"

namespace btd::cluster {

class ForeignChanges final : public ForwardingStore {
 public:
  // `store` outlives this. `before_commit` is called by each thread that commits, since that waits
  // for a network. `foreign` is called for each change by another node, in commit order, on
  // the store's thread: it must neither block nor ask the kernel, since commits wait for it.
  ForeignChanges(MetaStore& store, Watcher foreign, std::function<void()> before_commit = [] {});

  Status commit(const Batch& batch) override;

 private:
  using Own = std::multimap<std::string, std::optional<std::string>, std::less<>>;

  void heard(const WatchEvent& event);
  bool take(const std::string& key, const std::optional<std::string>& value);

  const Watcher foreign_;
  const std::function<void()> before_commit_;
  std::mutex mutex_;
  Own own_;  // under way: as many as the batches of the threads that commit
  std::unique_ptr<WatchHandle> watch_;
};

}  // namespace btd::cluster
