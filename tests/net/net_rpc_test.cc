// RPC over simulated networks: typed calls, versions, bounds, and that a call runs once.
#include <gtest/gtest.h>

#include <cerrno>
#include <list>
#include <memory>
#include <optional>

#include "net/rpc.h"
#include "net/sim/sim_engine.h"
#include "tests/net/recorder.h"

namespace btd::net::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct AddRequest {
  std::uint64_t a = 0, b = 0;
};
struct AddResponse {
  std::uint64_t sum = 0;
};
constexpr Method<AddRequest, AddResponse> kAdd{.id = 1, .version = 2};

// The same as an older and a newer node have it.
struct OldRequest {
  std::uint64_t a = 0;
};
constexpr Method<OldRequest, AddResponse> kOldAdd{.id = 1, .version = 1};
struct NewRequest {
  std::uint64_t a = 0, b = 0, c = 0;
};
struct NewResponse {
  std::uint64_t sum = 0, count = 0;
};
constexpr Method<NewRequest, NewResponse> kNewAdd{.id = 1, .version = 3};
constexpr Method<AddRequest, AddResponse> kUnknown{.id = 9};
constexpr Method<AddRequest, AddResponse> kLater{.id = 2};
constexpr Method<AddRequest, AddResponse> kModern{.id = 3, .version = 4, .oldest = 3};
constexpr Method<AddRequest, AddResponse> kAncient{.id = 3, .version = 2};

EngineOptions options() {
  return {.patience = {.connect = milliseconds(200),
                       .silence = milliseconds(50),
                       .reconnect = seconds(2),
                       .linger = seconds(2)}};
}

class RpcTest : public ::testing::Test {
 protected:
  explicit RpcTest(const Faults& faults = {}) : network(7, faults) {}
  void SetUp() override {
    server_rpc.serve<AddRequest, AddResponse>(
        kAdd,
        [this](const Rpc::Caller&, const AddRequest& request, Rpc::Bytes tail, Rpc::Reply reply) {
          ++runs;
          reply.answer(AddResponse{request.a + request.b}, tail);
        });
    server_rpc.serve<AddRequest, AddResponse>(
        kLater, [this](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply reply) {
          kept.push_back(std::move(reply));
        });
    server_rpc.serve<AddRequest, AddResponse>(
        kModern, [](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply reply) {
          reply.fail({EDOM, "This can't be added."});
        });
    ASSERT_TRUE(server.listen("server", [this](Endpoint&) { return &server_rpc; }).has_value());
    auto connected = client.connect("server", client_rpc);
    ASSERT_TRUE(connected.has_value());
    endpoint = *connected;
  }

  template <class Request, class Response>
  Result<Response> call(const Method<Request, Response>& method, const Request& request,
                        Rpc::Bytes tail = {}, Time patience = seconds(10)) {
    std::optional<Result<Response>> answer;
    const Status posted = client_rpc.call<Request, Response>(
        *endpoint, method, request, tail, network.now() + patience,
        [&](Result<Response> result, Rpc::Bytes rest) {
          EXPECT_FALSE(answer.has_value()) << "answered twice";
          answer = std::move(result);
          last_tail.assign(rest.begin(), rest.end());
        });
    if (!posted) return std::unexpected(posted.error());
    if (!network.run_until([&] { return answer.has_value(); }, seconds(60)))
      return fail(ETIME, "No answer at all.");
    return *answer;
  }

  SimNetwork network;
  SimEngine server{network, "server", options()}, client{network, "client", options()};
  Recorder server_events, client_events;
  Rpc server_rpc{server, server_events, {.served = 4}};
  Rpc client_rpc{client, client_events, {.waiting = 16}};
  Endpoint* endpoint = nullptr;
  std::list<Rpc::Reply> kept;
  std::vector<std::byte> last_tail;
  int runs = 0;
};

TEST_F(RpcTest, AnswersWithStructureAndTail) {
  const std::vector<std::byte> tail(1000, std::byte{7});
  const auto answer = call(kAdd, {2, 3}, tail);
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  EXPECT_EQ(answer->sum, 5U);
  EXPECT_EQ(last_tail, tail);
}

TEST_F(RpcTest, SpeaksWithOlderAndNewerNodes) {
  const auto old = call(kOldAdd, {2});
  ASSERT_TRUE(old.has_value());
  EXPECT_EQ(old->sum, 2U) << "what an older node does not send is zero";
  const auto young = call(kNewAdd, {2, 3, 4});
  ASSERT_TRUE(young.has_value());
  EXPECT_EQ(young->sum, 5U) << "what a newer node sends on top is ignored";
  EXPECT_EQ(young->count, 0U);
}

