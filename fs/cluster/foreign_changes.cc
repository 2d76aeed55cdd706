#include "fs/cluster/foreign_changes.h"

namespace btd::cluster {

ForeignChanges::ForeignChanges(MetaStore& store, Watcher foreign,
                               std::function<void()> before_commit)
    : ForwardingStore(store),
      foreign_(std::move(foreign)),
      before_commit_(std::move(before_commit)),
      watch_(watch("", [this](const WatchEvent& event) { heard(event); })) {}

bool ForeignChanges::take(const std::string& key, const std::optional<std::string>& value) {
  const std::scoped_lock lock(mutex_);
  const auto [from, to] = own_.equal_range(key);
  for (auto it = from; it != to; ++it) {
    if (it->second != value) continue;
    own_.erase(it);
    return true;
  }
  return false;
}

void ForeignChanges::heard(const WatchEvent& event) {
  if (!take(event.key, event.value)) foreign_(event);
}

Status ForeignChanges::commit(const Batch& batch) {
  before_commit_();
  {
    const std::scoped_lock lock(mutex_);
    for (const Batch::Change& change : batch.changes()) own_.emplace(change.key, change.value);
  }
  Status done = ForwardingStore::commit(batch);
  // What had no event: it failed, changed nothing, or a later change in the batch took its place.
  // To take what an equal commit of another thread noted costs one needless word to the kernel.
  for (const Batch::Change& change : batch.changes()) (void)take(change.key, change.value);
  return done;
}

}  // namespace btd::cluster
