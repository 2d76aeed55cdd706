// etcd dies, hangs, forgets old revisions, or has no room.
#include <signal.h>

#include <atomic>
#include <map>
#include <thread>

#include "tests/etcd/proxy.h"
#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

// Threads that count until they are told to stop, through stores in turn.
class Load {
 public:
  explicit Load(std::vector<MetaStore*> stores) {
    for (std::size_t t = 0; t < 4; ++t)
      threads_.emplace_back([this, t, &store = *stores[t % stores.size()]] {
        while (!stop_)
          if (increment(store, "all") && increment(store, "own" + std::to_string(t))) ++done_;
      });
  }
  ~Load() { end(); }
  int end() {
    stop_ = true;
    for (auto& thread : threads_)
      if (thread.joinable()) thread.join();
    return done_;
  }
  [[nodiscard]] int done() const { return done_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> done_{0};
  std::vector<std::thread> threads_;
};

int sum_of_own(const EtcdServer& server) {
  int sum = 0;
  for (const auto& [key, value] : server.rows())
    if (key.starts_with("own")) sum += std::stoi(value);
  return sum;
}

TEST(EtcdOutage, KilledAndRestartedUnderConcurrentLoadNothingIsLostOrDoubled) {
  EtcdServer server;
  const auto a = open_store(server.options());
  const auto b = open_store(server.options());
  put(*a, "constant", "here");
  // Its stream may begin later than the first server ends.
  ASSERT_TRUE(eventually([&] { return *b->get("constant") == "here"; }));
  std::map<std::string, std::string> copy;
  const auto handle = b->watch("", [&](const WatchEvent& e) { copy[e.key] = *e.value; });
  Load load({a.get(), b.get()});
  for (int kills = 0; kills < 3; ++kills) {
    const int before = load.done();
    ASSERT_TRUE(eventually([&] { return load.done() > before + 20; }));
    server.end(SIGKILL);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(*a->get("constant"), "here");
    ASSERT_FALSE(dump(*b).empty());
    server.start();
  }
  const int before = load.done();
  ASSERT_TRUE(eventually([&] { return load.done() > before + 20; }));
  const int done = load.end();
  EXPECT_EQ(sum_of_own(server), done);
  EXPECT_TRUE(eventually([&] { return *b->get("all") == std::to_string(done); }));
  EXPECT_TRUE(eventually([&] { return dump(*a) == server.rows() && dump(*b) == server.rows(); }));
  put(*b, "constant", "there");  // returns after the watcher heard of all before it
  EXPECT_EQ(Pairs(copy.begin(), copy.end()), server.rows());
  EXPECT_GE(a->health().streams, 4U);
}

TEST(EtcdOutage, HangingUnderConcurrentLoadNothingIsLostOrDoubled) {
  EtcdServer server;
  EtcdOptions options = server.options();
  options.request_timeout = std::chrono::milliseconds(500);
  const auto store = open_store(options);
  Load load({store.get()});
  for (int hangs = 0; hangs < 3; ++hangs) {
    const int before = load.done();
    ASSERT_TRUE(eventually([&] { return load.done() > before + 20; }));
    server.send(SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    ASSERT_TRUE(store->get("all"));
    EXPECT_FALSE(store->health().waits.empty());
    server.send(SIGCONT);
  }
  const int done = load.end();
  EXPECT_EQ(sum_of_own(server), done);
  EXPECT_EQ(*store->get("all"), std::to_string(done));
}

TEST(EtcdOutage, AwayCommitsFailInTimeAndReadsGoOn) {
  EtcdServer server;
  EtcdOptions options = server.options();
  options.commit_timeout = std::chrono::milliseconds(500);
  const auto store = open_store(options);
  put(*store, "x", "1");
  server.end(SIGKILL);
  Batch b;
  b.put("lost", "1");
  const auto begin = EtcdClock::now();
  const Status first = store->commit(b);  // a kept connection breaks: it may have been sent
  ASSERT_FALSE(first);
  EXPECT_TRUE(first.error().code == EIO || first.error().code == EHOSTUNREACH);
  Batch c;
  c.put("unsent", "1");
  const Status second = store->commit(c);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EHOSTUNREACH);
  EXPECT_NE(second.error().message.find("majority"), std::string::npos) << second.error().message;
  EXPECT_LT(EtcdClock::now() - begin, std::chrono::seconds(3));
  EXPECT_EQ(*store->get("x"), "1");
  const EtcdHealth away = store->health();
  EXPECT_FALSE(away.live);
  EXPECT_EQ(away.server_revision, -1);
  EXPECT_FALSE(away.trouble.empty());
  server.start();
  EXPECT_TRUE(eventually([&] { return store->health().live; }));
  Batch d;
  d.put("after", "1");
  EXPECT_TRUE(eventually([&] { return store->commit(d).has_value(); }));
  EXPECT_EQ(*store->get("unsent"), std::nullopt);
  EXPECT_EQ(dump(*store), server.rows());
}

TEST(EtcdOutage, CompactedWhileCutOffTheMirrorIsLoadedAnew) {
  EtcdServer server;
  Proxy proxy(server.port());
  EtcdOptions through = server.options();
  through.endpoints = {proxy.url()};
  const auto far = open_store(through);
  const auto near = open_store(server.options());
  for (int i = 0; i < 100; ++i) put(*near, "k" + std::to_string(i), "old");
  ASSERT_TRUE(eventually([&] { return dump(*far).size() == 100; }));
  std::map<std::string, std::string> copy;
  for (const auto& [key, value] : dump(*far)) copy[key] = value;
  std::atomic<int> events{0};
  const auto handle = far->watch("", [&](const WatchEvent& e) {
    if (e.value)
      copy[e.key] = *e.value;
    else
      EXPECT_EQ(copy.erase(e.key), 1U);
    ++events;
  });
  proxy.shut();
  for (int i = 0; i < 40; ++i) erase(*near, "k" + std::to_string(i));
  for (int i = 50; i < 150; ++i) put(*near, "k" + std::to_string(i), std::string(5000, 'n'));
  server.compact(server.status().revision);
  EXPECT_EQ(dump(*far).size(), 100U);
  proxy.let_in();
  ASSERT_TRUE(eventually([&] { return dump(*far) == server.rows(); }));
  ASSERT_TRUE(eventually([&] { return events == 140; }));
  EXPECT_EQ(Pairs(copy.begin(), copy.end()), server.rows());
  EXPECT_EQ(far->health().loads, 2U);
  put(*far, "k0", "again");
  EXPECT_EQ(copy["k0"], "again");
}

// More rows than a page has, and a batch as large as may be, arrive through load and watch.
TEST(EtcdOutage, LargeLoadsAndLargeBatchesArriveWhole) {
  EtcdServer server;
  const auto a = open_store(server.options());
  const auto b = open_store(server.options());
  for (int i = 0; i < 40; ++i) {
    Batch batch;
    for (int k = 0; k < 100; ++k) batch.put("s" + std::to_string(i) + "_" + std::to_string(k), "v");
    ASSERT_TRUE(a->commit(batch));
  }
  for (int i = 0; i < 12; ++i) {
    Batch batch;
    for (int k = 0; k < 16; ++k)
      batch.put("l" + std::to_string(i) + "_" + std::to_string(k), std::string(65000, 'v'));
    ASSERT_TRUE(a->commit(batch));
  }
  EXPECT_TRUE(eventually([&] { return dump(*b).size() == 4000 + 192; }));
  const auto c = open_store(server.options());
  EXPECT_EQ(dump(*c), dump(*a));
  EXPECT_EQ(dump(*b), dump(*a));
}

TEST(EtcdOutage, WithoutRoomConcurrentCommitsSayWhatToDo) {
  EtcdServer server({.arguments = {"--quota-backend-bytes", "8388608"}});
  const auto store = open_store(server.options());
  put(*store, "counter", "0");
  Status s;
  int commits = 0;
  for (; s && commits < 1000; ++commits) {
    Batch batch;
    batch.put("big", std::to_string(commits) + std::string(60000, 'b'));
    s = store->commit(batch);
  }
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().code, ENOSPC) << s.error().message;
  EXPECT_NE(s.error().message.find("--quota-backend-bytes"), std::string::npos);
  // The one that was refused did not happen, and the one before it did.
  EXPECT_TRUE(store->get("big")->value_or("").starts_with(std::to_string(commits - 2) + "b"));
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)  // in one request too
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        Batch batch;
        batch.put("more" + std::to_string(t), "x");
        const Status full = store->commit(batch);
        EXPECT_TRUE(!full && full.error().code == ENOSPC);
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(dump(*store), server.rows());
  EXPECT_EQ(*store->get("more0"), std::nullopt);
  server.compact(server.status().revision);
  server.ask("/v3/maintenance/defragment", "{}");
  server.ask("/v3/maintenance/alarm", R"({"action":"DEACTIVATE","alarm":"NOSPACE","memberID":")" +
                                          std::to_string(server.status().member) + "\"}");
  EXPECT_TRUE(increment(*store, "counter"));
  EXPECT_EQ(*store->get("counter"), "1");
  EXPECT_EQ(dump(*store), server.rows());
}

}  // namespace
}  // namespace btd::net::testing
