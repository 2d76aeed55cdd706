#include "tests/net/schedule.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "net/sim/sim_engine.h"

namespace btd::net::sim {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time kLongest = seconds(60);

struct Message {
  std::uint64_t client = 0, number = 0;
};

// Where a client's words lie in the server's region. A slot's words are equal, or a write was torn.
struct Slot {
  std::uint64_t counter = 0;
  std::array<std::uint64_t, 300> written{};
};

class Run;

class Client final : public Handler {
 public:
  Client(Run& run, std::uint64_t number) : run_(run), number_(number) {}

  void connect();
  void act();
  void on_completion(Endpoint& endpoint, const Completion& completion) override;
  void on_up(Endpoint& /*endpoint*/) override { ++connections; }
  void on_closed(Endpoint& /*endpoint*/, const Error& /*why*/) override { endpoint_ = nullptr; }
  void check_end(const Slot& slot);
  // The epoch has changed: what this client posted before may change its slot no more.
  void fence(const Slot& slot);
  void check_fence(const Slot& slot);
  [[nodiscard]] bool is_idle() const { return pending_.empty(); }

  std::uint64_t completed = 0, failed = 0, connections = 0;

 private:
  struct Posted {
    Token token = 0;
    Verb verb = Verb::kNone;
    std::uint64_t value = 0;     // of a write or a send what, of a cas8 what it expects
    std::uint64_t at_least = 0;  // of a read: what it must see
    std::unique_ptr<std::array<std::uint64_t, 300>> buffer;
  };

  void succeeded(const Posted& posted, const Completion& completion);
  void check_read(const Posted& posted);

  Run& run_;
  const std::uint64_t number_;
  Endpoint* endpoint_ = nullptr;
  std::deque<Posted> pending_;
  Token next_token_ = 1, last_success_ = 0;
  std::uint64_t next_write_ = 1, written_ = 0;  // the latest that surely took effect
  std::uint64_t next_message_ = 1;
  std::optional<std::uint64_t> counter_ = 0;  // unknown after a failure
  bool is_counting_ = false;
  // Of check_fence(): the slot as it was then, the first write of the epoch, and whether the swap
  // that is under way is an older one.
  Slot fenced_;
  std::uint64_t first_in_epoch_ = 0;
  bool is_swap_fenced_ = false;
};

class Server final : public Handler {
 public:
  explicit Server(Run& run) : run_(run) {}
  void on_completion(Endpoint& /*endpoint*/, const Completion& /*completion*/) override {}
  int on_message(Endpoint& endpoint, std::span<const std::byte> message) override;

 private:
  Run& run_;
};

class Run {
 public:
  explicit Run(const ScheduleOptions& options);
  ScheduleReport go();

  void violates(std::string what) {
    if (report.violation.empty())
      report.violation = "seed " + std::to_string(options.seed) + ": " + std::move(what);
  }
  [[nodiscard]] std::uint64_t below(std::uint64_t n) { return network.random()() % n; }

  void start_server();
  void disturb();
  void change_epoch();
  void check_fences();

