// Connections that break between a commit's request and its answer: the outcome is exact.
#include <atomic>
#include <random>
#include <thread>

#include "tests/etcd/proxy.h"
#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

constexpr int kRounds = 200;

class EtcdLostAnswer : public ::testing::Test {
 protected:
  EtcdLostAnswer() {
    EtcdOptions through = server_.options();
    through.endpoints = {proxy_.url()};
    store_ = open_store(through);
  }
  // Every third request or so meets the fate, fences too.
  void lose(std::vector<Fate> fates) {
    proxy_.set_judge([this, fates](std::string_view) {
      if (random_() % 3 != 0) return Fate::pass;
      ++lost_;
      return fates[random_() % fates.size()];
    });
  }

  EtcdServer server_;
  Proxy proxy_{server_.port()};
  std::unique_ptr<EtcdStore> store_;
  std::mt19937 random_{4711};
  std::atomic<int> lost_{0};
};

// Each commit puts the next number, on no condition: one that is made twice, or late, shows.
void put_numbers(EtcdStore& store, std::string_view key) {
  for (int i = 1; i <= kRounds; ++i) {
    Batch b;
    b.put(key, std::to_string(i));
    const Status s = store.commit(b);
    ASSERT_TRUE(s) << s.error().message;
    ASSERT_EQ(*store.get(key), std::to_string(i));
  }
}

TEST_F(EtcdLostAnswer, EachCommitHappensOnceAndInOrder) {
  const auto witness = open_store(server_.options());
  std::vector<std::string> seen;
  const auto handle = witness->watch("x", [&](const WatchEvent& e) { seen.push_back(*e.value); });
  lose({Fate::drop, Fate::cut, Fate::answer, Fate::late});
  put_numbers(*store_, "x");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the last late one
  Batch last;
  last.put("x", "end");
  ASSERT_TRUE(witness->commit(last));
  std::vector<std::string> expected;
  for (int i = 1; i <= kRounds; ++i) expected.push_back(std::to_string(i));
  expected.emplace_back("end");
  EXPECT_EQ(seen, expected);
  EXPECT_GT(lost_, kRounds / 4);
}

TEST_F(EtcdLostAnswer, ConcurrentCountersAreExact) {
  lose({Fate::drop, Fate::cut, Fate::answer, Fate::late});
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i)
        done += increment(*store_, "all") && increment(*store_, "own" + std::to_string(t)) ? 1 : 0;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(done, 100);
  EXPECT_EQ(*store_->get("all"), "100");
  for (int t = 0; t < 4; ++t) EXPECT_EQ(*store_->get("own" + std::to_string(t)), "25");
  EXPECT_GT(lost_, 50);
}

TEST_F(EtcdLostAnswer, ARefusalIsNotTakenForACommit) {
  lose({Fate::answer, Fate::late, Fate::cut});
  Batch b;
  b.put("x", "1");
  ASSERT_TRUE(store_->commit(b));
  for (int i = 0; i < 50; ++i) {
    Batch refused;
    refused.require("x", "2");
    refused.put("y", "1");
    const Status s = store_->commit(refused);
    ASSERT_FALSE(s);
    ASSERT_EQ(s.error().code, EAGAIN) << s.error().message;
  }
  EXPECT_EQ(*store_->get("y"), std::nullopt);
}

// Nothing answers any more: the commit says that it is in doubt, the next one finds out.
TEST_F(EtcdLostAnswer, WhatIsInDoubtIsFoundOutBeforeTheNextCommit) {
  EtcdOptions hasty = server_.options();
  hasty.endpoints = {proxy_.url()};
  hasty.commit_timeout = std::chrono::milliseconds(700);
  const auto store = open_store(hasty);
  const auto all = [](Fate fate) { return [fate](std::string_view) { return fate; }; };
  proxy_.set_judge(all(Fate::answer));
  Batch b;
  b.put("x", "1");
  Status s = store->commit(b);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, EIO);
  EXPECT_GE(store->health().commits.in_doubt, 1U);
  proxy_.set_judge(all(Fate::drop));
  Batch next;
  next.put("z", "1");
  s = store->commit(next);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, EHOSTUNREACH) << s.error().message;
  proxy_.set_judge(nullptr);
  next.require("x", "1");
  EXPECT_TRUE(store->commit(next));
  EXPECT_EQ(server_.rows(),
            (std::vector<std::pair<std::string, std::string>>{{"x", "1"}, {"z", "1"}}));
}

}  // namespace
}  // namespace btd::net::testing
