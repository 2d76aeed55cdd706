#include "fs/remote/keeper.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace btd::remote {

namespace {

constexpr net::Time kFirstBackoff = std::chrono::milliseconds(100);
constexpr net::Time kLastBackoff = std::chrono::seconds(5);
constexpr net::Time kPatience = std::chrono::seconds(30);  // with the answer to a greeting

}  // namespace

Keeper::Keeper(EngineFactory engines, Locate locate, std::uint64_t client, Owner& owner)
    : engines_(std::move(engines)), locate_(std::move(locate)), client_(client), owner_(owner) {}

Keeper::~Keeper() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    if (engine_) engine_->wake();
  }
  if (thread_.joinable()) thread_.join();
}

void Keeper::opened(NodeId home) {
  const std::lock_guard lock(mutex_);
  if (files_[home]++ > 0) return;
  if (engine_) {
    engine_->wake();
  } else {
    start_locked();
  }
}

void Keeper::closed(NodeId home) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(home);
  if (found == files_.end() || --found->second > 0) return;
  files_.erase(found);
  if (engine_) engine_->wake();
}

// Without an engine now, the next home is another occasion; until then homes know this node by the
// connections of its threads.
void Keeper::start_locked() {
  if (thread_.joinable()) thread_.join();  // its engine broke
  auto engine = engines_();
  if (!engine) return;
  engine_ = *std::move(engine);
  thread_ = std::thread([this] { run(); });
}

bool Keeper::is_wanted(NodeId home) {
  const std::lock_guard lock(mutex_);
  return files_.contains(home);
}

void Keeper::run() {
  net::Engine& engine = *engine_;
  rpc_.emplace(engine, *this);
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (is_stopping_) break;
      for (const auto& [home, count] : files_) kept_.try_emplace(home);
    }
    if (!engine.wait(attend())) break;
  }
  rpc_.reset();
  kept_.clear();
  std::unique_ptr<net::Engine> ended;  // here, where it was used
  const std::lock_guard lock(mutex_);
  ended = std::move(engine_);
}

net::Time Keeper::attend() {
  const net::Time now = engine_->now();
  net::Time next = net::kNever;
  for (auto at = kept_.begin(); at != kept_.end();) {
    auto& [home, kept] = *at;
    if (!is_wanted(home) && !kept.told) {
      if (kept.endpoint != nullptr) {
        kept.endpoint->close();  // on_closed() follows in a round
        ++at;
      } else {
        at = kept_.erase(at);
      }
      continue;
    }
    if (kept.endpoint == nullptr && now >= kept.retry) connect(home, kept, now);
    if (kept.endpoint == nullptr) next = std::min(next, kept.retry);
    if (kept.endpoint != nullptr && kept.told && !kept.is_asked) {
      if (now >= kept.tell_again) {
        kept.tell_again = now + kFirstBackoff;  // where there is no connection yet
        tell_next(home);
      }
      next = std::min(next, kept.tell_again);
    }
    ++at;
  }
  return next;
}

void Keeper::connect(NodeId home, Kept& kept, net::Time now) {
  kept.backoff = std::clamp(2 * kept.backoff, kFirstBackoff, kLastBackoff);
  kept.retry = now + kept.backoff;
  const auto address = locate_(home);
  if (!address) return kept.told.reset();  // nobody holds anything there
  if (const auto endpoint = engine_->connect(*address, *rpc_)) kept.endpoint = *endpoint;
}

void Keeper::on_up(net::Endpoint& endpoint) {
  static_cast<void>(rpc_->call<wire::GreetRequest, wire::Done>(
      endpoint, wire::kGreet, {.client = client_}, {}, net::after(engine_->now(), kPatience),
      [](const Result<wire::Done>&, net::Rpc::Bytes) {}));
  for (auto& [home, kept] : kept_) {
    if (kept.endpoint != &endpoint) continue;
    kept.backoff = {};
    // Also the first time: home may have started anew since a thread opened them.
    kept.to_hold = owner_.open_files(home);
    tell_next(home);
  }
}

void Keeper::tell_next(NodeId home) {
  const auto found = kept_.find(home);
  if (found == kept_.end() || found->second.endpoint == nullptr || found->second.is_asked) return;
  Kept& kept = found->second;
  if (!kept.told) {
    if (kept.to_hold.empty()) return;
    kept.told = kept.to_hold.back();
    kept.to_hold.pop_back();
  }
  const net::Time until = net::after(engine_->now(), kPatience);
  Status asked;
  if (owner_.is_open(*kept.told)) {
    asked = rpc_->call<wire::AttachRequest, wire::AttachResponse>(
        *kept.endpoint, wire::kAttach, *kept.told, {}, until,
        [this, home](const Result<wire::AttachResponse>& response, net::Rpc::Bytes) {
          answered(home, true, response ? nullptr : &response.error());
        });
  } else {
    asked = rpc_->call<wire::DetachRequest, wire::Done>(
        *kept.endpoint, wire::kDetach,
        {.id = kept.told->id, .client = client_, .generation = kept.told->generation}, {}, until,
        [this, home](const Result<wire::Done>& response, net::Rpc::Bytes) {
          answered(home, false, response ? nullptr : &response.error());
        });
  }
  kept.is_asked = asked.has_value();
  if (!asked) kept.to_hold.clear();  // its connection ends; the next one begins again
}

void Keeper::answered(NodeId home, bool is_hold, const Error* error) {
  const auto found = kept_.find(home);
  if (found == kept_.end()) return;
  Kept& kept = found->second;
  kept.is_asked = false;
  if (error != nullptr && (is_passing(error->code) || error->code == ETIMEDOUT)) {
    // Whether it is held is unknown. attend() asks again, or the next connection does.
    kept.tell_again = engine_->now() + kFirstBackoff;
    return;
  }
  if (error != nullptr || !is_hold || owner_.is_open(*kept.told)) kept.told.reset();
  tell_next(home);
}

void Keeper::on_forgotten(net::Endpoint& endpoint) {
  for (const auto& [home, kept] : kept_)
    if (kept.endpoint == &endpoint) tell_next(home);
}

void Keeper::on_closed(net::Endpoint& endpoint, const Error& /*why*/) {
  for (auto& [home, kept] : kept_)
    if (kept.endpoint == &endpoint) {
      kept.endpoint = nullptr;
      kept.to_hold.clear();
    }
}

}  // namespace btd::remote
