// What the engines share, driven by hand: the order in which links come, end and come again, which
// a simulated network does not have.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "net/session_engine.h"
#include "tests/net/recorder.h"

namespace btd::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A shell whose links are what the test says; `out` is what it would have sent.
class Shell final : public SessionEngine {
 public:
  explicit Shell(const EngineOptions& options) : SessionEngine(options, seeded_random(1)) {}
  Result<std::string> listen(std::string_view /*address*/, Acceptor /*acceptor*/) override {
    return std::string();
  }
  Result<Endpoint*> connect(std::string_view address, Handler& handler) override {
    return add_connecting(std::string(address), handler);
  }
  [[nodiscard]] Time now() const override { return clock; }
  Result<std::size_t> poll() override { return step(); }
  Result<std::size_t> wait(Time /*deadline*/) override { return step(); }
  void wake() override {}

  using SessionEngine::accept;
  using SessionEngine::Accepted;
  using SessionEngine::feed;
  using SessionEngine::link_ended;
  using SessionEngine::MustBreak;
  using SessionEngine::next_time;
  using SessionEngine::Refused;

  // The peer's answer to the attempt that was begun.
  void answer(SessionEndpoint& endpoint) {
    wire::Hello answer;
    answer.attempt = attempt.attempt;
    answer.session = attempt.session;
    answer.state = 77;
    answer.transfer_bytes = 16 << 20;
    answer.message_bytes = 64 << 10;
    answer.window = 16;
    ASSERT_TRUE(endpoint.session().answered(wire::sealed(answer)).has_value());
    attempt_done(endpoint);
  }
  // Sends at most so many bytes.
  void send(SessionEndpoint& endpoint, std::size_t most) {
    std::array<iovec, 64> segments{};
    Connection* connection = endpoint.connection();
    while (connection != nullptr && most > 0) {
      std::size_t count = 0;
      const std::size_t n = connection->gather(segments, most);
      for (const iovec& segment : std::span{segments}.first(n)) {
        const auto* from = static_cast<const std::byte*>(segment.iov_base);
        out.insert(out.end(), from, from + segment.iov_len);
        count += segment.iov_len;
      }
      if (count == 0) return;
      connection->sent(count);
      most -= count;
      mark(endpoint);
    }
  }

  Time clock = seconds(1);
  std::size_t speed = SIZE_MAX;  // bytes that pump() sends
  wire::Hello attempt;
  int breaks = 0;
  std::vector<std::byte> out;

 protected:
  std::unique_ptr<SessionEndpoint> make_endpoint(SessionEndpoint::Role role, wire::SessionId id,
                                                 std::string peer_name) override {
    return std::make_unique<SessionEndpoint>(*this, role, id, std::move(peer_name));
  }
  void start_attempt(SessionEndpoint& endpoint) override {
    attempt = endpoint.session().begin_attempt(node());
  }
  void break_link(SessionEndpoint& endpoint) override {
    ++breaks;
    link_ended(endpoint, {ECONNRESET, "It was cut."});
  }
  void pump(SessionEndpoint& endpoint) override { send(endpoint, speed); }
};

EngineOptions options() {
  return {.patience = {.connect = seconds(1),
                       .silence = seconds(2),
                       .reconnect = seconds(10),
                       .linger = seconds(30)}};
}

wire::Hello hello(std::uint32_t attempt, NodeId node = 3) {
  wire::Hello hello;
  hello.node = node;
  hello.attempt = attempt;
  hello.session = {.high = 5, .low = 6};
  hello.transfer_bytes = 1 << 20;
  hello.window = 16;
  hello.message_bytes = 1 << 16;
  return wire::sealed(hello);
}

std::vector<std::byte> request(Verb verb, std::uint64_t seq, std::uint64_t key,
                               std::span<const std::byte> payload, std::uint32_t wanted = 0) {
  wire::RequestHeader header;
  header.verb = static_cast<std::uint8_t>(verb);
  header.seq = seq;
  header.key = key;
  header.length = verb == Verb::kRead ? wanted : static_cast<std::uint32_t>(payload.size());
  header = wire::sealed(header);
  std::vector<std::byte> frame(sizeof(header) + payload.size());
  std::memcpy(frame.data(), &header, sizeof(header));
  std::ranges::copy(payload, frame.begin() + sizeof(header));
  return frame;
}