  const ScheduleOptions options;
  ScheduleReport report;
  SimNetwork network;
  EngineOptions engine;
  std::array<Slot, 2> slots{};
  std::array<std::uint64_t, 2> last_message{};
  std::array<std::vector<bool>, 2> has_message;
  std::uint64_t lives = 0;  // of the server
  RegionDescriptor region;
  Server server_handler{*this};
  std::unique_ptr<SimEngine> server;
  std::array<std::unique_ptr<SimEngine>, 2> engines;
  std::array<std::unique_ptr<Client>, 2> clients;
};

Faults faults_for(std::uint64_t seed, bool forge) {
  switch (forge ? 2 : seed % 3) {
    case 0:
      return {.cut = 0.03, .cut_in_silence = 0.4};
    case 1:
      return {.latency_max = milliseconds(2)};
    default:
      return {.may_lose = true, .loss = 0.03, .repeat = 0.05, .delay = 0.05, .forge = forge};
  }
}

Run::Run(const ScheduleOptions& chosen)
    : options(chosen), network(chosen.seed, faults_for(chosen.seed, chosen.forge)) {
  engine.limits.window = static_cast<std::uint32_t>(2 + below(7));
  engine.limits.queued = 64;
  engine.patience = {.connect = milliseconds(50),
                     .silence = milliseconds(20),
                     .reconnect = milliseconds(500),
                     .linger = milliseconds(700)};
  start_server();
  for (std::uint64_t i = 0; i < clients.size(); ++i) {
    engines.at(i) = std::make_unique<SimEngine>(network, "client" + std::to_string(i), engine);
    clients.at(i) = std::make_unique<Client>(*this, i);
    has_message.at(i).resize(4 * options.steps + 8);
    clients.at(i)->connect();
  }
}

void Run::start_server() {
  ++lives;
  server = std::make_unique<SimEngine>(network, "server", engine);
  static_cast<void>(server->listen("server", [this](Endpoint&) { return &server_handler; }));
  const std::span memory = std::as_writable_bytes(std::span{slots});
  const auto made =
      server->register_region(memory, kRemoteRead | kRemoteWrite | kRemoteCas, nullptr);
  region = made.value_or(RegionDescriptor{});
}

void Run::disturb() {
  switch (below(16)) {
    case 0:
      network.partition("client0", "server");
      break;
    case 1:
      network.partition("server", "client1");
      break;
    case 2:
      network.pause("server", true);
      break;
    case 3:
      network.slow("client1", static_cast<unsigned>(1 + below(200)));
      break;
    case 4:
      engines.at(below(2))->cut_links();
      break;
    case 5:
      server->cut_links();
      break;
    case 6:
      if (below(4) == 0) {
        server.reset();  // a crash: nobody is told
        start_server();
      }
      break;
    case 7:
      change_epoch();
      break;
    default:
      network.mend();
      network.pause("server", false);
  }
}

void Run::change_epoch() {
  check_fences();
  ++engine.epoch;  // also of the server's next life
  server->set_epoch(engine.epoch);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    engines.at(i)->set_epoch(engine.epoch);
    clients.at(i)->fence(slots.at(i));
  }
}

void Run::check_fences() {
  for (std::size_t i = 0; i < clients.size(); ++i) clients.at(i)->check_fence(slots.at(i));
}

ScheduleReport Run::go() {
  for (std::uint64_t step = 0; step < options.steps && report.violation.empty(); ++step) {
    for (auto& client : clients)
      for (std::uint64_t n = below(4); n > 0; --n) client->act();
    disturb();
    for (std::uint64_t n = below(60); n > 0; --n) network.run_one(network.now() + milliseconds(30));
    check_fences();
  }
  network.mend();
  network.pause("server", false);
  const auto is_idle = [&] { return clients[0]->is_idle() && clients[1]->is_idle(); };
  if (!network.run_until(is_idle, kLongest)) violates("an operation has not completed");
  static_cast<void>(network.run_until([] { return false; }, seconds(3)));
  check_fences();
  for (std::size_t i = 0; i < clients.size(); ++i) {
    clients.at(i)->check_end(slots.at(i));
    report.completed += clients.at(i)->completed;
    report.failed += clients.at(i)->failed;
    report.connections += clients.at(i)->connections;
  }
  return report;
}

int Server::on_message(Endpoint& /*endpoint*/, std::span<const std::byte> message) {
  Message got;
  if (message.size() != sizeof(got)) {
    run_.violates("a message has another size");
    return 0;
  }
  std::memcpy(&got, message.data(), sizeof(got));
  if (got.client > 1 || got.number >= run_.has_message[got.client].size()) {
    run_.violates("a message was never sent");
    return 0;
  }
  if (got.number <= run_.last_message[got.client])
    run_.violates("message " + std::to_string(got.number) + " came after " +
                  std::to_string(run_.last_message[got.client]));
  run_.last_message[got.client] = got.number;
  run_.has_message[got.client][got.number] = true;
  return 0;
}

void Client::connect() {
  auto connected = run_.engines.at(number_)->connect("server", *this);
  endpoint_ = connected ? *connected : nullptr;
}

