// What every MetaStore engine must do. To run it over an engine, write a fixture class with a
// default constructor and `btd::MetaStore& store()` that gives an empty store, and instantiate
//   INSTANTIATE_TYPED_TEST_SUITE_P(MyEngine, MetaStoreConformance, MyFixture);
// The fixture needs room for about 16 MiB of keys and values.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "alloc/metastore.h"

namespace btd::conformance {

using Pairs = std::vector<std::pair<std::string, std::string>>;

inline Pairs dump(const MetaStore& store, std::string_view from = {}, std::string_view to = {}) {
  Pairs out;
  const Status s = store.scan(from, to, [&](std::string_view k, std::string_view v) {
    out.emplace_back(k, v);
    return true;
  });
  EXPECT_TRUE(s.has_value()) << s.error().message;
  return out;
}

inline std::optional<std::string> value_of(const MetaStore& store, std::string_view key) {
  auto r = store.get(key);
  EXPECT_TRUE(r.has_value()) << (r ? "" : r.error().message);
  return r ? *r : std::nullopt;
}

inline void put(MetaStore& store, std::string_view key, std::string_view value) {
  Batch b;
  b.put(key, value);
  const Status s = store.commit(b);
  ASSERT_TRUE(s.has_value()) << s.error().message;
}

inline void erase(MetaStore& store, std::string_view key) {
  Batch b;
  b.erase(key);
  const Status s = store.commit(b);
  ASSERT_TRUE(s.has_value()) << s.error().message;
}

inline int code_of(const Status& s) { return s ? 0 : s.error().code; }

// Bytes of every kind, different for every seed.
inline std::string pattern(std::size_t size, unsigned seed) {
  std::string s(size, '\0');
  std::uint32_t x = seed * 2654435761U + 1;
  for (char& c : s) {
    x = x * 1664525U + 1013904223U;
    c = static_cast<char>(x >> 24);
  }
  return s;
}

}  // namespace btd::conformance

template <class Fixture>
class MetaStoreConformance : public ::testing::Test {
 protected:
  btd::MetaStore& store() { return fixture_.store(); }

 private:
  Fixture fixture_;
};

TYPED_TEST_SUITE_P(MetaStoreConformance);

TYPED_TEST_P(MetaStoreConformance, EmptyStoreHoldsNothing) {
  using namespace btd::conformance;
  EXPECT_EQ(value_of(this->store(), "a"), std::nullopt);
  EXPECT_TRUE(dump(this->store()).empty());
  EXPECT_EQ(this->store().stats().entries, 0U);
}

TYPED_TEST_P(MetaStoreConformance, PutGetReplaceErase) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "k", "one");
  EXPECT_EQ(value_of(s, "k"), "one");
  put(s, "k", "a longer value");
  EXPECT_EQ(value_of(s, "k"), "a longer value");
  put(s, "k", "x");
  EXPECT_EQ(value_of(s, "k"), "x");
  EXPECT_EQ(s.stats().entries, 1U);
  erase(s, "k");
  EXPECT_EQ(value_of(s, "k"), std::nullopt);
  erase(s, "k");
  EXPECT_EQ(s.stats().entries, 0U);
  EXPECT_GE(s.stats().commits, 5U);
}

TYPED_TEST_P(MetaStoreConformance, KeysAreOrderedAsUnsignedBytes) {
  using namespace btd::conformance;
  auto& s = this->store();
  const std::set<std::string> keys = {std::string(1, '\0'),
                                      std::string(2, '\0'),
                                      std::string("\0a", 2),
                                      "a",
                                      std::string("a\0", 2),
                                      std::string("a\0b", 3),
                                      "aa",
                                      "b",
                                      "\x7f",
                                      "\x80",
                                      "\xff",
                                      "\xff\xff",
                                      std::string("\xff\x00", 2)};
  for (auto it = keys.rbegin(); it != keys.rend(); ++it) put(s, *it, "v" + *it);
  const auto got = dump(s);
  ASSERT_EQ(got.size(), keys.size());
  std::size_t i = 0;
  for (const std::string& k : keys) {
    EXPECT_EQ(got[i].first, k);
    EXPECT_EQ(got[i].second, "v" + k);
    ++i;
  }
}

