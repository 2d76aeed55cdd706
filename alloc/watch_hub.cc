#include "alloc/watch_hub.h"

#include <algorithm>
#include <utility>

namespace btd {

class WatchHub::Handle : public WatchHandle {
 public:
  Handle(std::shared_ptr<State> state, std::shared_ptr<Subscription> subscription)
      : state_(std::move(state)), subscription_(std::move(subscription)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  // A watcher may drop its own handle: only other threads wait for it to return.
  ~Handle() override {
    std::unique_lock lock(state_->mutex);
    std::erase(state_->subscriptions, subscription_);
    state_->turn.wait(lock, [&] {
      return state_->calling != subscription_ || state_->deliverer == std::this_thread::get_id();
    });
  }

 private:
  std::shared_ptr<State> state_;
  std::shared_ptr<Subscription> subscription_;
};

std::unique_ptr<WatchHandle> WatchHub::watch(std::string_view prefix, MetaStore::Watcher watcher) {
  auto subscription = std::make_shared<Subscription>();
  subscription->prefix = prefix;
  subscription->watcher = std::move(watcher);
  const std::scoped_lock lock(state_->mutex);
  subscription->since = state_->last;
  state_->subscriptions.push_back(subscription);
  return std::make_unique<Handle>(state_, std::move(subscription));
}

bool WatchHub::is_watched() const {
  const std::scoped_lock lock(state_->mutex);
  return !state_->subscriptions.empty();
}

WatchHub::Ticket WatchHub::enqueue(std::span<const Batch::Change* const> changes,
                                   std::span<std::optional<std::string>> previous) {
  State& s = *state_;
  const std::scoped_lock lock(s.mutex);
  if (s.subscriptions.empty() || changes.empty()) return 0;
  Parcel& parcel = s.parcels.emplace_back();
  parcel.ticket = ++s.last;
  parcel.nested = s.delivering && s.deliverer == std::this_thread::get_id();
  parcel.events.reserve(changes.size());
  for (std::size_t i = 0; i < changes.size(); ++i) {
    WatchEvent& event = parcel.events.emplace_back(changes[i]->key, changes[i]->value);
    if (i < previous.size()) event.previous = std::move(previous[i]);
  }
  return parcel.nested ? 0 : parcel.ticket;
}

void WatchHub::deliver_front(State& s, std::unique_lock<std::mutex>& lock) {
  const Parcel parcel = std::move(s.parcels.front());
  s.parcels.pop_front();
  const auto subscriptions = s.subscriptions;
  for (const auto& subscription : subscriptions) {
    if (subscription->since >= parcel.ticket) continue;
    for (const WatchEvent& event : parcel.events) {
      if (!event.key.starts_with(subscription->prefix)) continue;
      if (std::find(s.subscriptions.begin(), s.subscriptions.end(), subscription) ==
          s.subscriptions.end())
        break;  // ended meanwhile
      s.calling = subscription;
      lock.unlock();
      subscription->watcher(event);
      lock.lock();
      s.calling.reset();
      s.turn.notify_all();
    }
  }
}

void WatchHub::deliver(Ticket ticket) {
  if (ticket == 0) return;
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.turn.wait(lock, [&] { return !s.delivering && s.parcels.front().ticket == ticket; });
  s.delivering = true;
  s.deliverer = std::this_thread::get_id();
  do {
    deliver_front(s, lock);
  } while (!s.parcels.empty() && s.parcels.front().nested);
  s.delivering = false;
  s.deliverer = {};
  s.turn.notify_all();
}

}  // namespace btd
