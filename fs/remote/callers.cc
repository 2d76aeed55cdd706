#include "fs/remote/callers.h"

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace btd::remote {

struct Callers::Shared {
  std::mutex mutex;
  std::vector<std::unique_ptr<Caller>> all;
  std::atomic<net::Epoch> epoch{0};

  std::unique_ptr<Caller> take(const Caller* caller) {
    const std::lock_guard lock(mutex);
    const auto found = std::ranges::find(all, caller, &std::unique_ptr<Caller>::get);
    if (found == all.end()) return nullptr;
    std::unique_ptr<Caller> taken = std::move(*found);
    all.erase(found);
    return taken;
  }
};

namespace {

// What a thread has of each instance. The pointer is good as long as `shared` is alive.
struct Lease {
  std::weak_ptr<Callers::Shared> shared;
  const void* instance = nullptr;
  Caller* caller = nullptr;
};

class Leases {
 public:
  Leases() = default;
  Leases(const Leases&) = delete;
  Leases& operator=(const Leases&) = delete;
  ~Leases() {
    for (const Lease& lease : leases_)
      if (const auto shared = lease.shared.lock()) shared->take(lease.caller).reset();
  }

  Lease* find(const void* instance) {
    for (Lease& lease : leases_)
      if (lease.instance == instance && !lease.shared.expired()) return &lease;
    return nullptr;
  }
  void add(Lease lease) {
    std::erase_if(leases_, [](const Lease& one) { return one.shared.expired(); });
    leases_.push_back(std::move(lease));
  }
  void remove(const void* instance) {
    std::erase_if(leases_, [&](const Lease& one) { return one.instance == instance; });
  }

 private:
  std::vector<Lease> leases_;
};

thread_local Leases leases;

}  // namespace

Callers::Callers(EngineFactory engines, Locate locate)
    : engines_(std::move(engines)),
      locate_(std::move(locate)),
      shared_(std::make_shared<Shared>()) {}

Callers::~Callers() {
  std::vector<std::unique_ptr<Caller>> left;
  const std::lock_guard lock(shared_->mutex);
  left.swap(shared_->all);
}

Result<Caller*> Callers::mine() {
  if (Lease* lease = leases.find(shared_.get())) {
    if (lease->caller->is_alive()) return lease->caller;
    shared_->take(lease->caller).reset();
    leases.remove(shared_.get());
  }
  return make();
}

Result<Caller*> Callers::make() {
  BTD_ASSIGN(std::unique_ptr<net::Engine> engine, engines_());
  auto made = std::make_unique<Caller>(std::move(engine), locate_, shared_->epoch);
  Caller* const caller = made.get();
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->all.size() >= kMost)
      return fail(EMFILE, "More than " + std::to_string(kMost) +
                              " threads use files of other nodes at once; use fewer.");
    shared_->all.push_back(std::move(made));
  }
  leases.add({.shared = shared_, .instance = shared_.get(), .caller = caller});
  return caller;
}

std::vector<Caller::Wait> Callers::waits() const {
  std::vector<Caller::Wait> waits;
  const std::lock_guard lock(shared_->mutex);
  for (const auto& caller : shared_->all)
    if (const auto wait = caller->wait()) waits.push_back(*wait);
  return waits;
}

void Callers::set_epoch(net::Epoch epoch) {
  shared_->epoch.store(epoch, std::memory_order_release);
  const std::lock_guard lock(shared_->mutex);
  for (const auto& caller : shared_->all) caller->wake();
}

}  // namespace btd::remote