std::vector<std::byte> write_request(std::uint64_t seq, std::uint64_t key,
                                     std::span<const std::byte> payload) {
  return request(Verb::kWritePersist, seq, key, payload);
}

class SessionEngineTest : public ::testing::Test {
 protected:
  explicit SessionEngineTest(const EngineOptions& with = options()) : shell(with) {}

  SessionEndpoint* accept(const wire::Hello& from) {
    auto acceptance = shell.accept(from, "peer", [this](Endpoint&) { return &events; });
    const auto* accepted = std::get_if<Shell::Accepted>(&acceptance);
    return accepted == nullptr ? nullptr : accepted->endpoint;
  }

  // Of a peer that has just come.
  void take_message() {
    SessionEndpoint* endpoint = accept(hello(1));
    ASSERT_NE(endpoint, nullptr);
    const std::array payload{std::byte{1}};
    shell.feed(*endpoint, request(Verb::kSend, 0, 0, payload));
    ASSERT_TRUE(shell.poll().has_value());
  }

  // Of a shell that sent nothing but answers without a payload.
  [[nodiscard]] wire::ResponseHeader last_answer() const {
    wire::ResponseHeader answer;
    EXPECT_GE(shell.out.size(), sizeof(answer));
    if (shell.out.size() >= sizeof(answer))
      std::memcpy(&answer, shell.out.data() + shell.out.size() - sizeof(answer), sizeof(answer));
    return answer;
  }

  Recorder events;
  Shell shell;
};

class LateEngineTest : public SessionEngineTest {
 protected:
  LateEngineTest() : SessionEngineTest(late()) {}

 private:
  static EngineOptions late() {
    EngineOptions with = options();
    with.late = milliseconds(1);
    return with;
  }
};

// The link ends between a write and the fence that fails: the write may not pass for durable when
// it is asked for again.
TEST_F(SessionEngineTest, AWriteThatIsNotDurableIsNotAcknowledgedLater) {
  alignas(64) static std::array<std::byte, 4096> memory;
  Persist persist(Domain::kMsync);
  const auto region = shell.register_region(memory, kRemoteWrite, &persist);
  ASSERT_TRUE(region.has_value());
  SessionEndpoint* endpoint = accept(hello(1));
  ASSERT_NE(endpoint, nullptr);
  ASSERT_TRUE(shell.poll().has_value());
  const std::array payload{std::byte{1}, std::byte{2}};
  const auto frame = write_request(0, region->key, payload);
  shell.feed(*endpoint, frame);
  persist.flush(reinterpret_cast<const void*>(64 * kPageBytes), 8);  // nothing is mapped there
  ASSERT_FALSE(persist.healthy());
  shell.link_ended(*endpoint, {ECONNRESET, "It was cut."});
  ASSERT_TRUE(shell.poll().has_value());
  ASSERT_TRUE(shell.out.empty());

  ASSERT_EQ(accept(hello(2)), endpoint);
  ASSERT_TRUE(shell.poll().has_value());
  shell.feed(*endpoint, frame);
  ASSERT_TRUE(shell.poll().has_value());
  wire::ResponseHeader answer;
  ASSERT_GE(shell.out.size(), sizeof(answer));
  std::memcpy(&answer, shell.out.data(), sizeof(answer));
  EXPECT_EQ(answer.seq, 0U);
  EXPECT_EQ(answer.error, EIO);
}

TEST_F(SessionEngineTest, TheAnswerToAMessageWaitsForNothing) {
  take_message();
  EXPECT_EQ(last_answer().seq, 0U);
  EXPECT_EQ(shell.next_time(), kNever);
}