TYPED_TEST_P(MetaStoreConformance, ScanBoundsAreHalfOpen) {
  using namespace btd::conformance;
  auto& s = this->store();
  for (char c = 'b'; c <= 'h'; ++c) put(s, std::string(1, c), std::string(2, c));
  auto keys = [&](std::string_view from, std::string_view to) {
    std::string out;
    for (const auto& [k, v] : dump(s, from, to)) out += k;
    return out;
  };
  EXPECT_EQ(keys("", ""), "bcdefgh");
  EXPECT_EQ(keys("a", "z"), "bcdefgh");
  EXPECT_EQ(keys("c", "f"), "cde");
  EXPECT_EQ(keys("c", "c"), "");
  EXPECT_EQ(keys("f", "c"), "");
  EXPECT_EQ(keys("bb", "dd"), "cd");
  EXPECT_EQ(keys("h", ""), "h");
  EXPECT_EQ(keys("i", ""), "");
  EXPECT_EQ(keys("", "b"), "");
  EXPECT_EQ(keys("", std::string_view("b\0", 2)), "b");
}

TYPED_TEST_P(MetaStoreConformance, ScanStopsWhenTheVisitorSaysSo) {
  using namespace btd::conformance;
  auto& s = this->store();
  for (int i = 0; i < 100; ++i) put(s, pattern(8, static_cast<unsigned>(i)), "v");
  int seen = 0;
  ASSERT_TRUE(s.scan("", "", [&](auto, auto) { return ++seen < 7; }).has_value());
  EXPECT_EQ(seen, 7);
}

TYPED_TEST_P(MetaStoreConformance, PrefixScan) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "a\xff", "1");
  put(s, "a\xff\xff", "2");
  put(s, "a\xff\xff\x01", "3");
  put(s, "b", "4");
  EXPECT_EQ(btd::prefix_end("a\xff\xff"), "b");
  EXPECT_EQ(btd::prefix_end("\xff\xff"), "");
  EXPECT_EQ(btd::prefix_end(""), "");
  EXPECT_EQ(btd::prefix_end("ab"), "ac");
  EXPECT_EQ(dump(s, "a\xff\xff", btd::prefix_end("a\xff\xff")).size(), 2U);
  EXPECT_EQ(dump(s, "a", btd::prefix_end("a")).size(), 3U);
}

TYPED_TEST_P(MetaStoreConformance, ValuesOfEverySize) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::vector<std::size_t> sizes = {0, 1, 2, 7, 8, 9, 63, 64, 65, 255, 256};
  for (std::size_t base : {512U, 1024U, 2048U, 4096U, 8192U, 16384U, 32768U, 65536U})
    for (std::size_t d : {0U, 1U, 8U, 64U}) {
      sizes.push_back(base - d);
      if (base + d <= btd::kMaxValueBytes) sizes.push_back(base + d);
    }
  sizes.push_back(btd::kMaxValueBytes);
  // Every size in its own key, then every key walks through all sizes.
  for (std::size_t i = 0; i < sizes.size(); ++i)
    put(s, "key" + std::to_string(i), pattern(sizes[i], static_cast<unsigned>(i)));
  for (std::size_t i = 0; i < sizes.size(); ++i)
    EXPECT_EQ(value_of(s, "key" + std::to_string(i)), pattern(sizes[i], static_cast<unsigned>(i)));
  for (unsigned i = 0; i < sizes.size(); ++i) {
    put(s, "one", pattern(sizes[i], i + 1000));
    EXPECT_EQ(value_of(s, "one"), pattern(sizes[i], i + 1000));
    put(s, "two", pattern(sizes[sizes.size() - 1 - i], i));
    EXPECT_EQ(value_of(s, "two"), pattern(sizes[sizes.size() - 1 - i], i));
  }
}

TYPED_TEST_P(MetaStoreConformance, KeysOfEverySize) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::map<std::string, std::string> model;
  for (std::size_t n = 1; n <= btd::kMaxKeyBytes; n += n < 32 ? 1 : 15) {
    model[std::string(n, 'k')] = std::to_string(n);
    model[pattern(n, static_cast<unsigned>(n) * 7)] = "p";
  }
  model[std::string(btd::kMaxKeyBytes, '\xff')] = "last";
  for (const auto& [k, v] : model) put(s, k, v);
  EXPECT_EQ(dump(s), Pairs(model.begin(), model.end()));
  for (const auto& [k, v] : model) erase(s, k);
  EXPECT_TRUE(dump(s).empty());
}

