// WatchHub: delivers watch events in commit order, on the threads that committed.
//
// Lock order: a store's writer lock, then the hub's mutex. Watchers run under neither.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "alloc/metastore.h"

namespace btd {

class WatchHub {
 public:
  using Ticket = std::uint64_t;  // 0: nothing to deliver

  WatchHub() : state_(std::make_shared<State>()) {}
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   MetaStore::Watcher watcher);

  // Whether anybody would hear of a change: else nobody needs to know what was there before it.
  [[nodiscard]] bool is_watched() const;

  // Called under the store's writer lock, after the changes became visible to readers: a watch that
  // begins between the two sees an event too many, never one too few. `previous`: what each key
  // held before; empty where nobody watched when the changes were made.
  [[nodiscard]] Ticket enqueue(std::span<const Batch::Change* const> changes,
                               std::span<std::optional<std::string>> previous);

  // Called without locks by the thread that enqueued: waits for the tickets before its own, then
  // calls the watchers.
  void deliver(Ticket ticket);

 private:
  struct Subscription {
    std::string prefix;
    MetaStore::Watcher watcher;
    Ticket since = 0;  // tickets up to this one are older than the watch
  };
  struct Parcel {
    Ticket ticket = 0;
    bool nested = false;  // enqueued by a watcher: delivered by whoever delivers the parcel before
    std::vector<WatchEvent> events;
  };
  struct State {
    std::mutex mutex;
    std::condition_variable turn;
    std::vector<std::shared_ptr<Subscription>> subscriptions;
    std::deque<Parcel> parcels;  // bounded by the number of committing threads, and nested ones
    Ticket last = 0;
    bool delivering = false;
    std::thread::id deliverer;
    std::shared_ptr<Subscription> calling;  // whose watcher runs now
  };
  class Handle;

  static void deliver_front(State& state, std::unique_lock<std::mutex>& lock);

  std::shared_ptr<State> state_;  // shared with the handles, which may outlive the store
};

}  // namespace btd
