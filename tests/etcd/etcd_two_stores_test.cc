// Two stores on one server: what one commits, the other sees.
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <tuple>

#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

class EtcdTwoStores : public ::testing::Test {
 protected:
  EtcdServer server_;
  std::unique_ptr<EtcdStore> a_ = open_store(server_.options());
  std::unique_ptr<EtcdStore> b_ = open_store(server_.options());
};

TEST_F(EtcdTwoStores, ChangesReachTheOtherOnesMirrorAndWatcherInOrder) {
  std::mutex mutex;
  std::vector<std::string> seen;
  const auto handle = b_->watch("k", [&](const WatchEvent& e) {
    const std::scoped_lock lock(mutex);
    seen.push_back(e.key + "=" + e.value.value_or("-"));
  });
  std::vector<std::string> expected;
  for (int i = 0; i < 100; ++i) {
    Batch batch;
    batch.put("k1", std::to_string(i));
    batch.put("k0", std::to_string(i));
    if (i % 2 == 1) batch.erase("k2");
    if (i % 2 == 0) batch.put("k2", "here");
    ASSERT_TRUE(a_->commit(batch));
    expected.push_back("k1=" + std::to_string(i));
    expected.push_back("k0=" + std::to_string(i));
    expected.emplace_back(i % 2 == 1 ? "k2=-" : "k2=here");
  }
  EXPECT_TRUE(eventually([&] {
    const std::scoped_lock lock(mutex);
    return seen.size() >= expected.size();
  }));
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(dump(*b_), dump(*a_));
  EXPECT_EQ(dump(*b_), server_.rows());
}

// A revision is reached when the watchers have heard of it; what a store committed, the other comes
// to.
TEST_F(EtcdTwoStores, RevisionsAreReachedAfterTheirEvents) {
  std::mutex mutex;
  int heard = 0;
  std::map<std::int64_t, int> heard_at;  // by the revisions that are reached
  const auto rows = b_->watch("k", [&](const WatchEvent&) {
    const std::scoped_lock lock(mutex);
    ++heard;
  });
  auto revisions = b_->watch_revisions([&](std::int64_t revision) {
    const std::scoped_lock lock(mutex);
    heard_at[revision] = heard;
  });
  std::map<std::int64_t, int> expected;
  for (int i = 1; i <= 50; ++i) {
    Batch batch;
    batch.put("k", std::to_string(i));
    ASSERT_TRUE(a_->commit(batch));
    expected[a_->last_commit()] = i;
  }
  ASSERT_EQ(expected.size(), 50U);
  EXPECT_TRUE(eventually([&] {
    const std::scoped_lock lock(mutex);
    return heard_at.contains(a_->last_commit());
  }));
  revisions.reset();
  for (const auto& [revision, count] : expected) {
    ASSERT_TRUE(heard_at.contains(revision));
    EXPECT_EQ(heard_at[revision], count);
  }
  EXPECT_EQ(b_->last_change(), a_->last_commit());
  // What changes no row of these is no revision to wait for.
  Batch absent;
  absent.erase("absent");
  ASSERT_TRUE(a_->commit(absent));
  EXPECT_EQ(a_->last_commit(), b_->last_change());
  const auto later = open_store(server_.options());
  EXPECT_EQ(later->last_commit(), a_->last_commit());
}

TEST_F(EtcdTwoStores, OfConcurrentConflictingCommitsOneWins) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> won{0}, refused{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        Batch batch;
        batch.require("r" + std::to_string(round), std::nullopt);
        batch.put("r" + std::to_string(round), std::to_string(t));
        const Status s = (t % 2 == 0 ? a_ : b_)->commit(batch);
        if (s)
          ++won;
        else if (s.error().code == EAGAIN)
          ++refused;
      });
    for (auto& thread : threads) thread.join();
    ASSERT_EQ(won, 1);
    ASSERT_EQ(refused, 3);
  }
}

TEST_F(EtcdTwoStores, ConcurrentCountersAreExact) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        EXPECT_TRUE(increment(t % 2 == 0 ? *a_ : *b_, "shared"));
        EXPECT_TRUE(increment(t % 2 == 0 ? *a_ : *b_, "own" + std::to_string(t)));
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(
      eventually([&] { return *a_->get("shared") == "200" && *b_->get("shared") == "200"; }));
  for (int t = 0; t < 8; ++t)
    EXPECT_EQ(*(t % 2 == 0 ? a_ : b_)->get("own" + std::to_string(t)), "25");
}

// Requests that overlap, each of several commits.
TEST_F(EtcdTwoStores, ConcurrentCountersAreExactOverSeveralLanes) {
  EtcdOptions options = server_.options();
  options.lanes = 3;
  options.gather = std::chrono::milliseconds(2);
  const auto store = open_store(options);
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        EXPECT_TRUE(increment(*store, "own" + std::to_string(t)));
        EXPECT_TRUE(i % 5 != 0 || increment(*store, "shared"));
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(*store->get("shared"), "60");
  for (int t = 0; t < 12; ++t) EXPECT_EQ(*store->get("own" + std::to_string(t)), "25");
  const auto counters = store->health().commits;
  EXPECT_LT(counters.requests, counters.commits);  // some went together
  EXPECT_EQ(counters.in_doubt, 0U);
}

