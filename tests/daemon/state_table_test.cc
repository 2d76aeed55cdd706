// The state table against a model: stopped at every single store, and killed for real at random.
// This program compiles the table with a hook before each store, so "killed here" is an exception.
#include "fs/daemon/state_table.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>

#include "alloc/unique_fd.h"

namespace {

struct Stopped {};
long g_stores_left = -1;  // -1: no stop

}  // namespace

void btd_state_store_hook() {
  if (g_stores_left < 0) return;
  if (g_stores_left-- == 0) throw Stopped{};
}

namespace btd {
namespace {

struct Counts {
  std::uint64_t nlookup = 0;
  std::uint32_t opens = 0;
  std::int32_t backing_id = 0;
  std::uint32_t flags = 0;
  auto operator<=>(const Counts&) const = default;
};
using Model = std::map<std::uint64_t, Counts>;

class StateTableTest : public testing::Test {
 protected:
  void SetUp() override {
    auto fd = StateTable::create_memfd(42);
    ASSERT_TRUE(fd);
    fd_.reset(*fd);
    attach();
  }
  void TearDown() override { g_stores_left = -1; }

  void attach() {
    state_.reset();
    auto state = StateTable::attach(fd_.get());
    ASSERT_TRUE(state) << state.error().message;
    state_ = std::move(*state);
  }

  static Model contents(const StateTable& state) {
    Model model;
    std::size_t seen = 0;
    state.for_each([&](const StateEntry& e) {
      model[e.id] = {e.nlookup, e.opens, e.backing_id, e.flags};
      ++seen;
    });
    EXPECT_EQ(seen, model.size()) << "an id is there twice";
    EXPECT_EQ(seen, state.size());
    return model;
  }

  // Runs `step` on a copy of the present state, stopped before its n-th store for every n, and
  // gives `check` what the next worker finds.
  template <class Step, class Check>
  int at_every_store(Step step, Check check) {
    const off_t size = lseek(fd_.get(), 0, SEEK_END);
    for (int n = 0;; ++n) {
      auto copy = StateTable::create_memfd(42);
      EXPECT_TRUE(copy);
      UniqueFd fd(*copy);
      copy_memory(fd.get(), size);
      bool stopped = false;
      {
        auto state = StateTable::attach(fd.get());
        EXPECT_TRUE(state);
        g_stores_left = n;
        try {
          step(**state);
        } catch (const Stopped&) {
          stopped = true;
        }
        g_stores_left = -1;
      }
      auto next = StateTable::attach(fd.get());
      EXPECT_TRUE(next);
      check(**next, stopped);
      if (!stopped || HasFailure()) return n;
    }
  }

  void copy_memory(int to, off_t size) const {
    ASSERT_EQ(0, ftruncate(to, size));
    std::vector<char> buffer(1 << 20);
    for (off_t at = 0; at < size; at += static_cast<off_t>(buffer.size())) {
      const ssize_t n = pread(fd_.get(), buffer.data(), buffer.size(), at);
      ASSERT_GT(n, 0);
      ASSERT_EQ(n, pwrite(to, buffer.data(), static_cast<std::size_t>(n), at));
    }
  }