TYPED_TEST_P(MetaStoreConformance, LimitsAreErrorsAndChangeNothing) {
  using namespace btd::conformance;
  auto& s = this->store();
  const std::string long_key(btd::kMaxKeyBytes + 1, 'k');
  const std::string long_value(btd::kMaxValueBytes + 1, 'v');
  auto code = [](const auto& r) { return r ? 0 : r.error().code; };
  EXPECT_EQ(code(s.get(long_key)), EINVAL);
  EXPECT_EQ(code(s.get("")), EINVAL);
  {
    btd::Batch b;
    b.put("good", "1");
    b.put(long_key, "2");
    EXPECT_EQ(code_of(s.commit(b)), EINVAL);
  }
  {
    btd::Batch b;
    b.put("good", "1");
    b.put("key", long_value);
    EXPECT_EQ(code_of(s.commit(b)), EINVAL);
  }
  {
    btd::Batch b;
    b.put("good", "1");
    b.erase("");
    EXPECT_EQ(code_of(s.commit(b)), EINVAL);
  }
  {
    btd::Batch b;
    b.put("good", "1");
    b.require(long_key, std::nullopt);
    EXPECT_EQ(code_of(s.commit(b)), EINVAL);
  }
  EXPECT_EQ(value_of(s, "good"), std::nullopt);
  EXPECT_EQ(s.stats().entries, 0U);
}

TYPED_TEST_P(MetaStoreConformance, BatchLimits) {
  using namespace btd::conformance;
  auto& s = this->store();
  btd::Batch full;
  for (std::size_t i = 0; i < btd::kMaxBatchChanges; ++i) {
    full.require("r" + std::to_string(i), std::nullopt);
    full.put("k" + std::to_string(i), pattern(700, static_cast<unsigned>(i)));
  }
  EXPECT_EQ(code_of(s.commit(full)), 0);
  EXPECT_EQ(s.stats().entries, btd::kMaxBatchChanges);

  btd::Batch many;
  for (std::size_t i = 0; i <= btd::kMaxBatchChanges; ++i) many.erase("k" + std::to_string(i));
  EXPECT_EQ(code_of(s.commit(many)), E2BIG);

  btd::Batch large;  // the bytes limit, exactly
  std::size_t bytes = 0;
  for (std::size_t i = 0; bytes < btd::kMaxBatchBytes; ++i) {
    const std::string key = "L" + std::to_string(1000 + i);
    const std::size_t size = std::min<std::size_t>(60000, btd::kMaxBatchBytes - bytes - key.size());
    large.put(key, pattern(size, static_cast<unsigned>(i)));
    bytes += key.size() + size;
  }
  EXPECT_EQ(code_of(s.commit(large)), 0);
  large.erase("x");
  EXPECT_EQ(code_of(s.commit(large)), E2BIG);
  EXPECT_EQ(s.stats().entries, btd::kMaxBatchChanges + large.changes().size() - 1);
}

TYPED_TEST_P(MetaStoreConformance, EmptyBatchCommits) {
  using namespace btd::conformance;
  btd::Batch b;
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(code_of(this->store().commit(b)), 0);
  b.require("absent", std::nullopt);
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(code_of(this->store().commit(b)), 0);
  b.require("absent", "there");
  EXPECT_EQ(code_of(this->store().commit(b)), EAGAIN);
}

TYPED_TEST_P(MetaStoreConformance, RequirementsGuardTheCommit) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "a", "1");
  const std::string big = pattern(20000, 5);
  put(s, "big", big);
  auto attempt = [&](std::string_view key, std::optional<std::string_view> value) {
    btd::Batch b;
    b.require(key, value);
    b.put("result", "written");
    b.erase("a-victim");
    const int code = code_of(s.commit(b));
    const bool written = value_of(s, "result").has_value();
    EXPECT_EQ(written, code == 0);
    erase(s, "result");
    return code;
  };
  EXPECT_EQ(attempt("a", "1"), 0);
  EXPECT_EQ(attempt("a", "2"), EAGAIN);
  EXPECT_EQ(attempt("a", ""), EAGAIN);
  EXPECT_EQ(attempt("a", "11"), EAGAIN);
  EXPECT_EQ(attempt("a", std::nullopt), EAGAIN);
  EXPECT_EQ(attempt("b", std::nullopt), 0);
  EXPECT_EQ(attempt("b", ""), EAGAIN);
  EXPECT_EQ(attempt("big", big), 0);
  std::string other = big;
  other.back() = static_cast<char>(other.back() ^ 1);
  EXPECT_EQ(attempt("big", other), EAGAIN);
}