TEST_F(RpcTest, SaysWhatIsWrong) {
  EXPECT_EQ(call(kUnknown, {1, 1}).error().code, ENOSYS);
  EXPECT_EQ(call(kAncient, {1, 1}).error().code, EPROTONOSUPPORT);
  const auto failed = call(kModern, {1, 1});
  EXPECT_EQ(failed.error().code, EDOM);
  EXPECT_EQ(failed.error().message, "This can't be added.");
  const std::vector<std::byte> large(100'000);
  EXPECT_EQ(call(kAdd, {1, 1}, large).error().code, EMSGSIZE);
  EXPECT_EQ(client_rpc.waiting(), 0U);
}

TEST_F(RpcTest, AnswersLaterOrNotAtAll) {
  EXPECT_EQ(call(kLater, {1, 1}, {}, milliseconds(20)).error().code, ETIMEDOUT);
  ASSERT_EQ(kept.size(), 1U);
  kept.clear();  // dropped: the caller has gone already, and nobody minds
  std::optional<int> code;
  ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
                   *endpoint, kLater, {1, 2}, {}, kNever,
                   [&](Result<AddResponse> result, Rpc::Bytes) { code = result.error().code; }))
                  .has_value());
  ASSERT_TRUE(network.run_until([&] { return kept.size() == 1; }, seconds(5)));
  EXPECT_FALSE(code.has_value());
  kept.clear();
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(5)));
  EXPECT_EQ(*code, ECANCELED);
}

TEST_F(RpcTest, BoundsWhatWaitsAndWhatIsServed) {
  std::vector<int> codes;
  const auto call_later = [&] {
    return client_rpc.call<AddRequest, AddResponse>(
        *endpoint, kLater, {1, 2}, {}, kNever, [&](Result<AddResponse> result, Rpc::Bytes) {
          codes.push_back(result ? 0 : result.error().code);
        });
  };
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(call_later().has_value());
  EXPECT_EQ(call_later().error().code, EAGAIN);
  ASSERT_TRUE(network.run_until([&] { return codes.size() == 12; }, seconds(5)));
  for (const int code : codes) EXPECT_EQ(code, EBUSY);
  EXPECT_EQ(kept.size(), 4U);
  while (!kept.empty()) {
    kept.front().answer(AddResponse{1});
    kept.pop_front();
  }
  ASSERT_TRUE(network.run_until([&] { return codes.size() == 16; }, seconds(5)));
  EXPECT_EQ(codes.back(), 0);
}

TEST_F(RpcTest, EndsWithItsEndpoint) {
  std::optional<int> code;
  ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
                   *endpoint, kLater, {1, 2}, {}, kNever,
                   [&](Result<AddResponse> result, Rpc::Bytes) { code = result.error().code; }))
                  .has_value());
  ASSERT_TRUE(network.run_until([&] { return kept.size() == 1; }, seconds(5)));
  endpoint->close();
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(5)));
  EXPECT_EQ(*code, ECONNRESET);
  ASSERT_TRUE(network.run_until([&] { return server_rpc.served() == 0; }, seconds(5)));
  kept.front().answer(AddResponse{1});  // to nobody
  kept.clear();
}

// It took the call, which the session need not send again, and will never answer it.
TEST_F(RpcTest, ACallToAPeerThatDiedAndCameBackFailsAtOnce) {
  const auto serve = [&](Rpc& rpc, int& served) {
    rpc.serve<AddRequest, AddResponse>(
        kLater, [&](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply reply) {
          ++served;
          kept.push_back(std::move(reply));
        });
  };
  int served = 0, completed = 0;
  std::optional<SimEngine> engine(std::in_place, network, "mortal", options());
  std::optional<Rpc> rpc(std::in_place, *engine, server_events);
  serve(*rpc, served);
  ASSERT_TRUE(engine->listen("mortal", [&](Endpoint&) { return &*rpc; }).has_value());
  auto connected = client.connect("mortal", client_rpc);
  ASSERT_TRUE(connected.has_value());
  endpoint = *connected;
  std::optional<int> code;
  const auto post = [&] {
    ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
        *endpoint, kLater, {1, 2}, {}, network.now() + seconds(60),
        [&](const Result<AddResponse>& answer, Rpc::Bytes) {
          ++completed;
          code = answer ? 0 : answer.error().code;
        })));
  };
  post();
  ASSERT_TRUE(network.run_until([&] { return served == 1; }, seconds(1)));
  // The send is answered; then the peer dies before it answers the call.
  EXPECT_FALSE(network.run_until([] { return false; }, milliseconds(20)));
  network.partition("mortal", "client");
  kept.clear();
  rpc.reset();
  engine.reset();
  network.mend();
  engine.emplace(network, "mortal", options());
  rpc.emplace(*engine, server_events);
  serve(*rpc, served);
  ASSERT_TRUE(engine->listen("mortal", [&](Endpoint&) { return &*rpc; }).has_value());
  EXPECT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(5)));
  EXPECT_EQ(code, ECONNRESET);
  code.reset();
  post();
  ASSERT_TRUE(network.run_until([&] { return served == 2; }, seconds(1)));
  kept.back().answer(AddResponse{3});
  EXPECT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(1)));
  EXPECT_EQ(code, 0);
  EXPECT_EQ(completed, 2);
  kept.clear();
}