  UniqueFd fd_;
  std::unique_ptr<StateTable> state_;
};

TEST_F(StateTableTest, CountsAndForgets) {
  EXPECT_FALSE(state_->find(7));
  ASSERT_TRUE(state_->add(kNoSlot, 7, 2, 1));
  ASSERT_TRUE(state_->set_backing(7, 3));
  EXPECT_EQ((Model{{7, {2, 1, 3, 0}}}), contents(*state_));
  EXPECT_EQ(1U, state_->forget(7, 1).nlookup);
  EXPECT_EQ(0U, state_->forget(7, 99).nlookup);
  state_->drop_if_idle(7);  // still open
  EXPECT_EQ(1U, state_->size());
  ASSERT_TRUE(state_->add(kNoSlot, 7, 0, -1));
  state_->drop_if_idle(7);  // still registered
  EXPECT_EQ(1U, state_->size());
  ASSERT_TRUE(state_->set_backing(7, 0));
  state_->drop_if_idle(7);
  EXPECT_EQ(0U, state_->size());
}

TEST_F(StateTableTest, GrowsShrinksAndKeepsEverything) {
  constexpr std::uint64_t kMany = 200'000;
  for (std::uint64_t id = 2; id < kMany; ++id) ASSERT_TRUE(state_->add(kNoSlot, id, 1, 0));
  EXPECT_GE(state_->header().capacity, kMany);
  attach();
  EXPECT_EQ(kMany - 2, state_->size());
  for (std::uint64_t id = 2; id < kMany; ++id) {
    ASSERT_TRUE(state_->find(id)) << id;
    state_->forget(id, 1);
    state_->drop_if_idle(id);
  }
  EXPECT_EQ(0U, state_->size());
  for (std::uint64_t id = kMany; id < 2 * kMany; ++id) {
    ASSERT_TRUE(state_->add(kNoSlot, id, 1, 0));
    state_->forget(id, 1);
    state_->drop_if_idle(id);
  }
  EXPECT_LE(state_->header().capacity, 4 * kMany) << "removed entries are never reclaimed";
}

TEST_F(StateTableTest, AnotherVersionIsRefused) {
  state_->header().version++;
  auto state = StateTable::attach(fd_.get());
  ASSERT_FALSE(state);
  EXPECT_EQ(EPROTO, state.error().code);
}

TEST_F(StateTableTest, AddIsWholeWithItsUndoAtEveryStore) {
  ASSERT_TRUE(state_->add(kNoSlot, 5, 3, 1));
  const int stores = at_every_store(
      [](StateTable& s) {
        const auto slot = s.claim_slot();
        s.begin(*slot, 77);
        (void)s.add(*slot, 5, 1, 1);
        (void)s.add(*slot, 6, 1, 0);
      },
      [](StateTable& s, bool stopped) {
        const Model before{{5, {3, 1, 0, 0}}};
        const Model model = contents(s);
        // Whatever was counted, the record of the request says so: taking it back restores all.
        const SlotRecord& record = s.slot(0);
        if (record.unique == 77) {
          EXPECT_EQ(record.count, (model.at(5).opens - 1) + model.count(6));
        } else {
          EXPECT_EQ(before, model);
        }
        if (!stopped) {
          EXPECT_EQ((Model{{5, {4, 2, 0, 0}}, {6, {1, 0, 0, 0}}}), model);
        }
        (void)s.adopt(77);
        Model after = contents(s);
        if (after.contains(6)) {
          EXPECT_EQ(Counts{}, after[6]);
          after.erase(6);
        }
        EXPECT_EQ(before, after);
      });
  EXPECT_GT(stores, 30);
}

TEST_F(StateTableTest, AdoptIsWholeAtEveryStore) {
  const auto slot = state_->claim_slot();
  state_->begin(*slot, 99);
  for (std::uint64_t id = 10; id < 14; ++id) ASSERT_TRUE(state_->add(*slot, id, 1, 1));
  attach();  // the worker died
  at_every_store([](StateTable& s) { (void)s.adopt(99); },
                 [](StateTable& s, bool) {
                   (void)s.adopt(99);
                   for (const auto& [id, counts] : contents(s)) EXPECT_EQ(Counts{}, counts) << id;
                 });
}

// An open is counted in the slot of who answers it, beside that of who took the request.
TEST_F(StateTableTest, AdoptTakesBackWhatWasCountedInAnotherSlot) {
  const auto taker = state_->claim_slot(), answerer = state_->claim_slot();
  state_->begin(*taker, 99);
  state_->begin(*answerer, 99);
  ASSERT_TRUE(state_->add(*taker, 10, 1, 0));
  ASSERT_TRUE(state_->add(*answerer, 10, 0, 1));
  attach();  // the worker died
  EXPECT_EQ(state_->adopt(99), taker);
  for (const auto& [id, counts] : contents(*state_)) EXPECT_EQ(Counts{}, counts) << id;
}

TEST_F(StateTableTest, ReleaseIsTakenBackEvenIfTheEntryWentWithIt) {
  ASSERT_TRUE(state_->add(kNoSlot, 8, 0, 1));
  at_every_store(
      [](StateTable& s) {
        const auto slot = s.claim_slot();
        s.begin(*slot, 5);
        (void)s.add(*slot, 8, 0, -1);
        s.drop_if_idle(8);
      },
      [](StateTable& s, bool) {
        (void)s.adopt(5);
        EXPECT_EQ((Model{{8, {0, 1, 0, 0}}}), contents(s));
      });
}

TEST_F(StateTableTest, GrowthIsWholeAtSampledStores) {
  std::uint64_t id = 2;
  while ((state_->size() + 1) * 4 <= state_->header().capacity * 3)
    ASSERT_TRUE(state_->add(kNoSlot, id++, 1, 0));
  const Model before = contents(*state_);
  const std::uint64_t capacity = state_->header().capacity;
  const std::uint64_t last = id;
  constexpr long kStoresAnEntry = 6;
  const long copied = static_cast<long>(state_->size()) * kStoresAnEntry;
  for (const long n :
       {0L, 1L, 4000L, 40'000L, copied - 2, copied - 1, copied, copied + 1, copied + 5}) {
    g_stores_left = n;
    try {
      (void)state_->add(kNoSlot, last, 1, 0);
    } catch (const Stopped&) {
    }
    g_stores_left = -1;
    attach();
    Model model = contents(*state_);
    model.erase(last);
    ASSERT_EQ(before, model) << "stopped at store " << n;
    state_->forget(last, 1);
    state_->drop_if_idle(last);
  }
  EXPECT_GT(state_->header().capacity, capacity);
}

TEST_F(StateTableTest, SlotsOfEarlierRequestsAreKeptUntilSettled) {
  const auto first = state_->claim_slot();
  ASSERT_EQ(0U, first);
  state_->begin(*first, 11);
  attach();
  const auto mine = state_->claim_slot();
  ASSERT_TRUE(mine);
  EXPECT_NE(0U, *mine) << "the slot of a request that may come again was reused";
  EXPECT_EQ(0U, state_->adopt(11));
  EXPECT_FALSE(state_->adopt(11)) << "claimed twice";
  state_->begin(*mine, 12);
  state_->forget_earlier_requests();
  EXPECT_EQ(12U, state_->slot(*mine).unique) << "a request of this worker was dropped";
}

TEST_F(StateTableTest, RandomWorkAgainstAModel) {
  std::mt19937_64 random(1);
  Model model;
  for (int i = 0; i < 200'000; ++i) {
    const std::uint64_t id = 2 + random() % 5000;
    Counts& counts = model[id];
    switch (random() % 5) {
      case 0:
        ASSERT_TRUE(state_->add(kNoSlot, id, 1, 0));
        ++counts.nlookup;
        break;
      case 1:
        ASSERT_TRUE(state_->add(kNoSlot, id, 0, 1));
        ++counts.opens;
        break;
      case 2:
        if (counts.opens == 0) break;
        ASSERT_TRUE(state_->add(kNoSlot, id, 0, -1));
        --counts.opens;
        break;
      case 3:
        state_->forget(id, counts.nlookup);
        counts.nlookup = 0;
        break;
      default:
        state_->drop_if_idle(id);
        break;
    }
    if (counts == Counts{}) {
      state_->drop_if_idle(id);
      model.erase(id);
    }
  }
  EXPECT_EQ(model, contents(*state_));
  attach();
  EXPECT_EQ(model, contents(*state_));
}

// A child works and counts what it has finished in shared memory; it is killed at a random moment.
// The table must then be as after the finished steps, or one step further.
TEST_F(StateTableTest, KilledAtRandomItIsBetweenTwoSteps) {
  constexpr std::uint64_t kIds = 3000;
  auto* finished = static_cast<std::atomic<std::uint64_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const auto step = [](StateTable& s, std::uint64_t i) {
    const std::uint64_t id = 2 + i % kIds;
    if (i / kIds % 2 == 0) {
      (void)s.add(kNoSlot, id, 1, 1);
    } else {
      (void)s.add(kNoSlot, id, -1, -1);
      s.drop_if_idle(id);
    }
  };
  const auto expected = [](std::uint64_t steps) {
    Model model;
    const std::uint64_t round = steps / kIds, within = steps % kIds;
    for (std::uint64_t k = 0; k < kIds; ++k) {
      const bool there = round % 2 == 0 ? k < within : k >= within;
      if (there) model[2 + k] = {1, 1, 0, 0};
    }
    return model;
  };
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto state = StateTable::attach(fd_.get());
      for (std::uint64_t i = finished->load();; ++i) {
        step(**state, i);
        finished->store(i + 1);
      }
    }
    usleep(500 + static_cast<useconds_t>(random() % 4000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    attach();
    Model model = contents(*state_);
    std::erase_if(model, [](const auto& item) { return item.second == Counts{}; });
    const std::uint64_t steps = finished->load();
    if (model == expected(steps + 1)) {
      finished->store(steps + 1);
    } else {
      ASSERT_EQ(expected(steps), model) << "after " << steps << " steps, round " << round;
    }
    // An entry whose counts are gone is dropped by the next worker's recovery.
    for (std::uint64_t k = 0; k < kIds; ++k) state_->drop_if_idle(2 + k);
  }
  EXPECT_GT(finished->load(), 1000U);
  munmap(finished, 4096);
}

}  // namespace
}  // namespace btd
