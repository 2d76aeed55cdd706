#include "net/etcd/mirror.h"

#include <algorithm>
#include <shared_mutex>
#include <utility>

namespace btd::net {
namespace {

constexpr std::size_t kMaxParcels = 4096;

}  // namespace

EtcdMirror::EtcdMirror() : thread_([this] { deliver_all(); }) {}

EtcdMirror::~EtcdMirror() {
  stop();
  thread_.join();
}

std::optional<std::string> EtcdMirror::get(std::string_view key) const {
  const std::shared_lock lock(rows_lock_);
  const auto found = rows_.find(key);
  if (found == rows_.end()) return std::nullopt;
  return found->second.value;
}

void EtcdMirror::scan(std::string_view from, std::string_view to,
                      const MetaStore::Visitor& visit) const {
  const std::shared_lock lock(rows_lock_);
  for (auto it = rows_.lower_bound(from); it != rows_.end(); ++it) {
    if (!to.empty() && it->first >= to) break;
    if (!visit(it->first, it->second.value)) break;
  }
}

std::unique_ptr<WatchHandle> EtcdMirror::watch(std::string_view prefix,
                                               MetaStore::Watcher watcher) {
  return hub_.watch(prefix, std::move(watcher));
}

// etcd counts the changes of each row: so a missing one shows.
bool EtcdMirror::follows(const EtcdRow& change) const {
  const auto found = rows_.find(change.key);
  if (found == rows_.end()) return change.value && change.version == 1;
  if (!change.value) return true;
  const Row& row = found->second;
  return change.created == row.created && change.version == row.version + 1;
}

// Returns the value before.
std::optional<std::string> EtcdMirror::change_row(const EtcdRow& change) {
  if (!change.value) {
    const auto found = rows_.find(change.key);
    bytes_ -= found->first.size() + found->second.value.size();
    std::string previous = std::move(found->second.value);
    rows_.erase(found);
    return previous;
  }
  const auto [it, fresh] = rows_.try_emplace(change.key);
  bytes_ += change.value->size();
  bytes_ += fresh ? change.key.size() : 0;
  bytes_ -= it->second.value.size();
  Row before =
      std::exchange(it->second, {*change.value, change.created, change.modified, change.version});
  if (fresh) return std::nullopt;
  return std::move(before.value);
}

bool EtcdMirror::apply(std::int64_t revision, std::span<const EtcdRow> changes) {
  if (revision <= revision_.load()) return true;
  wait_for_room();
  const std::unique_lock lock(rows_lock_);
  // A transaction changes a row once, so each change follows from the rows as they are.
  for (const EtcdRow& change : changes) {
    if (!follows(change)) return false;
  }
  Previous previous;
  for (const EtcdRow& change : changes) previous.push_back(change_row(change));
  last_change_.store(revision);
  publish(revision, changes, std::move(previous));
  return true;
}

void EtcdMirror::replace(Rows rows, std::int64_t revision) {
  wait_for_room();
  std::vector<EtcdRow> changes;
  Previous previous;
  for (auto old = rows_.begin(), now = rows.begin(); old != rows_.end() || now != rows.end();) {
    if (now == rows.end() || (old != rows_.end() && old->first < now->first)) {
      changes.push_back({old->first, std::nullopt});
      previous.emplace_back(old->second.value);
      ++old;
      continue;
    }
    const bool fresh = old == rows_.end() || now->first < old->first;
    if (fresh || old->second.modified != now->second.modified ||
        old->second.value != now->second.value) {
      changes.push_back({now->first, now->second.value});
      previous.push_back(fresh ? std::nullopt : std::optional(old->second.value));
    }
    if (!fresh) ++old;
    ++now;
  }
  std::uint64_t bytes = 0;
  std::int64_t last_change = last_change_.load();
  for (const auto& [key, row] : rows) {
    bytes += key.size() + row.value.size();
    last_change = std::max(last_change, row.modified);
  }
  const std::unique_lock lock(rows_lock_);
  last_change_.store(last_change);
  rows_.swap(rows);
  bytes_ = bytes;
  publish(revision, changes, std::move(previous));
}

// Under rows_lock_, so that a reader who sees a revision's rows finds it announced.
void EtcdMirror::publish(std::int64_t revision, std::span<const EtcdRow> changes,
                         Previous previous) {
  std::vector<Batch::Change> copies;
  std::vector<const Batch::Change*> pointers;
  for (const EtcdRow& change : changes) copies.push_back({change.key, change.value});
  for (const Batch::Change& change : copies) pointers.push_back(&change);
  const WatchHub::Ticket ticket = hub_.enqueue(pointers, previous);
  const std::scoped_lock lock(mutex_);
  revision_.store(revision);
  parcels_.push_back({ticket, revision});
  parcel_added_.notify_one();
  applied_.notify_all();
}

void EtcdMirror::wait_for_room() {
  std::unique_lock lock(mutex_);
  parcel_done_.wait(
      lock, [&] { return stopped_ || parcels_.size() < kMaxParcels || watchers_waiting_ > 0; });
}

bool EtcdMirror::reached(const Goal& goal) const {
  if (revision_.load() >= goal.revision) return true;
  if (goal.keys.empty()) return false;
  const std::shared_lock lock(rows_lock_);
  return std::ranges::all_of(goal.keys, [&](const auto& wanted) {
    const auto found = rows_.find(wanted.first);
    if (!wanted.second) return found == rows_.end();
    return revision_.load() >= *wanted.second;
  });
}

bool EtcdMirror::on_delivery_thread() const {
  return thread_.get_id() == std::this_thread::get_id();
}

bool EtcdMirror::wait_visible(const Goal& goal, EtcdDeadline until) const {
  const bool watcher = on_delivery_thread();
  std::unique_lock lock(mutex_);
  if (watcher) {
    ++watchers_waiting_;
    parcel_done_.notify_all();
  }
  bool done = false;
  for (;;) {
    const std::int64_t seen = revision_.load();
    lock.unlock();  // rows_lock_ comes before mutex_
    done = reached(goal);
    lock.lock();
    if (done || stopped_) break;
    const auto changed = [&] { return stopped_ || revision_.load() != seen; };
    if (!applied_.wait_until(lock, until, changed)) break;
  }
  if (watcher) --watchers_waiting_;
  return done;
}

bool EtcdMirror::wait_delivered(std::int64_t revision, EtcdDeadline until) const {
  std::unique_lock lock(mutex_);
  if (on_delivery_thread()) {
    nested_revision_ = std::max(nested_revision_, revision);
    return true;
  }
  delivered_.wait_until(lock, until, [&] { return stopped_ || delivered_revision_ >= revision; });
  return delivered_revision_ >= revision;
}

void EtcdMirror::stop() {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  applied_.notify_all();
  delivered_.notify_all();
  parcel_added_.notify_all();
  parcel_done_.notify_all();
}

std::uint64_t EtcdMirror::entries() const {
  const std::shared_lock lock(rows_lock_);
  return rows_.size();
}

std::uint64_t EtcdMirror::bytes() const {
  const std::shared_lock lock(rows_lock_);
  return bytes_;
}

class EtcdMirror::RevisionWatch final : public WatchHandle {
 public:
  explicit RevisionWatch(EtcdMirror& mirror) : mirror_(mirror) {}
  RevisionWatch(const RevisionWatch&) = delete;
  RevisionWatch& operator=(const RevisionWatch&) = delete;
  ~RevisionWatch() override {
    const std::scoped_lock lock(mirror_.reached_mutex_);
    mirror_.reached_ = {};
  }