// Rows that their client alone has: in etcd and in commits as all others, but in nobody's mirror.
TEST_F(EtcdTwoStores, OwnRowsAreTheirClientsAlone) {
  EtcdOptions options = server_.options();
  options.client = "node-1";
  options.own_rows = "r";
  auto own = open_store(options);
  std::vector<std::string> heard;
  const auto own_watch = own->watch("", [&](const WatchEvent& e) { heard.push_back(e.key); });
  put(*b_, "r1", "another one's");
  Batch batch;
  batch.require("r1", std::nullopt);
  batch.put("q", "1");
  batch.put("r1", "result");
  batch.put("r2", "");
  batch.put("s", "2");
  ASSERT_TRUE(own->commit(batch));
  Batch alone;
  alone.require("r1", "result");
  alone.put("r1", "later");
  ASSERT_TRUE(own->commit(alone));
  Batch refused;
  refused.require("r1", "result");
  refused.put("q", "3");
  EXPECT_EQ(own->commit(refused).error().code, EAGAIN);

  const Pairs all = {{"q", "1"}, {"r1", "later"}, {"r2", ""}, {"s", "2"}};
  EXPECT_EQ(dump(*own), all);
  EXPECT_EQ(*own->get("r1"), "later");
  EXPECT_EQ(*own->get("r3"), std::nullopt);
  for (const auto& [from, to, count] : {std::tuple("", "r", 1), std::tuple("r", "s", 2),
                                        std::tuple("r2", "", 2), std::tuple("a", "r2", 2)}) {
    int seen = 0;
    ASSERT_TRUE(own->scan(from, to, [&](auto, auto) { return ++seen > 0; }));
    EXPECT_EQ(seen, count) << from;
  }
  int seen = 0;
  ASSERT_TRUE(own->scan("", "", [&](auto, auto) { return ++seen < 2; }));
  EXPECT_EQ(seen, 2);
  EXPECT_TRUE(eventually([&] { return b_->get("s")->has_value(); }));
  EXPECT_EQ(*b_->get("r1"), "another one's");
  EXPECT_EQ(*b_->get("r2"), std::nullopt);
  for (const std::string& key : heard) EXPECT_TRUE(key == "q" || key == "s" || key == "r1") << key;
  EXPECT_EQ(std::ranges::count(heard, "r2"), 0);

  Batch last;
  last.erase("r2");
  ASSERT_TRUE(own->commit(last));
  own.reset();
  own = open_store(options);  // who comes back finds them
  EXPECT_EQ(*own->get("r1"), "later");
  EXPECT_EQ(*own->get("r2"), std::nullopt);
  EXPECT_EQ(*own->get("q"), "1");
}

// Neither commit may see the other's change: one of them must lose, also when both travel together.
TEST_F(EtcdTwoStores, ConcurrentCommitsDoNotMissEachOther) {
  for (int round = 0; round < 100; ++round) {
    const std::string x = "x" + std::to_string(round), y = "y" + std::to_string(round);
    std::atomic<int> won{0};
    const auto commit = [&](const std::string& absent, const std::string& made) {
      Batch batch;
      batch.require(absent, std::nullopt);
      batch.put(made, "1");
      if (a_->commit(batch)) ++won;
    };
    std::vector<std::thread> threads;
    threads.emplace_back([&] { put(*a_, "busy", "1"); });
    threads.emplace_back([&] { put(*a_, "busy2", "1"); });
    threads.emplace_back([&] { commit(x, y); });
    threads.emplace_back([&] { commit(y, x); });
    for (auto& thread : threads) thread.join();
    ASSERT_EQ(won, 1);
  }
}

TEST_F(EtcdTwoStores, ANameHasOneLiveStore) {
  EtcdOptions options = server_.options();
  options.client = "node-1";
  const auto first = open_store(options);
  put(*first, "x", "1");
  const auto second = open_store(options);
  Batch batch;
  batch.put("x", "2");
  const Status s = first->commit(batch);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, EBUSY) << s.error().message;
  EXPECT_TRUE(second->commit(batch));
}

TEST_F(EtcdTwoStores, AnErasedRowThatIsGoneAlreadyIsNoLongerSeen) {
  for (int i = 0; i < 50; ++i) {
    put(*a_, "k", "1");
    erase(*b_, "k");
    erase(*a_, "k");
    ASSERT_EQ(*a_->get("k"), std::nullopt);
  }
}

TEST_F(EtcdTwoStores, HealthTellsOfServerAndMirror) {
  put(*a_, "x", "1");
  const EtcdHealth h = a_->health();
  EXPECT_TRUE(h.live);
  EXPECT_EQ(h.endpoint, server_.url());
  EXPECT_NE(h.leader, 0U);
  EXPECT_GE(h.server_revision, h.mirror_revision);
  EXPECT_EQ(h.loads, 1U);
  EXPECT_GT(h.database_bytes, 0);
}

TEST_F(EtcdTwoStores, ADrawnNameLeavesNoRows) {
  a_.reset();
  b_.reset();
  EXPECT_TRUE(server_.rows("/bartender/t/").empty());
}

TEST(EtcdOptionsTest, OptionsThatCannotBeAreRefused) {
  const auto code = [](const EtcdOptions& o) {
    const auto store = EtcdStore::open(o);
    return store ? 0 : store.error().code;
  };
  EtcdOptions o;
  EXPECT_EQ(code(o), EINVAL);
  o.endpoints = {"127.0.0.1:2379"};
  EXPECT_EQ(code(o), EINVAL);
  o.endpoints = {"http://127.0.0.1:2379"};
  o.prefix = "none";
  EXPECT_EQ(code(o), EINVAL);
  o.prefix = "/p/";
  o.cert_file = "a";
  EXPECT_EQ(code(o), EINVAL);
  o.cert_file.clear();
  o.endpoints = {"http://127.0.0.1:" + std::to_string(free_port())};
  o.open_timeout = std::chrono::milliseconds(200);
  EXPECT_EQ(code(o), EHOSTUNREACH);
}

}  // namespace
}  // namespace btd::net::testing