TEST_F(RpcTest, SaysThatAnAnswerIsTooLarge) {
  const Method<AddRequest, AddResponse> large{.id = 4};
  server_rpc.serve<AddRequest, AddResponse>(
      large, [](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply reply) {
        reply.answer(AddResponse{1}, std::vector<std::byte>(100'000));
      });
  EXPECT_EQ(call(large, {1, 1}).error().code, EMSGSIZE);
  EXPECT_EQ(call(kAdd, {1, 1}).value_or(AddResponse{}).sum, 2U);
}

// The server's queue is full of what it sends itself.
TEST_F(RpcTest, AnAnswerWaitsForRoomInTheQueue) {
  for (const bool is_failure : {false, true}) {
    std::optional<Result<AddResponse>> answer;
    ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
                     *endpoint, kLater, {1, 2}, {}, network.now() + seconds(10),
                     [&](Result<AddResponse> result, Rpc::Bytes) { answer = std::move(result); }))
                    .has_value());
    ASSERT_TRUE(network.run_until([&] { return kept.size() == 1; }, seconds(5)));
    Endpoint* back = server_events.endpoints.at(0);
    while (back->post({.verb = Verb::kNone}).has_value()) continue;
    if (is_failure) {
      kept.front().fail({EDOM, "This can't be added."});
    } else {
      kept.front().answer(AddResponse{3});
    }
    kept.clear();
    ASSERT_TRUE(network.run_until([&] { return answer.has_value(); }, seconds(20)));
    if (is_failure) {
      EXPECT_EQ(answer->error().code, EDOM);
    } else {
      EXPECT_TRUE(answer->has_value());
    }
  }
}

// Answers that wait for room end with their endpoint, and their places are free again.
TEST_F(RpcTest, AnAnswerThatWaitsEndsWithItsEndpoint) {
  std::optional<int> code;
  ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
                   *endpoint, kLater, {1, 2}, {}, kNever,
                   [&](Result<AddResponse> result, Rpc::Bytes) { code = result.error().code; }))
                  .has_value());
  ASSERT_TRUE(network.run_until([&] { return kept.size() == 1; }, seconds(5)));
  Endpoint* back = server_events.endpoints.at(0);
  while (back->post({.verb = Verb::kNone}).has_value()) continue;
  kept.front().answer(AddResponse{3});
  kept.clear();
  back->close();
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(10)));
  EXPECT_EQ(*code, ECONNRESET);
  ASSERT_TRUE(network.run_until([&] { return server_events.closes == 1; }, seconds(10)));
  EXPECT_EQ(server_rpc.served(), 0U);
}

// The caller grants less than this node would send.
TEST_F(RpcTest, SaysThatAnAnswerIsLargerThanTheCallerTakes) {
  EngineOptions small = options();
  small.limits.message_bytes = 200;
  SimEngine modest(network, "modest", small);
  Recorder events;
  Rpc rpc{modest, events};
  auto connected = modest.connect("server", rpc);
  ASSERT_TRUE(connected.has_value());
  const Method<AddRequest, AddResponse> large{.id = 4};
  server_rpc.serve<AddRequest, AddResponse>(
      large, [](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply reply) {
        reply.answer(AddResponse{1}, std::vector<std::byte>(1000));
      });
  std::optional<int> code;
  ASSERT_TRUE((rpc.call<AddRequest, AddResponse>(**connected, large, {1, 2}, {},
                                                 network.now() + seconds(10),
                                                 [&](Result<AddResponse> result, Rpc::Bytes) {
                                                   code = result ? 0 : result.error().code;
                                                 }))
                  .has_value());
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(20)));
  EXPECT_EQ(*code, EMSGSIZE);
}

