// EtcdMirror: the cluster's rows in memory, in the state of one revision of etcd; and the watchers
// that hear of each change.
//
// The watch's thread is the only one that changes it: revision by revision, or by a whole load that
// puts it forward to a later one. Watchers run on a thread of the mirror's own, one revision after
// the other, so that a watcher may wait for the mirror.
// Lock order: rows_lock_, the hub's mutex; rows_lock_, mutex_; reached_mutex_, mutex_. Watchers run
// under none.
// Thread-safety: any thread, but apply() and replace() one at a time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/watch_hub.h"
#include "alloc/writer_first_lock.h"
#include "net/etcd/options.h"
#include "net/etcd/wire.h"

namespace btd::net {

class EtcdMirror {
 public:
  struct Row {
    std::string value;
    std::int64_t created = 0, modified = 0, version = 0;
  };
  using Rows = std::map<std::string, Row, std::less<>>;

  // What somebody waits for: a revision; or, where keys are given, that each of them shows at least
  // the change of the revision beside it (nullopt: that it is absent).
  struct Goal {
    std::int64_t revision = 0;
    std::vector<std::pair<std::string_view, std::optional<std::int64_t>>> keys;
  };

  EtcdMirror();
  ~EtcdMirror();
  EtcdMirror(const EtcdMirror&) = delete;
  EtcdMirror& operator=(const EtcdMirror&) = delete;

  [[nodiscard]] std::optional<std::string> get(std::string_view key) const;
  void scan(std::string_view from, std::string_view to, const MetaStore::Visitor& visit) const;
  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   MetaStore::Watcher watcher);

  // All changes of one revision, as etcd told them. One that is here already is ignored. False: a
  // change before them is missing here, and nothing was applied.
  [[nodiscard]] bool apply(std::int64_t revision, std::span<const EtcdRow> changes);
  // All rows as of `revision`. Watchers hear of what differs, in the order of the keys.
  void replace(Rows rows, std::int64_t revision);

  // False: not before `until`, or stopped.
  [[nodiscard]] bool wait_visible(const Goal& goal, EtcdDeadline until) const;
  // Waits until the watchers heard of all up to the revision, which is here already. On the
  // watchers' thread it returns at once, and those who wait for earlier ones wait for it too.
  [[nodiscard]] bool wait_delivered(std::int64_t revision, EtcdDeadline until) const;
  void stop();  // ends all waits

  [[nodiscard]] std::int64_t revision() const { return revision_.load(); }
  // Of the last change of a row that is known here: all mirrors come to it, which is not so of the
  // revision of a load, for others change no row of this mirror.
  [[nodiscard]] std::int64_t last_change() const { return last_change_.load(); }
  // `reached` is told each revision when the watchers have heard of all up to it, on their thread,
  // from the one reached by now; there is one of them. It is not called when the handle is gone.
  using Reached = std::function<void(std::int64_t revision)>;
  [[nodiscard]] std::unique_ptr<WatchHandle> watch_revisions(Reached reached);
  [[nodiscard]] std::uint64_t entries() const;
  [[nodiscard]] std::uint64_t bytes() const;

 private:
  struct Parcel {
    WatchHub::Ticket ticket = 0;
    std::int64_t revision = 0;
  };
  [[nodiscard]] bool follows(const EtcdRow& change) const;
  using Previous = std::vector<std::optional<std::string>>;  // values, one for each change
  std::optional<std::string> change_row(const EtcdRow& change);
  void publish(std::int64_t revision, std::span<const EtcdRow> changes, Previous previous);
  void wait_for_room();
  [[nodiscard]] bool reached(const Goal& goal) const;
  [[nodiscard]] bool on_delivery_thread() const;
  class RevisionWatch;
  void deliver_all();
  void tell_reached(std::int64_t revision);

  mutable WriterFirstLock rows_lock_;
  Rows rows_;
  std::uint64_t bytes_ = 0;
  std::atomic<std::int64_t> revision_{0}, last_change_{0};
  WatchHub hub_;

  mutable std::mutex mutex_;
  mutable std::condition_variable applied_, delivered_, parcel_added_, parcel_done_;
  std::deque<Parcel> parcels_;  // bounded: the watch's thread waits for room
  std::int64_t delivered_revision_ = 0;
  mutable std::int64_t nested_revision_ = 0;  // of the last commit that a watcher made
  mutable int watchers_waiting_ =
      0;  // watchers that wait for the mirror: it must not wait for them
  bool stopped_ = false;
  std::mutex reached_mutex_;  // of reached_, and held while it runs
  Reached reached_;
  std::thread thread_;
};

}  // namespace btd::net
