#include "fs/remote/caller.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "fs/remote/wire.h"

namespace btd::remote {

namespace {

// A home that is not connected may be somewhere else by now: asked so often.
constexpr net::Time kFollow = std::chrono::milliseconds(50);
// Breaks of a connection under one transfer that are not the network's.
constexpr unsigned kStuck = 2;

int meaning(int error) {
  switch (error) {
    case ESTALE:
    case EAGAIN:
      return wire::kOtherEpoch;
    case EACCES:
    case ERANGE:
      return kRegionGone;
    default:
      return error;
  }
}

}  // namespace

std::uint64_t random_number() {
  std::uint64_t number = 0;
  while (number == 0) static_cast<void>(::getrandom(&number, sizeof number, 0));
  return number;
}

bool is_passing(int error) {
  switch (error) {
    case EAGAIN:
    case EBUSY:
    case ECANCELED:
    case ECONNRESET:
    case ENOTCONN:
    case kRegionGone:
    case wire::kOtherEpoch:
      return true;
    default:
      return false;
  }
}

Caller::Caller(std::unique_ptr<net::Engine> engine, const Locate& locate,
               const std::atomic<net::Epoch>& epoch)
    : locate_(locate), epoch_(epoch), engine_(std::move(engine)) {
  rpc_.emplace(*engine_, *this);
}

Caller::~Caller() { rpc_.reset(); }

void Caller::wake() {
  const std::lock_guard lock(life_);
  if (engine_) engine_->wake();
}

// Without an engine nothing refers to anybody's memory.
Status Caller::break_down(Error why) {
  rpc_.reset();
  homes_.clear();
  const std::lock_guard lock(life_);
  engine_.reset();
  return fail(EIO, std::move(why.message));
}

void Caller::adopt_epoch() {
  const net::Epoch epoch = epoch_.load(std::memory_order_acquire);
  if (engine_->epoch() != epoch) engine_->set_epoch(epoch);
}

Result<Caller::Connection*> Caller::connect(NodeId home, Lane lane) {
  adopt_epoch();
  Connection& connection = homes_[home][static_cast<std::size_t>(lane)];
  if (connection.endpoint != nullptr) return &connection;
  BTD_ASSIGN(connection.address, locate_(home));
  BTD_ASSIGN(connection.endpoint, engine_->connect(connection.address, *rpc_));
  connection.is_up = false;
  return &connection;
}

Caller::Connection* Caller::find(const net::Endpoint& endpoint) {
  for (auto& [node, home] : homes_)
    for (Connection& connection : home)
      if (connection.endpoint == &endpoint) return &connection;
  return nullptr;
}

// One round of the engine. Errors: EIO it broke.
Status Caller::turn(NodeId home, Connection& connection, net::Time until) {
  adopt_epoch();
  if (!connection.is_up) until = std::min(until, net::after(now(), kFollow));
  auto waited = engine_->wait(until);
  if (!waited) return break_down(std::move(waited).error());
  if (!connection.is_up && connection.endpoint != nullptr) follow(home, connection);
  return {};
}

// Its home may have come back elsewhere, or be known to be away.
void Caller::follow(NodeId home, Connection& connection) {
  const auto address = locate_(home);
  if (!address || *address != connection.address) connection.endpoint->close();
}

Status Caller::call(NodeId home, Lane lane, net::Time deadline,
                    const std::function<Status(Calls&)>& run) {
  BTD_ASSIGN(Connection* const connection, connect(home, lane));
  Calls calls;
  calls.caller = this;
  calls.endpoint = connection->endpoint;
  calls.deadline = deadline;
  const Status posted = run(calls);
  while (calls.open > 0) BTD_TRY(turn(home, *connection, net::kNever));
  BTD_TRY(calls.failed);
  return posted;
}

Status Caller::transfer(NodeId home, std::span<net::Operation> operations, net::Time deadline,
                        const std::function<void()>& is_stuck) {
  BTD_ASSIGN(Connection* const connection, connect(home, Lane::kFirst));
  Transfer transfer;
  Status posted;
  for (net::Operation& operation : operations) {
    operation.token = reinterpret_cast<net::Token>(&transfer);
    operation.deadline = deadline;
    posted = connection->endpoint->post(operation);
    if (!posted) break;
    ++transfer.open;
  }
  const unsigned downs = connection->downs;
  bool is_told = false;
  while (transfer.open > 0) {
    BTD_TRY(turn(home, *connection, net::kNever));
    if (is_told || connection->downs - downs < kStuck || transfer.open == 0) continue;
    is_told = true;
    is_stuck();
    if (!is_alive()) return fail(EIO, "The engine broke.");
  }
  if (transfer.error != 0)
    return fail(meaning(transfer.error), "A transfer with the home of a file failed.");
  return posted;
}

void Caller::pause(net::Time time) {
  const net::Time until = net::after(now(), time);
  while (is_alive() && now() < until)
    if (auto waited = engine_->wait(until); !waited)
      static_cast<void>(break_down(std::move(waited).error()));
}

std::string Caller::why_unreached(NodeId home) const {
  const auto found = homes_.find(home);
  if (found == homes_.end() || found->second[0].is_up) return {};
  return found->second[0].why;
}

void Caller::on_completion(net::Endpoint& /*endpoint*/, const net::Completion& completion) {
  if (completion.token == 0) return;
  auto& transfer = *reinterpret_cast<Transfer*>(completion.token);
  --transfer.open;
  if (transfer.error == 0) transfer.error = completion.error;
}

void Caller::on_up(net::Endpoint& endpoint) {
  if (Connection* connection = find(endpoint)) connection->is_up = true;
}

void Caller::on_down(net::Endpoint& endpoint, const Error& why) {
  Connection* connection = find(endpoint);
  if (connection == nullptr) return;
  connection->is_up = false;
  connection->why = why.message;
  ++connection->downs;
}

void Caller::on_closed(net::Endpoint& endpoint, const Error& why) {
  Connection* connection = find(endpoint);
  if (connection == nullptr) return;
  connection->is_up = false;
  connection->why = why.message;
  connection->endpoint = nullptr;
}

// --- Waits, for those who ask what the thread does ---

Caller::Waiting::Waiting(Caller& caller, NodeId home) : caller_(caller) {
  caller_.waits_for_.store(home, std::memory_order_relaxed);
  caller_.waits_since_.store(std::chrono::steady_clock::now().time_since_epoch().count(),
                             std::memory_order_release);
}

Caller::Waiting::~Waiting() { caller_.waits_since_.store(0, std::memory_order_release); }

std::optional<Caller::Wait> Caller::wait() const {
  using std::chrono::steady_clock;
  const auto since = waits_since_.load(std::memory_order_acquire);
  if (since == 0) return std::nullopt;
  const steady_clock::time_point begin{steady_clock::duration(since)};
  return Wait{.home = waits_for_.load(std::memory_order_relaxed),
              .since = steady_clock::now() - begin};
}

}  // namespace btd::remote
