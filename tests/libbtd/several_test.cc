// Several processes with one heap: they see each other's data, free each other's blocks, come, go
// and are killed.
#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/libbtd/neighbour.h"

namespace btd::test {
namespace {

class SeveralTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    setenv("BTD_QUIET", "1", 1);
  }
  // Space for each of a few processes; what is never reused does not fit.
  btd_config bounded() const {
    btd_config with = config();
    with.max_bytes = 128 * kMiB;
    return with;
  }
  // Cells of pointers, all NULL, under a root.
  void** make_table(const char* name, std::size_t cells) {
    auto** const table = static_cast<void**>(btd_calloc(heap_, cells, sizeof(void*)));
    EXPECT_NE(table, nullptr) << why();
    EXPECT_EQ(btd_persist(table, cells * sizeof(void*)), 0) << why();
    EXPECT_EQ(btd_set_root(heap_, name, table), 0) << why();
    return table;
  }
  void** table(const char* name) {
    auto** const found = static_cast<void**>(btd_root(heap_, name));
    if (found == nullptr) throw std::runtime_error(std::string(name) + ": " + why());
    return found;
  }
  // In a process of its own, so that the test can fork others afterwards.
  void prepare(const std::function<void()>& body) {
    EXPECT_EQ(in_child([&] {
                open();
                body();
                close();
                return 0;
              }),
              0);
  }
  // Two processes do it at the same time.
  void both(const std::function<void(std::size_t who)>& body) {
    const auto in_open_heap = [&](std::size_t who) {
      return [&, who](Neighbour& self) {
        open();
        self.pause();
        body(who);
        close();
      };
    };
    Neighbour one(in_open_heap(0));
    Neighbour two(in_open_heap(1));
    ASSERT_TRUE(one.turn());
    ASSERT_TRUE(two.turn());
    one.go();
    two.go();
    EXPECT_EQ(one.ended(), 0);
    EXPECT_EQ(two.ended(), 0);
  }
  std::uint64_t objects(char contract) {
    std::pair<char, std::uint64_t> count{contract, 0};
    const auto visit = [](const btd_object* object, void* context) {
      auto* const c = static_cast<std::pair<char, std::uint64_t>*>(context);
      if (object->contract == c->first) ++c->second;
      return 0;
    };
    EXPECT_EQ(btd_foreach(heap_, visit, &count), 0) << why();
    return count.second;
  }
  long problems() {
    return btd_check(
        heap_, [](const char* sentence, void*) { ADD_FAILURE() << sentence; }, nullptr);
  }
  // Opens the heap when all have left it.
  void expect_clean() {
    open();
    EXPECT_EQ(statistics().was_clean, 1);
    EXPECT_EQ(problems(), 0);
  }
  int set_word(void* at, std::uint64_t value) { return btd_tx_set(at, &value, sizeof value); }
};

TEST_F(SeveralTest, BothSeeEachOthersRootsAndDataAtOneAddress) {
  struct Seen {
    void* base;
    void* root;
  };
  const Shared<Seen> theirs;
  const auto leave = [&](const char* name, const char* text) {
    void* const block = btd_malloc(heap_, 100);
    EXPECT_NE(btd_memcpy(block, text, std::strlen(text) + 1), nullptr) << why();
    EXPECT_EQ(btd_set_root(heap_, name, block), 0) << why();
    return block;
  };
  const auto expect_text = [&](const char* name, const char* text) {
    const auto* const found = static_cast<const char*>(btd_root(heap_, name));
    ASSERT_NE(found, nullptr) << why();
    EXPECT_STREQ(found, text);
  };
  Neighbour other([&](Neighbour& self) {
    open();
    *theirs = {.base = btd_cluster_base(heap_), .root = leave("theirs", "of the neighbour")};
    self.pause();
    expect_text("ours", "of the test");
    close();
  });
  ASSERT_TRUE(other.turn());
  open();
  EXPECT_EQ(btd_cluster_base(heap_), theirs->base);
  EXPECT_EQ(btd_root(heap_, "theirs"), theirs->root);
  expect_text("theirs", "of the neighbour");
  leave("ours", "of the test");
  EXPECT_EQ(other.end(), 0);
  close();
  expect_clean();
  expect_text("theirs", "of the neighbour");
  expect_text("ours", "of the test");
}