TEST_F(LateEngineTest, TheAnswerToAMessageWaitsAMomentForSomethingToGoWith) {
  take_message();
  EXPECT_EQ(events.messages.size(), 1U);
  EXPECT_TRUE(shell.out.empty());
  EXPECT_EQ(shell.next_time(), shell.clock + milliseconds(1));
  shell.clock += milliseconds(1);
  ASSERT_TRUE(shell.poll().has_value());
  EXPECT_EQ(last_answer().seq, 0U);
  EXPECT_EQ(shell.next_time(), kNever) << "nobody is woken once all is said";
}

TEST_F(SessionEngineTest, AnAcceptorMayRefuseWhatItHasUsed) {
  std::array<std::byte, 8> bytes{};
  const iovec local{bytes.data(), bytes.size()};
  auto acceptance = shell.accept(hello(1), "peer", [&](Endpoint& endpoint) -> Handler* {
    EXPECT_TRUE(endpoint.send({&local, 1}, 1, kNever).has_value());
    endpoint.close();
    return nullptr;
  });
  EXPECT_TRUE(std::holds_alternative<Shell::Refused>(acceptance));
  EXPECT_EQ(shell.endpoints(), 0U);
  EXPECT_EQ(shell.next_time(), kNever) << "nothing may be left of it";
  if (shell.next_time() == kNever) {
    ASSERT_TRUE(shell.poll().has_value());
  }
}

TEST_F(SessionEngineTest, AnOlderAttemptDoesNotEndTheNewerOne) {
  SessionEndpoint* endpoint = accept(hello(2));
  ASSERT_NE(endpoint, nullptr);
  ASSERT_TRUE(shell.poll().has_value());
  const auto late = shell.accept(hello(1), "peer", {});
  EXPECT_TRUE(std::holds_alternative<Shell::Refused>(late));
  EXPECT_TRUE(endpoint->is_up());
}

TEST_F(SessionEngineTest, AnotherNodeDoesNotTakeOverASession) {
  SessionEndpoint* endpoint = accept(hello(1));
  ASSERT_NE(endpoint, nullptr);
  ASSERT_TRUE(shell.poll().has_value());
  const auto stolen = shell.accept(hello(2, 4), "other", {});
  EXPECT_TRUE(std::holds_alternative<Shell::Refused>(stolen));
  EXPECT_TRUE(endpoint->is_up());
  EXPECT_EQ(endpoint->peer(), 3);
}

// A long write to a slow peer, which owes no answer before it has the bytes.
TEST_F(SessionEngineTest, WhoTakesBytesIsNotSilent) {
  auto connected = shell.connect("peer", events);
  ASSERT_TRUE(connected.has_value());
  auto& endpoint = dynamic_cast<SessionEndpoint&>(**connected);
  ASSERT_TRUE(shell.poll().has_value());
  shell.answer(endpoint);
  shell.speed = 16 << 10;
  std::vector<std::byte> bytes(8 << 20);
  const iovec local{bytes.data(), bytes.size()};
  ASSERT_TRUE(endpoint.write_persist({&local, 1}, {1, 0}, 1, kNever).has_value());
  for (int i = 0; i < 100; ++i) {  // 10 s
    ASSERT_TRUE(shell.poll().has_value());
    shell.clock += milliseconds(100);
  }
  EXPECT_EQ(shell.breaks, 0);
  EXPECT_TRUE(endpoint.is_up());
  shell.speed = 0;
  for (int i = 0; i < 60 && shell.breaks == 0; ++i) {
    ASSERT_TRUE(shell.poll().has_value());
    shell.clock += milliseconds(100);
  }
  EXPECT_EQ(shell.breaks, 1) << "now it is";
}