TYPED_TEST_P(MetaStoreConformance, AFailedRequirementChangesNothing) {
  using namespace btd::conformance;
  auto& s = this->store();
  for (int i = 0; i < 50; ++i) put(s, "k" + std::to_string(i), pattern(100, 3));
  const Pairs before = dump(s);
  btd::Batch b;
  b.require("k1", pattern(100, 3));
  b.require("k2", "something else");
  b.put("k1", "new");
  b.put("fresh", pattern(5000, 1));
  b.erase("k3");
  EXPECT_EQ(code_of(s.commit(b)), EAGAIN);
  EXPECT_EQ(dump(s), before);
}

// Requirements look at the state before the batch, not at its changes.
TYPED_TEST_P(MetaStoreConformance, RequirementsSeeTheStateBefore) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "a", "1");
  btd::Batch b;
  b.put("a", "2");
  b.require("a", "1");
  EXPECT_EQ(code_of(s.commit(b)), 0);
  EXPECT_EQ(code_of(s.commit(b)), EAGAIN);
  EXPECT_EQ(value_of(s, "a"), "2");
}

TYPED_TEST_P(MetaStoreConformance, AKeyNamedTwiceTakesItsLastChange) {
  using namespace btd::conformance;
  auto& s = this->store();
  btd::Batch b;
  b.put("a", "1");
  b.put("b", "1");
  b.erase("a");
  b.erase("b");
  b.put("b", "2");
  b.put("c", "1");
  b.put("c", pattern(9000, 9));
  b.put("c", "3");
  EXPECT_EQ(code_of(s.commit(b)), 0);
  EXPECT_EQ(dump(s), (Pairs{{"b", "2"}, {"c", "3"}}));
  btd::Batch many;  // enough changes for any engine to sort rather than search
  for (int i = 0; i < 100; ++i) many.put("m" + std::to_string(i % 10), std::to_string(i));
  EXPECT_EQ(code_of(s.commit(many)), 0);
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(value_of(s, "m" + std::to_string(i)), std::to_string(90 + i));
}

TYPED_TEST_P(MetaStoreConformance, WatchSeesEveryChangeUnderItsPrefixInOrder) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "p/old", "0");
  std::vector<btd::WatchEvent> events;
  auto handle = s.watch("p/", [&](const btd::WatchEvent& e) { events.push_back(e); });
  EXPECT_TRUE(events.empty());  // what was there before the watch is no event
  put(s, "p/a", "1");
  put(s, "q/a", "1");
  put(s, "p", "1");
  put(s, "p/a", "2");
  erase(s, "p/absent");
  erase(s, "p/a");
  put(s, "p/old", "1");
  btd::Batch failed;
  failed.require("p/old", "9");
  failed.put("p/failed", "x");
  EXPECT_EQ(code_of(s.commit(failed)), EAGAIN);
  btd::Batch twice;
  twice.put("p/t", "1");
  twice.put("p/t", "2");
  EXPECT_EQ(code_of(s.commit(twice)), 0);
  ASSERT_EQ(events.size(), 5U);
  EXPECT_EQ(events[0].key, "p/a");
  EXPECT_EQ(events[0].value, "1");
  EXPECT_EQ(events[0].previous, std::nullopt);
  EXPECT_EQ(events[1].value, "2");
  EXPECT_EQ(events[1].previous, "1");
  EXPECT_EQ(events[2].key, "p/a");
  EXPECT_EQ(events[2].value, std::nullopt);
  EXPECT_EQ(events[2].previous, "2");
  EXPECT_EQ(events[3].key, "p/old");
  EXPECT_EQ(events[3].previous, "0");
  EXPECT_EQ(events[4].key, "p/t");
  EXPECT_EQ(events[4].value, "2");
  EXPECT_EQ(events[4].previous, std::nullopt);
}

TYPED_TEST_P(MetaStoreConformance, WatchEndsWithItsHandle) {
  using namespace btd::conformance;
  auto& s = this->store();
  int all = 0;
  int some = 0;
  auto a = s.watch("", [&](const auto&) { ++all; });
  auto b = s.watch("x", [&](const auto&) { ++some; });
  put(s, "x", "1");
  put(s, "y", "1");
  b.reset();
  put(s, "x", "2");
  EXPECT_EQ(all, 3);
  EXPECT_EQ(some, 1);
  a.reset();
  put(s, "x", "3");
  EXPECT_EQ(all, 3);
}