// A stream of 400 MB through a heap of 128: each block is made in one process and freed in another.
TEST_F(SeveralTest, RecoverableBlocksFreedByTheOtherAreUsedAgain) {
  constexpr std::uint64_t kBlocks = 100'000;
  constexpr std::size_t kPlaces = 256;
  using Places = std::array<std::atomic<std::uint64_t*>, kPlaces>;
  const Shared<Places> places;
  Neighbour producer([&](Neighbour&) {
    open(bounded());
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      auto& place = places->at(i % kPlaces);
      ASSERT_TRUE(within(kPatience, [&] { return place.load() == nullptr; }));
      auto* const block = static_cast<std::uint64_t*>(btd_malloc(heap_, 16 + i * 37 % 8000));
      ASSERT_NE(block, nullptr) << why();
      *block = i;
      place = block;
    }
    // Who ends first leaves blocks that the other has yet to free.
    close();
  });
  producer.go();
  open(bounded());
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    auto& place = places->at(i % kPlaces);
    ASSERT_TRUE(within(kPatience, [&] { return place.load() != nullptr || producer.gone(); }));
    ASSERT_NE(place.load(), nullptr);
    ASSERT_EQ(*place.load(), i);
    errno = 0;
    btd_free(place.exchange(nullptr));
    ASSERT_EQ(errno, 0) << why();
  }
  EXPECT_EQ(producer.ended(), 0);
  close();
  expect_clean();
  EXPECT_EQ(objects('R'), 0U);
}

