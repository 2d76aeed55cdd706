// A tcp engine that is lent: other threads run tasks while its own sleeps.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/net/tcp_world.h"

namespace btd::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kPatience = seconds(20);

template <class Condition>
bool within_patience(Condition&& condition) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::yield();
  }
  return true;
}

// Threads look at it while those of the engines tell it.
class Counter final : public Handler {
 public:
  void on_completion(Endpoint& /*endpoint*/, const Completion& completion) override {
    ++completions;
    if (completion.error != 0) ++errors;
  }
  int on_message(Endpoint& /*endpoint*/, std::span<const std::byte> message) override {
    std::array<std::uint32_t, 2> words{};
    if (message.size() != sizeof(words)) return EINVAL;
    std::memcpy(words.data(), message.data(), sizeof(words));
    const std::scoped_lock lock(mutex_);
    if (words[1] != next_[words[0]]++) ++errors;
    ++messages;
    return 0;
  }
  void on_up(Endpoint& /*endpoint*/) override { ++ups; }
  void on_down(Endpoint& /*endpoint*/, const Error& /*why*/) override { ++errors; }
  void on_closed(Endpoint& /*endpoint*/, const Error& /*why*/) override {}

  std::atomic<int> ups = 0, completions = 0, messages = 0, errors = 0;

 private:
  std::mutex mutex_;
  std::map<std::uint32_t, std::uint32_t> next_;  // of each thread
};

// An engine and the thread that waits in it.
class Running {
 public:
  explicit Running(const EngineOptions& options)
      : engine_(make_engine(NoSecurity{}, options)), thread_([this] {
          while (!is_stopped_.load()) EXPECT_TRUE(engine_->wait(kNever).has_value());
        }) {}
  ~Running() {
    is_stopped_.store(true);
    engine_->wake();
    thread_.join();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

  Engine& operator*() { return *engine_; }
  Engine* operator->() { return engine_.get(); }
  [[nodiscard]] std::thread::id thread() const { return thread_.get_id(); }
  // On its thread, and waits.
  void run(const std::function<void()>& task) {
    std::atomic<bool> is_done = false;
    ASSERT_TRUE(engine_->submit([&] {
      task();
      is_done.store(true);
    }));
    EXPECT_TRUE(within_patience([&] { return is_done.load(); }));
  }

 private:
  const std::unique_ptr<Engine> engine_;
  std::atomic<bool> is_stopped_ = false;
  std::thread thread_;
};

EngineOptions lent(Time spin = Time{}) {
  return {.spin = spin, .is_lent = true, .late = milliseconds(1)};
}

class TcpLent : public ::testing::TestWithParam<Time> {
 protected:
  void SetUp() override {
    server_.run([&] {
      address_ = server_->listen("127.0.0.1:0", [&](Endpoint&) { return &served_; }).value_or("");
    });
    client_.run([&] { endpoint_ = client_->connect(address_, asked_).value_or(nullptr); });
    ASSERT_NE(endpoint_, nullptr);
    ASSERT_TRUE(within_patience([&] { return asked_.ups == 1 && served_.ups == 1; }));
  }
  // As EngineThread does.
  void run_somewhere(const std::function<void()>& task) {
    if (client_->run_asleep(task)) return;
    const auto there = [this, task] {
      if (std::this_thread::get_id() != client_.thread()) ++misplaced_;
      task();
    };
    while (!client_->submit(there)) std::this_thread::yield();
  }