void Client::act() {
  if (endpoint_ == nullptr) return connect();
  const RemoteRange counter{run_.region.key, number_ * sizeof(Slot)};
  const RemoteRange words{run_.region.key, counter.offset + sizeof(std::uint64_t)};
  Posted posted{.token = next_token_, .buffer = std::make_unique<std::array<std::uint64_t, 300>>()};
  iovec local{posted.buffer->data(), sizeof(*posted.buffer)};
  Operation operation{.token = next_token_,
                      .deadline = run_.below(4) == 0
                                      ? run_.network.now() + milliseconds(1 + run_.below(60))
                                      : run_.network.now() + seconds(20),
                      .remote = words,
                      .local = {&local, 1}};
  switch (run_.below(4)) {
    case 0:
      operation.verb = Verb::kRead;
      posted.at_least = written_;
      break;
    case 1:
      operation.verb = Verb::kWritePersist;
      posted.value = next_write_;
      posted.buffer->fill(posted.value);
      break;
    case 2:
      operation.verb = Verb::kSend;
      posted.value = next_message_;
      (*posted.buffer)[0] = number_;
      (*posted.buffer)[1] = posted.value;
      local.iov_len = sizeof(Message);
      break;
    default:
      if (!counter_ || is_counting_) return;
      operation.verb = Verb::kCas8;
      operation.remote = counter;
      operation.local = {};
      operation.expected = posted.value = *counter_;
      operation.desired = *counter_ + 1;
  }
  if (!endpoint_->post(operation)) return;
  posted.verb = operation.verb;
  ++next_token_;
  next_write_ += posted.verb == Verb::kWritePersist ? 1 : 0;
  next_message_ += posted.verb == Verb::kSend ? 1 : 0;
  is_counting_ = is_counting_ || posted.verb == Verb::kCas8;
  pending_.push_back(std::move(posted));
}

void Client::on_completion(Endpoint& /*endpoint*/, const Completion& completion) {
  auto found = pending_.begin();
  while (found != pending_.end() && found->token != completion.token) ++found;
  if (found == pending_.end()) return run_.violates("a completion came twice, or for nothing");
  const Posted posted = std::move(*found);
  pending_.erase(found);
  if (posted.verb == Verb::kCas8) is_counting_ = is_swap_fenced_ = false;
  if (completion.error == 0) {
    ++completed;
    if (completion.token < last_success_) run_.violates("completions are out of order");
    last_success_ = completion.token;
    return succeeded(posted, completion);
  }
  ++failed;
  switch (completion.error) {
    case ESTALE:
    case EAGAIN:
      break;  // nothing was done
    case ETIMEDOUT:
    case ECONNRESET:
    case ECANCELED:
    case EACCES:  // the server has begun a new life, with new keys
      if (posted.verb == Verb::kCas8) counter_ = std::nullopt;
      break;
    default:
      run_.violates("an error that nothing explains: " + std::to_string(completion.error));
  }
}

void Client::succeeded(const Posted& posted, const Completion& completion) {
  switch (posted.verb) {
    case Verb::kRead:
      return check_read(posted);
    case Verb::kWritePersist:
      written_ = posted.value;
      return;
    case Verb::kSend:
      if (!run_.has_message.at(number_)[posted.value])
        run_.violates("a message is acknowledged that has not come");
      return;
    default:
      if (completion.value != posted.value)
        run_.violates("a counter was " + std::to_string(completion.value) + " in place of " +
                      std::to_string(posted.value));
      counter_ = posted.value + 1;
  }
}

void Client::check_read(const Posted& posted) {
  const auto& words = *posted.buffer;
  if (words.front() < posted.at_least || words.front() >= next_write_)
    run_.violates("a read gave " + std::to_string(words.front()) + ", and " +
                  std::to_string(posted.at_least) + " was written before");
}

void Client::fence(const Slot& slot) {
  fenced_ = slot;
  first_in_epoch_ = next_write_;
  is_swap_fenced_ = is_counting_;
}

void Client::check_fence(const Slot& slot) {
  for (std::size_t i = 0; i < slot.written.size(); ++i)
    if (slot.written.at(i) < first_in_epoch_ && slot.written.at(i) != fenced_.written.at(i))
      run_.violates("a write of an older epoch still came: " + std::to_string(slot.written.at(i)));
  if (is_swap_fenced_ && slot.counter != fenced_.counter)
    run_.violates("a swap of an older epoch was still done");
}

void Client::check_end(const Slot& slot) {
  if (slot.written.front() < written_ || slot.written.front() >= next_write_)
    run_.violates("the last write is lost: " + std::to_string(slot.written.front()) + " after " +
                  std::to_string(written_));
  if (counter_ && slot.counter != *counter_)
    run_.violates("a counter is " + std::to_string(slot.counter) + " in place of " +
                  std::to_string(*counter_));
}

}  // namespace

ScheduleReport run_schedule(const ScheduleOptions& options) { return Run(options).go(); }

}  // namespace btd::net::sim