// Both allocate into their half of a table and free the other's.
TEST_F(SeveralTest, PublishedBlocksFreedByTheOtherAreUsedAgain) {
  constexpr std::size_t kHalf = 32;
  constexpr int kRounds = 300;
  const auto turn = [&](void** mine, void** theirs) {
    for (std::size_t i = 0; i < kHalf; ++i) {
      ASSERT_EQ(btd_free_from(&theirs[i]), 0) << why();
      ASSERT_EQ(theirs[i], nullptr);
      ASSERT_NE(btd_malloc_to(&mine[i], 10'000 + 300 * i), nullptr) << why();
    }
  };
  Neighbour other([&](Neighbour& self) {
    open(bounded());
    void** const cells = make_table("table", 2 * kHalf);
    for (int i = 0; i < kRounds && !HasFailure(); ++i) {
      turn(cells, cells + kHalf);
      self.pause();
    }
    close();
  });
  ASSERT_TRUE(other.turn());
  open(bounded());
  void** const cells = table("table");
  for (bool more = true; more && !HasFailure(); more = other.turn()) turn(cells + kHalf, cells);
  EXPECT_EQ(other.end(), 0);
  close();
  expect_clean();
  EXPECT_EQ(objects('T'), kHalf);
}

TEST_F(SeveralTest, TransactionsOnDifferentWordsOfOneBlockAllCount) {
  constexpr std::size_t kWords = 64;
  constexpr std::uint64_t kTransactions = 2000;
  prepare([&] { make_table("words", kWords); });
  both([&](std::size_t who) {
    auto* const words = reinterpret_cast<std::uint64_t*>(table("words"));
    for (std::uint64_t i = 1; i <= kTransactions; ++i) {
      BTD_TX(heap_) {
        for (std::size_t w = who; w < kWords; w += 2) ASSERT_EQ(set_word(&words[w], i), 0);
      }
      ASSERT_EQ(btd_tx_result(), 0) << why();
    }
  });
  expect_clean();
  const auto* const words = reinterpret_cast<std::uint64_t*>(table("words"));
  for (std::size_t w = 0; w < kWords; ++w) EXPECT_EQ(words[w], kTransactions) << w;
}

TEST_F(SeveralTest, BothSetRootsAtOnce) {
  constexpr int kNames = 40;
  constexpr int kRounds = 20;
  const Shared<std::array<void*, 2>> blocks;
  const auto name = [](std::size_t who, int i) {
    return std::to_string(who) + "." + std::to_string(i);
  };
  both([&](std::size_t who) {
    void* const block = blocks->at(who) = btd_malloc(heap_, 100);
    for (int i = 0; i < kNames * kRounds; ++i) {
      const std::string mine = name(who, i % kNames);
      ASSERT_EQ(btd_set_root(heap_, mine.c_str(), block), 0) << why();
      ASSERT_EQ(btd_set_root(heap_, "common", block), 0) << why();
      ASSERT_EQ(btd_root(heap_, mine.c_str()), block);
      if (i % 3 == 0) {
        ASSERT_EQ(btd_set_root(heap_, mine.c_str(), nullptr), 0) << why();
      }
    }
    for (int i = 0; i < kNames; ++i) {
      ASSERT_EQ(btd_set_root(heap_, name(who, i).c_str(), block), 0) << why();
    }
  });
  expect_clean();
  for (std::size_t who = 0; who < 2; ++who) {
    for (int i = 0; i < kNames; ++i) {
      EXPECT_EQ(btd_root(heap_, name(who, i).c_str()), blocks->at(who)) << name(who, i);
    }
  }
  void* const common = btd_root(heap_, "common");
  EXPECT_TRUE(common == blocks->at(0) || common == blocks->at(1));
}

TEST_F(SeveralTest, AThirdJoinsAndLeavesWhileTwoRun) {
  struct State {
    std::atomic<bool> stop;
    std::array<std::atomic<std::uint64_t>, 2> rounds;
  };
  const Shared<State> state;
  const auto work = [&](void** cell) {
    ASSERT_NE(btd_malloc_to(cell, 200), nullptr) << why();
    void* const block = btd_malloc(heap_, 3000);
    ASSERT_NE(block, nullptr) << why();
    btd_free(block);
    ASSERT_EQ(btd_free_from(cell), 0) << why();
  };
  const auto busy = [&](std::size_t who) {
    open();
    void** const cell = make_table(who == 0 ? "one" : "two", 1);
    for (; !state->stop && !HasFailure(); ++state->rounds.at(who)) work(cell);
    close();
  };
  Neighbour one([&](Neighbour&) { busy(0); });
  Neighbour two([&](Neighbour&) { busy(1); });
  one.go();
  two.go();
  for (int third = 0; third < 10; ++third) {
    const std::array before{state->rounds[0].load(), state->rounds[1].load()};
    EXPECT_EQ(in_child([&] {
                open();
                void** const cell = make_table("three", 1);
                for (int i = 0; i < 50; ++i) work(cell);
                btd_set_root(heap_, "three", nullptr);
                btd_free(static_cast<void*>(cell));
                close();
                return 0;
              }),
              0);
    for (std::size_t who = 0; who < 2; ++who) {
      EXPECT_TRUE(within(kPatience, [&] {
        return state->rounds.at(who) > before.at(who) || one.gone() || two.gone();
      }));
    }
  }
  state->stop = true;
  EXPECT_EQ(one.ended(), 0);
  EXPECT_EQ(two.ended(), 0);
  expect_clean();
  EXPECT_EQ(objects('T'), 0U);
  EXPECT_EQ(objects('R'), 2U);
}

TEST_F(SeveralTest, InWhateverOrderTheyLeaveTheHeapIsClean) {
  std::array<int, 3> order{0, 1, 2};
  std::uint64_t left = 0;
  do {
    std::vector<std::unique_ptr<Neighbour>> all;
    for (int i = 0; i < 3; ++i) {
      all.push_back(std::make_unique<Neighbour>([&, i](Neighbour& self) {
        open();
        const std::string name = "table" + std::to_string(left + i);
        ASSERT_NE(btd_malloc_to(make_table(name.c_str(), 1), 100), nullptr) << why();
        self.pause();
        btd_free(btd_malloc(heap_, 100));
        close();
      }));
    }
    for (auto& each : all) ASSERT_TRUE(each->turn());
    for (const int i : order) EXPECT_EQ(all.at(i)->end(), 0) << i;
    left += 3;
    expect_clean();
    EXPECT_EQ(objects('T'), left);
    EXPECT_EQ(objects('R'), left);
    close();
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_F(SeveralTest, WhatTheOtherFreedIsNotFreedAgain) {
  Neighbour other([&](Neighbour& self) {
    open();
    void** const cells = make_table("table", 2);
    for (int i = 0; i < 2; ++i) ASSERT_NE(btd_malloc_to(&cells[i], 100), nullptr) << why();
    const std::array blocks{cells[0], cells[1]};
    self.pause();  // the test frees both
    const btd_action action{.kind = BTD_ACTION_FREE, .at = blocks[0], .value = 0};
    errno = 0;
    EXPECT_EQ(btd_publish(heap_, &action, 1), -1);
    EXPECT_EQ(errno, EINVAL) << why();
    ASSERT_EQ(btd_tx_begin(heap_), 0);
    errno = 0;
    const bool refused = btd_tx_free(blocks[1]) != 0 || btd_tx_commit() != 0;
    EXPECT_TRUE(refused);
    EXPECT_EQ(errno, EINVAL) << why();
    if (btd_tx_depth() > 0) btd_tx_abort();
    EXPECT_EQ(btd_free_from(&cells[0]), 0);  // a NULL by now
    close();
  });
  ASSERT_TRUE(other.turn());
  open();
  void** const cells = table("table");
  ASSERT_EQ(btd_free_from(&cells[0]), 0) << why();
  BTD_TX(heap_) {
    ASSERT_EQ(btd_tx_free(cells[1]), 0) << why();
    ASSERT_EQ(set_word(&cells[1], 0), 0);
  }
  ASSERT_EQ(btd_tx_result(), 0) << why();
  EXPECT_EQ(other.end(), 0);
  EXPECT_EQ(problems(), 0);
  EXPECT_EQ(objects('T'), 0U);
}

TEST_F(SeveralTest, ReclaimingByHandWaitsUntilTheOthersHaveLeft) {
  const auto stay = [&](Neighbour& self) {
    open();
    self.pause();
    close();
  };
  Neighbour leaves(stay);
  Neighbour is_killed(stay);
  ASSERT_TRUE(leaves.turn());
  ASSERT_TRUE(is_killed.turn());
  open();
  void* const kept = btd_malloc(heap_, 100);
  ASSERT_EQ(btd_set_root(heap_, "kept", kept), 0);
  ASSERT_NE(btd_malloc(heap_, 100), nullptr);
  const auto expect_busy = [&] {
    errno = 0;
    EXPECT_EQ(btd_gc(heap_), -1);
    EXPECT_EQ(errno, EBUSY);
    EXPECT_NE(why(), "");
    EXPECT_NE(btd_usable_size(kept), 0U);
  };
  expect_busy();
  EXPECT_EQ(leaves.end(), 0);
  expect_busy();
  is_killed.kill();
  EXPECT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(objects('R'), 1U);
  EXPECT_EQ(problems(), 0);
}

TEST_F(SeveralTest, KilledInATransactionItsNeighbourGoesOnAndCanFreeWhatItWasFreeing) {
  constexpr int kHeld = 100;
  constexpr std::size_t kCells = 4;
  Neighbour victim([&](Neighbour& self) {
    open();
    void** const cells = make_table("table", kCells);
    ASSERT_NE(btd_malloc_to(&cells[0], 200), nullptr);
    ASSERT_NE(btd_malloc_to(&cells[1], 200), nullptr);
    const std::uint64_t old_word = 1;
    ASSERT_NE(btd_memcpy(cells[1], &old_word, sizeof old_word), nullptr);
    self.pause();
    for (int i = 0; i < kHeld; ++i) ASSERT_NE(btd_malloc(heap_, 500), nullptr);
    ASSERT_NE(btd_reserve(heap_, 300), nullptr);
    ASSERT_EQ(btd_tx_begin(heap_), 0);
    ASSERT_EQ(btd_tx_free(cells[0]), 0);
    void* const made = btd_tx_alloc(200);
    ASSERT_EQ(set_word(&cells[0], 0), 0);
    ASSERT_EQ(btd_tx_set(&cells[2], &made, sizeof made), 0);
    ASSERT_EQ(set_word(cells[1], 2), 0);
    self.pause();
  });
  ASSERT_TRUE(victim.turn());
  open();
  void** const cells = table("table");
  void* const freed = cells[0];
  ASSERT_TRUE(victim.turn());
  victim.kill();
  EXPECT_EQ(cells[0], freed);
  EXPECT_EQ(cells[2], nullptr);
  EXPECT_EQ(*static_cast<std::uint64_t*>(cells[1]), 1U);
  EXPECT_EQ(btd_free_from(&cells[0]), 0) << why();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_NE(btd_malloc_to(&cells[2], 200), nullptr) << why();
    ASSERT_EQ(btd_free_from(&cells[2]), 0) << why();
    btd_free(btd_malloc(heap_, 500));
  }
  BTD_TX(heap_) { ASSERT_EQ(set_word(cells[1], 3), 0); }
  EXPECT_EQ(btd_tx_result(), 0) << why();
  close();
  open();
  EXPECT_EQ(problems(), 0);
  EXPECT_EQ(*static_cast<std::uint64_t*>(table("table")[1]), 3U);
  EXPECT_EQ(objects('T'), 1U);
  EXPECT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(objects('R'), 1U);  // the table
  EXPECT_EQ(problems(), 0);
}

// What a process does until it is killed: blocks come, go and change places in its table, of which
// each thread has a part.
class KilledTest : public SeveralTest {
 protected:
  static constexpr std::size_t kCells = 32;
  static constexpr std::size_t kThreads = 2;
  static constexpr std::size_t kPart =
      2 + kCells;  // of a table: two words, always equal, and cells
  struct State {
    std::atomic<int> killed;  // how many
    std::atomic<std::uint64_t> rounds;
  };

  void work(const char* name, const std::function<bool()>& goes_on) {
    void** const cells = table(name);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        std::mt19937 random(static_cast<unsigned>(getpid() + i));
        while (goes_on() && !HasFailure()) step(cells + i * kPart, random);
      });
    }
    for (std::thread& each : threads) each.join();
  }
  void step(void** part, std::mt19937& random) {
    const std::uint64_t next = reinterpret_cast<std::uint64_t>(part[0]) + 1;
    void** const cells = part + 2;
    void** const one = &cells[random() % kCells];
    void** const two = &cells[random() % kCells];
    BTD_TX(heap_) {
      ASSERT_EQ(set_word(&part[0], next), 0);
      ASSERT_EQ(set_word(&part[1], next), 0);
      if (one != two) {
        void* const was = *one;
        ASSERT_EQ(btd_tx_set(one, two, sizeof *two), 0);
        ASSERT_EQ(btd_tx_set(two, &was, sizeof was), 0);
      }
    }
    ASSERT_EQ(btd_tx_result(), 0) << why();
    if (*one == nullptr) {
      ASSERT_NE(btd_malloc_to(one, 16 + random() % 3000), nullptr) << why();
    } else {
      ASSERT_EQ(btd_free_from(one), 0) << why();
    }
    btd_free(btd_malloc(heap_, 1 + random() % 3000));
  }
  // All or nothing of a dead one's last transactions, once its records are brought home.
  void expect_settled(const char* name) {
    ASSERT_EQ(btd_checkpoint(heap_), 0) << why();
    void** const cells = table(name);
    for (std::size_t i = 0; i < kThreads; ++i) {
      const void* const* const part = cells + i * kPart;
      EXPECT_EQ(part[0], part[1]);
    }
  }
  std::uint64_t filled(const char* name) {
    void** const cells = table(name);
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < kThreads; ++i) {
      void** const part = cells + i * kPart + 2;
      count += kCells - static_cast<std::uint64_t>(std::count(part, part + kCells, nullptr));
    }
    return count;
  }
  void free_all(const char* name) {
    void** const cells = table(name);
    for (std::size_t i = 0; i < kThreads; ++i) {
      for (std::size_t k = 0; k < kCells; ++k) {
        ASSERT_EQ(btd_free_from(&cells[i * kPart + 2 + k]), 0) << why();
      }
    }
  }
};