  Counter served_, asked_;
  std::atomic<int> misplaced_ = 0;  // tasks that were submitted, and run by another thread
  std::string address_;
  Endpoint* endpoint_ = nullptr;
  Running server_{lent(GetParam())}, client_{lent(GetParam())};
};
INSTANTIATE_TEST_SUITE_P(Spin, TcpLent, ::testing::Values(Time{}, std::chrono::microseconds(50)),
                         [](const auto& one) { return one.param == Time{} ? "None" : "Some"; });

TEST_P(TcpLent, RunsATaskWhereItIsCalledAndSendsWhatItPosts) {
  std::thread::id where;
  std::array<std::uint32_t, 2> words{};
  const iovec local{words.data(), sizeof(words)};
  ASSERT_TRUE(within_patience([&] {
    return client_->run_asleep([&] {
      where = std::this_thread::get_id();
      EXPECT_TRUE(endpoint_->send({&local, 1}, 1, kNever).has_value());
    });
  }));
  EXPECT_EQ(where, std::this_thread::get_id());
  EXPECT_TRUE(within_patience([&] { return served_.messages == 1 && asked_.completions == 1; }));
}

// It would sleep for ever.
TEST_P(TcpLent, ATimeThatATaskSetsIsKept) {
  std::atomic<bool> is_over = false;
  const Time begin = client_->now();
  ASSERT_TRUE(within_patience([&] {
    return client_->run_asleep(
        [&] { client_->at(client_->now() + milliseconds(30), [&] { is_over.store(true); }); });
  }));
  EXPECT_TRUE(within_patience([&] { return is_over.load(); }));
  EXPECT_GE(client_->now() - begin, milliseconds(30));
}

TEST_P(TcpLent, WhatATaskLeavesInTheRingIsSubmitted) {
  ASSERT_TRUE(within_patience([&] {
    return client_->run_asleep(
        [&] { EXPECT_TRUE(client_->connect(address_, asked_).has_value()); });
  }));
  EXPECT_TRUE(within_patience([&] { return asked_.ups == 2; }));
}

TEST_P(TcpLent, TasksOfAThreadKeepTheirOrder) {
  constexpr std::uint32_t kThreads = 4, kEach = 2000;
  std::vector<std::array<std::uint32_t, 2>> words(std::size_t{kThreads} * kEach);
  std::atomic<std::uint32_t> here = 0;
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (std::uint32_t i = 0; i < kEach; ++i) {
        auto& mine = words[std::size_t{t} * kEach + i];
        mine = {t, i};
        run_somewhere([&] {
          if (std::this_thread::get_id() != client_.thread()) ++here;
          const iovec local{mine.data(), sizeof(mine)};
          EXPECT_TRUE(endpoint_->send({&local, 1}, 1, kNever).has_value());
        });
        const int enough = static_cast<int>(i) - 500;  // an endpoint queues some thousands
        while (asked_.completions / static_cast<int>(kThreads) < enough && asked_.errors == 0)
          std::this_thread::yield();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(within_patience([&] { return asked_.completions == kThreads * kEach; }));
  EXPECT_EQ(served_.messages, static_cast<int>(kThreads * kEach));
  EXPECT_EQ(misplaced_, 0);
  EXPECT_EQ(served_.errors, 0);
  EXPECT_EQ(asked_.errors, 0);
  RecordProperty("run_by_others", std::to_string(here));
  std::printf("%u of %u tasks were run by others\n", here.load(), kThreads * kEach);
}

// As the engine of a thread that makes a call now and then.
TEST(TcpNotLent, WhoTookAMessageMayLeaveItsEngineAloneForLong) {
  constexpr auto kSilence = milliseconds(100);
  Counter served, asked;
  std::string address;
  Running server{EngineOptions{.patience = {.silence = kSilence}, .spin = Time{}}};
  Endpoint* to_client = nullptr;
  server.run([&] {
    address = server
                  ->listen("127.0.0.1:0",
                           [&](Endpoint& endpoint) {
                             to_client = &endpoint;
                             return &served;
                           })
                  .value_or("");
  });
  const auto client = make_engine(NoSecurity{}, EngineOptions{.spin = Time{}});
  ASSERT_TRUE(client->connect(address, asked));
  const auto poll_until = [&](auto&& condition) {
    return within_patience([&] {
      EXPECT_TRUE(client->poll().has_value());
      return condition();
    });
  };
  ASSERT_TRUE(poll_until([&] { return asked.ups == 1 && served.ups == 1; }));
  std::array<std::uint32_t, 2> words{};
  const iovec local{words.data(), sizeof(words)};
  server.run([&] { EXPECT_TRUE(to_client->send({&local, 1}, 1, kNever).has_value()); });
  ASSERT_TRUE(poll_until([&] { return asked.messages == 1; }));
  std::this_thread::sleep_for(5 * kSilence);
  EXPECT_EQ(served.errors, 0) << "the peer takes it for dead";
  EXPECT_EQ(served.completions, 1);
}

TEST(TcpNotLent, NobodyElseRunsAnything) {
  Running engine{EngineOptions{.spin = Time{}}};
  for (int i = 0; i < 100; ++i) {
    EXPECT_FALSE(engine->run_asleep([] { ADD_FAILURE(); }));
    std::this_thread::sleep_for(milliseconds(1) / 10);
  }
}

}  // namespace
}  // namespace btd::net