TYPED_TEST_P(MetaStoreConformance, AWatcherMayUseTheStore) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::vector<std::string> order;
  std::unique_ptr<btd::WatchHandle> handle;
  handle = s.watch("", [&](const btd::WatchEvent& e) {
    order.push_back(e.key);
    EXPECT_EQ(value_of(s, e.key), e.value);
    if (e.key == "a") put(s, "b", "from the watcher");
    if (e.key == "b") put(s, "c", "again");
    if (e.key == "c") handle.reset();  // a watcher may end itself
  });
  put(s, "a", "1");
  put(s, "d", "1");
  EXPECT_EQ(order, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(dump(s).size(), 4U);
}

// Many threads commit; the watcher's mirror must equal the store after each thread has returned.
TYPED_TEST_P(MetaStoreConformance, AWatchedMirrorEqualsTheStore) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::map<std::string, std::string> mirror;
  std::atomic<int> inside{0};
  auto handle = s.watch("m", [&](const btd::WatchEvent& e) {
    EXPECT_EQ(inside.fetch_add(1), 0) << "two events at once";
    if (e.value) {
      mirror[e.key] = *e.value;
    } else {
      mirror.erase(e.key);
    }
    inside.fetch_sub(1);
  });
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 rng(t);
      for (int i = 0; i < 300; ++i) {
        btd::Batch b;
        const std::string key = "m" + std::to_string(rng() % 20);
        if (rng() % 3 == 0) {
          b.erase(key);
        } else {
          b.put(key, std::to_string(t) + ":" + std::to_string(i));
        }
        b.put("m-second", std::to_string(rng()));
        EXPECT_EQ(code_of(s.commit(b)), 0);
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(dump(s), Pairs(mirror.begin(), mirror.end()));
}

TYPED_TEST_P(MetaStoreConformance, NoEventAfterTheHandleIsGone) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::atomic<bool> stop{false};
  std::atomic<unsigned> commits{0};
  std::thread writer([&] {
    for (unsigned i = 0; !stop.load(); ++i) {
      put(s, "w" + std::to_string(i % 3), std::to_string(i));
      commits.fetch_add(1);
    }
  });
  for (int round = 0; round < 200; ++round) {
    auto alive = std::make_unique<std::atomic<bool>>(true);  // asan sees a late event as well
    auto* flag = alive.get();
    auto handle = s.watch("w", [flag](const auto&) { EXPECT_TRUE(flag->load()); });
    for (const unsigned before = commits.load(); commits.load() == before;)
      std::this_thread::yield();
    handle.reset();
    flag->store(false);
  }
  stop.store(true);
  writer.join();
}

// A writer moves tokens between keys; a reader must never see a sum that is not the whole.
TYPED_TEST_P(MetaStoreConformance, ReadersSeeWholeBatches) {
  using namespace btd::conformance;
  auto& s = this->store();
  constexpr int kKeys = 40;
  constexpr int kTokens = 1000;
  btd::Batch init;
  for (int i = 0; i < kKeys; ++i) init.put("t" + std::to_string(100 + i), "0");
  init.put("t100", std::to_string(kTokens));
  ASSERT_EQ(code_of(s.commit(init)), 0);
  std::atomic<bool> stop{false};
  std::atomic<int> moves{0};
  std::vector<std::thread> writers;
  for (unsigned w = 0; w < 2; ++w)
    writers.emplace_back([&, w] {
      std::mt19937 rng(w + 1);
      while (!stop.load()) {
        const std::string from = "t" + std::to_string(100 + rng() % kKeys);
        const std::string to = "t" + std::to_string(100 + rng() % kKeys);
        if (from == to) continue;
        const std::string a = value_of(s, from).value_or("");
        const std::string b = value_of(s, to).value_or("");
        if (a == "0" || a.empty() || b.empty()) continue;
        btd::Batch move;
        move.require(from, a);
        move.require(to, b);
        move.put(from, std::to_string(std::stoi(a) - 1));
        move.put(to, std::to_string(std::stoi(b) + 1));
        move.put("z" + std::to_string(rng() % 500), pattern(rng() % 300, w));
        const int code = code_of(s.commit(move));
        if (code == 0) moves.fetch_add(1);
        EXPECT_TRUE(code == 0 || code == EAGAIN) << code;
      }
    });
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r)
    readers.emplace_back([&] {
      for (int round = 0; round < 300 || moves.load() < 200; ++round) {
        int sum = 0;
        for (const auto& [k, v] : dump(s, "t", "u")) sum += std::stoi(v);
        EXPECT_EQ(sum, kTokens);
      }
    });
  for (auto& t : readers) t.join();
  stop.store(true);
  for (auto& t : writers) t.join();
}