TEST_F(KilledTest, AtAnyMomentTheNeighbourGoesOnAndNothingLeaks) {
  constexpr int kRounds = 20;
  const Shared<State> state;
  prepare([&] {
    make_table("survivor", kThreads * kPart);
    make_table("victim", kThreads * kPart);
  });
  Neighbour survivor([&](Neighbour& self) {
    open();
    for (int round = 0; round < kRounds && !HasFailure(); ++round) {
      work("survivor", [&] { return ++state->rounds, state->killed == round; });
      expect_settled("victim");
      free_all("victim");
      self.pause();
    }
    close();
  });
  std::mt19937 random(7);
  for (int round = 0; round < kRounds; ++round) {
    Neighbour victim([&](Neighbour&) {
      open();
      work("victim", [] { return true; });
    });
    survivor.go();
    victim.go();
    usleep(500 + static_cast<unsigned>(random() % 40'000));
    victim.kill();
    EXPECT_EQ(victim.ended(), 128 + SIGKILL);
    const std::uint64_t before = state->rounds;
    EXPECT_TRUE(within(kPatience, [&] { return state->rounds > before + 10 || survivor.gone(); }));
    state->killed = round + 1;
    ASSERT_TRUE(survivor.await()) << round;
  }
  EXPECT_EQ(survivor.end(), 0);
  open();
  EXPECT_EQ(problems(), 0);
  EXPECT_EQ(filled("victim"), 0U);
  EXPECT_EQ(objects('T'), filled("survivor"));
  EXPECT_EQ(btd_gc(heap_), 0) << why();
  EXPECT_EQ(objects('R'), 2U);
  EXPECT_EQ(problems(), 0);
}

// Whatever the most is: who does not get in is told so, and the others go on.
TEST_F(SeveralTest, OneUserTooManyIsTold) {
  constexpr int kUsers = 70;
  const Shared<std::atomic<int>> users;
  std::vector<std::unique_ptr<Neighbour>> all;
  for (int i = 0; i < kUsers; ++i) {
    all.push_back(std::make_unique<Neighbour>([&](Neighbour& self) {
      errno = 0;
      btd_config with = config();
      heap_ = btd_cluster_create(&with);
      if (heap_ == nullptr) {
        EXPECT_NE(errno, 0);
        EXPECT_NE(why(), "");
        return;
      }
      ++*users;
      self.pause();
      void* const block = btd_malloc(heap_, 100);
      EXPECT_NE(block, nullptr) << why();
      btd_free(block);
      close();
    }));
  }
  for (auto& each : all) {
    if (!each->turn()) {
      EXPECT_EQ(each->ended(), 0);
    }
  }
  EXPECT_GE(*users, 2);
  for (auto& each : all) EXPECT_EQ(each->end(), 0);
  expect_clean();
}

}  // namespace
}  // namespace btd::test