TEST_F(RpcTest, AHandlerMayReplaceItself) {
  const Method<AddRequest, AddResponse> changing{.id = 5};
  server_rpc.serve<AddRequest, AddResponse>(
      changing, [&, held = std::make_shared<std::uint64_t>(40)](
                    const Rpc::Caller&, const AddRequest& request, Rpc::Bytes, Rpc::Reply reply) {
        Rpc& rpc = server_rpc;
        const std::weak_ptr<std::uint64_t> still = held;
        rpc.serve<AddRequest, AddResponse>(
            changing, [](const Rpc::Caller&, const AddRequest&, Rpc::Bytes, Rpc::Reply next) {
              next.answer(AddResponse{2});
            });
        const auto kept_by_caller = still.lock();
        reply.answer(AddResponse{kept_by_caller ? *kept_by_caller + request.a : 0});
      });
  EXPECT_EQ(call(changing, {1, 0}).value_or(AddResponse{}).sum, 41U) << "it still runs";
  EXPECT_EQ(call(changing, {1, 0}).value_or(AddResponse{}).sum, 2U);
}

TEST_F(RpcTest, OnePeerDoesNotAnswerForAnother) {
  std::optional<int> code;
  ASSERT_TRUE(
      (client_rpc.call<AddRequest, AddResponse>(*endpoint, kLater, {1, 2}, {}, kNever,
                                                [&](Result<AddResponse> result, Rpc::Bytes) {
                                                  code = result ? 0 : result.error().code;
                                                }))
          .has_value());
  ASSERT_TRUE(network.run_until([&] { return kept.size() == 1; }, seconds(5)));
  SimEngine evil(network, "evil", options());
  Recorder evil_events;
  ASSERT_TRUE(evil.listen("evil", [&](Endpoint&) { return &evil_events; }).has_value());
  ASSERT_TRUE(client.connect("evil", client_rpc).has_value());
  ASSERT_TRUE(network.run_until([&] { return evil_events.ups == 1; }, seconds(5)));
  wire::ReplyHeader forged;
  forged.call = 1;
  const iovec message{&forged, sizeof(forged)};
  ASSERT_TRUE(evil_events.endpoints[0]->send({&message, 1}, 1, kNever).has_value());
  ASSERT_TRUE(network.run_until([&] { return evil_events.completions.size() == 1; }, seconds(5)));
  EXPECT_FALSE(code.has_value());
  kept.front().answer(AddResponse{1});
  kept.clear();
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(5)));
  EXPECT_EQ(*code, 0);
}

TEST_F(RpcTest, OneCallerDoesNotUseUpWhatIsServed) {
  int busy = 0;
  for (int i = 0; i < 5; ++i)
    ASSERT_TRUE((client_rpc.call<AddRequest, AddResponse>(
                     *endpoint, kLater, {1, 2}, {}, kNever,
                     [&](Result<AddResponse> result, Rpc::Bytes) { busy += result ? 0 : 1; }))
                    .has_value());
  ASSERT_TRUE(network.run_until([&] { return kept.size() == 4 && busy == 1; }, seconds(5)));
  SimEngine second(network, "second", options());
  Recorder events;
  Rpc rpc{second, events};
  auto other = second.connect("server", rpc);
  ASSERT_TRUE(other.has_value());
  std::optional<int> code;
  ASSERT_TRUE((rpc.call<AddRequest, AddResponse>(**other, kAdd, {1, 2}, {}, kNever,
                                                 [&](Result<AddResponse> result, Rpc::Bytes) {
                                                   code = result ? 0 : result.error().code;
                                                 }))
                  .has_value());
  ASSERT_TRUE(network.run_until([&] { return code.has_value(); }, seconds(5)));
  EXPECT_EQ(*code, 0);
}

class RpcOnABadNetwork : public RpcTest {
 protected:
  RpcOnABadNetwork() : RpcTest({.cut = 0.2, .cut_in_silence = 0.5}) {}
};

TEST_F(RpcOnABadNetwork, RunsEachCallOnce) {
  for (int i = 1; i <= 300; ++i) {
    const auto answer = call(kAdd, {static_cast<std::uint64_t>(i), 1}, {}, seconds(60));
    ASSERT_TRUE(answer.has_value()) << i << ": " << answer.error().message;
    ASSERT_EQ(answer->sum, static_cast<std::uint64_t>(i) + 1);
    ASSERT_EQ(runs, i) << "a call ran twice, or not at all";
  }
  EXPECT_GT(client_events.ups, 20);
}

}  // namespace
}  // namespace btd::net::sim