TYPED_TEST_P(MetaStoreConformance, CompareAndCommitLosesNoUpdate) {
  using namespace btd::conformance;
  auto& s = this->store();
  put(s, "counter", "0");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int done = 0; done < 100;) {
        const std::string now = value_of(s, "counter").value_or("");
        btd::Batch b;
        b.require("counter", now);
        b.put("counter", std::to_string(std::stoi(now) + 1));
        if (code_of(s.commit(b)) == 0) ++done;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(value_of(s, "counter"), "400");
}

// Random batches against std::map, with keys that share prefixes and values of all sizes.
TYPED_TEST_P(MetaStoreConformance, DifferentialAgainstAMap) {
  using namespace btd::conformance;
  auto& s = this->store();
  std::map<std::string, std::string> model;
  std::mt19937 rng(20240607);
  auto random_key = [&] {
    const unsigned n = static_cast<unsigned>(rng() % 3000);
    switch (rng() % 4) {
      case 0:
        return std::string("\1") + std::to_string(n);
      case 1:
        return "dir/" + std::to_string(n % 7) + "/" + std::to_string(n);
      case 2:
        return pattern(1 + n % 40, n);
      default:
        return std::string(n % 400, 'x') + std::to_string(n);
    }
  };
  auto random_value = [&] {
    const unsigned kind = static_cast<unsigned>(rng() % 100);
    const std::size_t size = kind < 60 ? rng() % 100 : kind < 97 ? rng() % 1500 : rng() % 30000;
    return pattern(size, static_cast<unsigned>(rng()));
  };
  for (int round = 0; round < 4000; ++round) {
    btd::Batch b;
    auto next = model;
    bool holds = true;
    const bool shrink = (round / 1000) % 2 == 1;
    for (unsigned i = rng() % 8; i > 0; --i) {
      std::string key = random_key();
      if (rng() % 2 == 0 && !model.empty()) {
        auto it = model.lower_bound(key);
        if (it != model.end()) key = it->first;
      }
      if (rng() % 10 < (shrink ? 7U : 3U)) {
        b.erase(key);
        next.erase(key);
      } else {
        std::string value = random_value();
        b.put(key, value);
        next[key] = std::move(value);
      }
    }
    if (rng() % 4 == 0) {
      const std::string key = random_key();
      const auto it = model.find(key);
      if (rng() % 8 == 0) {
        b.require(key, "surely not this");
        holds = false;
      } else if (it == model.end()) {
        b.require(key, std::nullopt);
      } else {
        b.require(key, it->second);
      }
    }
    ASSERT_EQ(code_of(s.commit(b)), holds ? 0 : EAGAIN);
    if (holds) model = std::move(next);
    if (round % 16 == 0) {
      const std::string key = random_key();
      const auto it = model.find(key);
      ASSERT_EQ(value_of(s, key),
                it == model.end() ? std::nullopt : std::optional<std::string>(it->second));
      std::string from = random_key();
      std::string to = random_key();
      if (to < from) std::swap(from, to);
      ASSERT_EQ(dump(s, from, to), Pairs(model.lower_bound(from), model.lower_bound(to)));
    }
    if (round % 500 == 499) {
      ASSERT_EQ(dump(s), Pairs(model.begin(), model.end()));
      ASSERT_EQ(s.stats().entries, model.size());
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(MetaStoreConformance, EmptyStoreHoldsNothing, PutGetReplaceErase,
                            KeysAreOrderedAsUnsignedBytes, ScanBoundsAreHalfOpen,
                            ScanStopsWhenTheVisitorSaysSo, PrefixScan, ValuesOfEverySize,
                            KeysOfEverySize, LimitsAreErrorsAndChangeNothing, BatchLimits,
                            EmptyBatchCommits, RequirementsGuardTheCommit,
                            AFailedRequirementChangesNothing, RequirementsSeeTheStateBefore,
                            AKeyNamedTwiceTakesItsLastChange,
                            WatchSeesEveryChangeUnderItsPrefixInOrder, WatchEndsWithItsHandle,
                            AWatcherMayUseTheStore, AWatchedMirrorEqualsTheStore,
                            NoEventAfterTheHandleIsGone, ReadersSeeWholeBatches,
                            CompareAndCommitLosesNoUpdate, DifferentialAgainstAMap);