TEST_F(SessionEngineTest, SaysWhyThoughItIsClosedMeanwhile) {
  class Closer final : public Handler {
   public:
    void on_completion(Endpoint& endpoint, const Completion& /*completion*/) override {
      endpoint.close();
    }
    void on_down(Endpoint& endpoint, const Error& why) override {
      if (must_close) endpoint.close();
      down = why.message;
    }
    void on_closed(Endpoint& /*endpoint*/, const Error& why) override { closed = why.message; }
    std::string down, closed;
    bool must_close = false;
  };
  Closer closer;
  auto connected = shell.connect("peer", closer);
  ASSERT_TRUE(connected.has_value());
  auto* endpoint = dynamic_cast<SessionEndpoint*>(*connected);
  ASSERT_TRUE(shell.poll().has_value());
  shell.answer(*endpoint);
  ASSERT_TRUE(shell.poll().has_value());
  ASSERT_TRUE(endpoint->cas8({1, 0}, 0, 1, 1, kNever).has_value());
  shell.link_ended(*endpoint, {ECONNRESET, "The first cut."});
  EXPECT_EQ(closer.down, "The first cut.");
  for (int i = 0; i < 200 && closer.closed.empty(); ++i) {
    ASSERT_TRUE(shell.poll().has_value());
    if (shell.endpoints() != 0 && endpoint->phase() == SessionEndpoint::Phase::kAttempt)
      shell.link_ended(*endpoint, {ECONNREFUSED, "Nobody listens."});
    shell.clock += milliseconds(100);
  }
  EXPECT_EQ(closer.closed, "Nobody listens.");

  closer.must_close = true;
  connected = shell.connect("peer", closer);
  ASSERT_TRUE(connected.has_value());
  endpoint = dynamic_cast<SessionEndpoint*>(*connected);
  ASSERT_TRUE(shell.poll().has_value());
  shell.answer(*endpoint);
  ASSERT_TRUE(shell.poll().has_value());
  shell.link_ended(*endpoint, {ECONNRESET, "A cut with a long sentence about its cause."});
  EXPECT_EQ(closer.down, "A cut with a long sentence about its cause.");
}

TEST_F(SessionEngineTest, PatienceMayHaveNoEnd) {
  EngineOptions patient = options();
  patient.patience.silence = kNever;
  Shell other(patient);
  auto connected = other.connect("peer", events);
  ASSERT_TRUE(connected.has_value());
  auto& endpoint = dynamic_cast<SessionEndpoint&>(**connected);
  ASSERT_TRUE(other.poll().has_value());
  other.answer(endpoint);
  ASSERT_TRUE(endpoint.cas8({1, 0}, 0, 1, 1, kNever).has_value());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(other.poll().has_value());
  EXPECT_GT(other.next_time(), other.clock);
}

// Two things in one poll: the peer connects, and what it says at once.
TEST_F(SessionEngineTest, IsUpBeforeItsFirstMessage) {
  class Order final : public Handler {
   public:
    void on_completion(Endpoint& /*endpoint*/, const Completion& /*completion*/) override {}
    int on_message(Endpoint& /*endpoint*/, std::span<const std::byte> /*message*/) override {
      calls += "message ";
      return 0;
    }
    void on_up(Endpoint& /*endpoint*/) override { calls += "up "; }
    std::string calls;
  };
  Order order;
  auto acceptance = shell.accept(hello(1), "peer", [&](Endpoint&) { return &order; });
  const auto* accepted = std::get_if<Shell::Accepted>(&acceptance);
  ASSERT_NE(accepted, nullptr);
  wire::RequestHeader header;
  header.verb = static_cast<std::uint8_t>(Verb::kSend);
  header = wire::sealed(header);
  shell.feed(*accepted->endpoint, std::as_bytes(std::span{&header, 1}));
  ASSERT_TRUE(shell.poll().has_value());
  EXPECT_EQ(order.calls, "up message ");
}

// --- Epochs ---