 private:
  EtcdMirror& mirror_;
};

std::unique_ptr<WatchHandle> EtcdMirror::watch_revisions(Reached reached) {
  const std::scoped_lock lock(reached_mutex_);
  reached_ = std::move(reached);
  std::int64_t now = 0;
  {
    const std::scoped_lock delivered(mutex_);
    now = delivered_revision_;
  }
  reached_(now);
  return std::make_unique<RevisionWatch>(*this);
}

void EtcdMirror::tell_reached(std::int64_t revision) {
  const std::scoped_lock lock(reached_mutex_);
  if (reached_) reached_(revision);
}

void EtcdMirror::deliver_all() {
  std::unique_lock lock(mutex_);
  for (;;) {
    parcel_added_.wait(lock, [&] { return stopped_ || !parcels_.empty(); });
    if (stopped_) return;
    const Parcel parcel = parcels_.front();
    parcels_.pop_front();
    lock.unlock();
    hub_.deliver(parcel.ticket);
    tell_reached(parcel.revision);
    lock.lock();
    // A commit has its watchers' own commits delivered too before it returns.
    if (parcel.revision >= nested_revision_) delivered_revision_ = parcel.revision;
    delivered_.notify_all();
    parcel_done_.notify_all();
  }
}

}  // namespace btd::net