TEST_F(SessionEngineTest, NoByteOfAnOlderEpochLands) {
  std::array<std::byte, 64> memory{};
  const auto region = shell.register_region(memory, kRemoteWrite, nullptr);
  ASSERT_TRUE(region.has_value());
  SessionEndpoint* endpoint = accept(hello(1));
  ASSERT_NE(endpoint, nullptr);
  std::array<std::byte, 64> payload{};
  payload.fill(std::byte{1});
  const auto frame = write_request(0, region->key, payload);
  shell.feed(*endpoint, std::span{frame}.first(frame.size() - 40));
  shell.set_epoch(1);
  EXPECT_TRUE(shell.deregister_region(region->key).has_value()) << "nothing may use it any more";
  shell.feed(*endpoint, std::span{frame}.last(40));
  EXPECT_EQ(memory[23], std::byte{1}) << "what came before";
  EXPECT_EQ(memory[24], std::byte{}) << "what came afterwards";
  ASSERT_TRUE(shell.poll().has_value());
  const wire::ResponseHeader answer = last_answer();
  EXPECT_EQ(answer.error, ESTALE);
  EXPECT_EQ(answer.value, 1U);
  EXPECT_TRUE(endpoint->is_up());
}

TEST_F(SessionEngineTest, NoSwapOfAnOlderEpochIsDone) {
  alignas(8) std::array<std::byte, 8> memory{};
  const auto region = shell.register_region(memory, kRemoteCas, nullptr);
  ASSERT_TRUE(region.has_value());
  SessionEndpoint* endpoint = accept(hello(1));
  ASSERT_NE(endpoint, nullptr);
  const wire::CasOperands operands{.expected = 0, .desired = 9};
  const auto frame = request(Verb::kCas8, 0, region->key, wire::bytes_of(operands));
  shell.feed(*endpoint, std::span{frame}.first(frame.size() - 1));
  shell.set_epoch(1);
  shell.feed(*endpoint, std::span{frame}.last(1));
  EXPECT_EQ(memory[0], std::byte{});
  ASSERT_TRUE(shell.poll().has_value());
  EXPECT_EQ(last_answer().error, ESTALE);
}

// Two requests in one piece: the first one's receiver learns of the epoch.
TEST_F(SessionEngineTest, TheEpochHoldsForWhatCameInTheSamePiece) {
  class Learner final : public Handler {
   public:
    explicit Learner(Shell& shell) : shell_(shell) {}
    void on_completion(Endpoint& /*endpoint*/, const Completion& /*completion*/) override {}
    int on_message(Endpoint& /*endpoint*/, std::span<const std::byte> /*message*/) override {
      shell_.set_epoch(1);
      return 0;
    }

   private:
    Shell& shell_;
  };
  Learner learner(shell);
  std::array<std::byte, 8> memory{};
  const auto region = shell.register_region(memory, kRemoteWrite, nullptr);
  ASSERT_TRUE(region.has_value());
  auto acceptance = shell.accept(hello(1), "peer", [&](Endpoint&) { return &learner; });
  const auto* accepted = std::get_if<Shell::Accepted>(&acceptance);
  ASSERT_NE(accepted, nullptr);
  const std::array payload{std::byte{1}};
  auto frames = request(Verb::kSend, 0, 0, payload);
  const auto write = write_request(1, region->key, payload);
  frames.insert(frames.end(), write.begin(), write.end());
  shell.feed(*accepted->endpoint, frames);
  EXPECT_EQ(memory[0], std::byte{});
}

// --- Regions that close ---

class ClosingRegion : public SessionEngineTest {
 protected:
  void SetUp() override {
    const auto made = shell.register_region(memory, kRemoteRead | kRemoteWrite, nullptr);
    ASSERT_TRUE(made.has_value());
    region = *made;
    endpoint = accept(hello(1));
    ASSERT_NE(endpoint, nullptr);
    ASSERT_TRUE(shell.poll().has_value());
  }
  // The region closes, and its user does nothing more.
  void expect_it_ends() {
    EXPECT_EQ(shell.deregister_region(region.key).error().code, EBUSY);
    shell.clock += options().patience.silence - milliseconds(1);
    ASSERT_TRUE(shell.poll().has_value());
    EXPECT_EQ(shell.deregister_region(region.key).error().code, EBUSY);
    EXPECT_EQ(shell.breaks, 0) << "a slow peer has its time";
    EXPECT_LE(shell.next_time(), shell.clock + milliseconds(1)) << "who sleeps is woken for it";
    shell.clock += milliseconds(1);
    ASSERT_TRUE(shell.poll().has_value());
    ASSERT_TRUE(shell.poll().has_value());
    EXPECT_EQ(shell.breaks, 1);
    EXPECT_TRUE(shell.deregister_region(region.key).has_value());
  }

  std::vector<std::byte> memory = std::vector<std::byte>(64 << 10);
  RegionDescriptor region;
  SessionEndpoint* endpoint = nullptr;
};

TEST_F(ClosingRegion, DoesNotWaitForTheRestOfAWrite) {
  const std::vector<std::byte> payload(4096);
  const auto frame = write_request(0, region.key, payload);
  shell.feed(*endpoint, std::span{frame}.first(1000));
  expect_it_ends();
}

TEST_F(ClosingRegion, DoesNotWaitForWhoTakesNoAnswers) {
  shell.speed = 10;
  auto frames = request(Verb::kRead, 0, region.key, {}, 64 << 10);
  const auto second = request(Verb::kRead, 1, region.key, {}, 64 << 10);
  frames.insert(frames.end(), second.begin(), second.end());
  shell.feed(*endpoint, frames);
  ASSERT_TRUE(shell.poll().has_value());
  shell.speed = 0;
  expect_it_ends();
}

TEST_F(ClosingRegion, EndsNoLinkThatDoesNotUseIt) {
  shell.speed = 0;
  std::vector<std::byte> others(64 << 10);
  const auto other = shell.register_region(others, kRemoteRead, nullptr);
  ASSERT_TRUE(other.has_value());
  const auto frame = write_request(0, region.key, memory);
  shell.feed(*endpoint, std::span{frame}.first(1000));
  wire::Hello second = hello(1, 4);
  second.session.low = 9;
  SessionEndpoint* bystander = accept(wire::sealed(second));
  ASSERT_NE(bystander, nullptr);
  shell.feed(*bystander, request(Verb::kRead, 0, other->key, {}, 64 << 10));
  expect_it_ends();
  EXPECT_TRUE(bystander->is_up());
}

// --- Reconnecting ---

// Nine seconds with a peer whose links come up and break at once.
TEST_F(SessionEngineTest, ALinkThatBreaksAtOnceIsTriedLessOften) {
  auto connected = shell.connect("peer", events);
  ASSERT_TRUE(connected.has_value());
  auto& endpoint = dynamic_cast<SessionEndpoint&>(**connected);
  int attempts = 0;
  const Time end = shell.clock + seconds(9);
  while (shell.clock < end) {
    ASSERT_TRUE(shell.poll().has_value());
    if (endpoint.phase() == SessionEndpoint::Phase::kAttempt) {
      ++attempts;
      shell.answer(endpoint);
      ASSERT_TRUE(shell.poll().has_value());
      shell.link_ended(endpoint, {ECONNRESET, "It was cut."});
    }
    shell.clock += milliseconds(1);
  }
  EXPECT_LE(attempts, 20);
  EXPECT_GE(attempts, 5);
}

// After an answer, or when it had lasted, the next attempt is made at once.
TEST_F(SessionEngineTest, ALinkThatWasOfUseIsReplacedAtOnce) {
  auto connected = shell.connect("peer", events);
  ASSERT_TRUE(connected.has_value());
  auto& endpoint = dynamic_cast<SessionEndpoint&>(**connected);
  for (std::uint64_t seq = 0; seq < 20; ++seq) {
    ASSERT_TRUE(shell.poll().has_value());
    ASSERT_EQ(endpoint.phase(), SessionEndpoint::Phase::kAttempt) << seq;
    shell.answer(endpoint);
    if (seq % 2 == 0) {
      ASSERT_TRUE(endpoint.post({.verb = Verb::kNone, .token = seq}).has_value());
      ASSERT_TRUE(shell.poll().has_value());
      wire::ResponseHeader answer;
      answer.seq = seq / 2;
      answer = wire::sealed(answer);
      shell.feed(endpoint, wire::bytes_of(answer));
    } else {
      shell.clock += seconds(1);
    }
    shell.link_ended(endpoint, {ECONNRESET, "It was cut."});
  }
}

}  // namespace
}  // namespace btd::net
