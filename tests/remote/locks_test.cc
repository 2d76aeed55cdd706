// Locks between a home and the clients of two nodes, over sockets: waits, cancels, ends, restarts.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <thread>

#include "fs/remote/lock_calls.h"
#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using namespace std::chrono_literals;

// What was told, and when.
class Answer {
 public:
  LockCalls::Told told() {
    return [state = state_](const Result<wire::LockFound>& result) {
      const std::scoped_lock lock(state->mutex);
      state->code = result ? 0 : result.error().code;
      if (result) state->found = *result;
      ++state->times;
      state->changed.notify_all();
    };
  }
  // The error, 0 for none; -1: nothing was told in that time.
  int wait(std::chrono::milliseconds most = 5s) {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait_for(lock, most, [this] { return state_->times != 0; });
    EXPECT_LE(state_->times, 1);
    return state_->times == 0 ? -1 : state_->code;
  }
  [[nodiscard]] wire::LockFound found() const { return state_->found; }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    int code = 0, times = 0;
    wire::LockFound found;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// What a process leaves to the next one.
class Memory final : public LockMemory {
 public:
  bool has_room() override { return room; }
  void keep(InodeId id, std::uint64_t owner, const std::vector<KeptLock>& locks) override {
    const std::scoped_lock lock(mutex);
    kept[{id, owner}] = locks;
  }
  void note_peers() override { has_peers = true; }
  std::vector<KeptLock> all() {
    const std::scoped_lock lock(mutex);
    std::vector<KeptLock> sum;
    for (const auto& [key, locks] : kept) sum.insert(sum.end(), locks.begin(), locks.end());
    return sum;
  }

  std::mutex mutex;
  std::map<std::pair<InodeId, std::uint64_t>, std::vector<KeptLock>> kept;
  std::atomic<bool> room{true}, has_peers{false};
};

class Locks : public testing::Test {
 protected:
  Locks() { start_home(0s); }

  void start_home(net::Time grace, const std::string& address = "127.0.0.1:0") {
    net::EngineOptions engine;
    engine.patience.linger = 1s;  // a client's that is gone
    home_ = std::make_unique<HomeNode>(
        files_, FileServiceOptions{.own = kHome, .lock_grace = grace}, address, engine);
    address_ = home_->address();
  }
  void restart_home(net::Time grace) {
    home_.reset();
    start_home(grace, address_);
  }
  std::unique_ptr<LockCalls> client(NodeId node) { return client(node, memory_); }
  std::unique_ptr<LockCalls> client(
      NodeId node, LockMemory& memory, NameRevision names = [] { return 0; }) {
    own_.push_back(std::make_unique<HomeNode>(files_, FileServiceOptions{.own = node}));
    return std::make_unique<LockCalls>(
        node, own_.back()->service().locks(), memory,
        [node]() -> Result<std::unique_ptr<net::Engine>> {
          net::TcpOptions options;
          options.engine.node = node;
          return net::make_tcp_engine(options);
        },
        [this](NodeId) -> Result<std::string> { return address_; }, 5s, node_of, std::move(names));
  }

  static wire::LockRequest exclusive(std::uint64_t owner, std::uint64_t wait = 0,
                                     InodeId id = id_of(1)) {
    return {.id = id,
            .owner = owner,
            .end = 99,
            .wait = wait,
            .pid = 77,
            .flags = wire::kLockExclusive};
  }
  static int lock(LockCalls& calls, const wire::LockRequest& request) {
    Answer answer;
    calls.lock(request, 1, answer.told());
    return answer.wait();
  }
  static int unlock(LockCalls& calls, const wire::LockRequest& request) {
    Answer answer;
    calls.unlock(request, answer.told());
    return answer.wait();
  }

  DirectoryFiles files_{"/dev/null"};  // locks touch no data
  Memory memory_;
  std::unique_ptr<HomeNode> home_;
  std::string address_;
  std::vector<std::unique_ptr<HomeNode>> own_;
};

TEST_F(Locks, ExcludeAndAreHandedOn) {
  const auto a = client(5), b = client(6);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  EXPECT_EQ(lock(*b, exclusive(1)), EAGAIN);
  Answer found;
  b->test(exclusive(1), found.told());
  ASSERT_EQ(found.wait(), 0);
  EXPECT_EQ(found.found().node, 5U);
  EXPECT_EQ(found.found().pid, 77U);
  EXPECT_EQ(found.found().end, 99U);
  Answer waits;
  b->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  ASSERT_EQ(unlock(*a, exclusive(1)), 0);
  EXPECT_EQ(waits.wait(), 0);
  EXPECT_EQ(lock(*a, exclusive(1)), EAGAIN);
}

TEST_F(Locks, AWaitIsCancelled) {
  const auto a = client(5), b = client(6);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  Answer waits;
  b->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  b->cancel(id_of(1), 900);
  EXPECT_EQ(waits.wait(), EINTR);
  ASSERT_EQ(unlock(*a, exclusive(1)), 0);
  EXPECT_EQ(lock(*a, exclusive(2)), 0);  // nobody got it in between
}

TEST_F(Locks, OfTheOwnNodeAreInTheSameTable) {
  const auto peer = client(5);
  LockCalls own(kHome, home_->service().locks(), memory_, {}, {}, 5s);
  ASSERT_EQ(lock(own, exclusive(1)), 0);
  EXPECT_FALSE(memory_.has_peers);
  EXPECT_EQ(lock(*peer, exclusive(1)), EAGAIN);
  EXPECT_TRUE(memory_.has_peers);
  Answer waits;
  peer->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  ASSERT_EQ(unlock(own, exclusive(1)), 0);
  EXPECT_EQ(waits.wait(), 0);
  Answer own_waits;
  own.lock(exclusive(1, 901), 1, own_waits.told());
  Answer interrupted;
  own.lock(exclusive(2, 902), 1, interrupted.told());
  own.cancel(id_of(1), 902);
  EXPECT_EQ(interrupted.wait(), EINTR);
  EXPECT_EQ(own_waits.wait(100ms), -1);
  ASSERT_EQ(unlock(*peer, exclusive(1)), 0);
  EXPECT_EQ(own_waits.wait(), 0);
}

// Whoever gets a lock hears of the names that were changed before, wherever that was.
TEST_F(Locks, TellOfTheNamesThatWereChangedUnderThem) {
  std::atomic<std::uint64_t> names_of_a{7};
  const auto a = client(5, memory_, [&] { return names_of_a.load(); });
  const auto b = client(6), c = client(7);
  LockCalls own(kHome, home_->service().locks(), memory_, {}, {}, 5s);
  const auto ask = [](LockCalls& calls, const wire::LockRequest& request) {
    Answer answer;
    calls.lock(request, 1, answer.told());
    EXPECT_EQ(answer.wait(), 0);
    return answer.found().names;
  };
  EXPECT_EQ(ask(*a, exclusive(1)), 7U);
  Answer waits, own_waits;
  b->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  names_of_a = 9;
  ASSERT_EQ(unlock(*a, exclusive(1)), 0);
  ASSERT_EQ(waits.wait(), 0);
  EXPECT_EQ(waits.found().names, 9U);
  own.lock(exclusive(1, 901), 1, own_waits.told());
  names_of_a = 12;
  EXPECT_EQ(ask(*a, exclusive(2, 0, id_of(2))), 12U);
  ASSERT_EQ(unlock(*b, exclusive(1)), 0);
  ASSERT_EQ(own_waits.wait(), 0);
  EXPECT_EQ(own_waits.found().names, 12U);
  // One that becomes shared lets others in, too.
  names_of_a = 15;
  wire::LockRequest shared = exclusive(2, 0, id_of(2));
  shared.flags = 0;
  EXPECT_EQ(lock(*a, shared), 0);
  shared.owner = 3;
  EXPECT_EQ(ask(*c, shared), 15U);
  Answer found;
  b->test(exclusive(1, 0, id_of(3)), found.told());
  ASSERT_EQ(found.wait(), 0);
  EXPECT_EQ(found.found().names, 15U);
}

// What b learned with a lock, and has found, it passes on; home forgot what it knew.
TEST_F(Locks, TellOfNamesFromHomeToHome) {
  const auto a = client(5, memory_, [] { return 7; });
  const auto b = client(6), c = client(7);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  ASSERT_EQ(unlock(*a, exclusive(1)), 0);
  Answer learned;
  b->lock(exclusive(1), 1, learned.told());
  ASSERT_EQ(learned.wait(), 0);
  b->learn(learned.found().names);
  b->learn(~0ULL);  // none that can be
  ASSERT_EQ(unlock(*b, exclusive(1)), 0);
  restart_home(0s);
  Answer answer;
  c->lock(exclusive(1), 1, answer.told());
  ASSERT_EQ(answer.wait(), 0);
  EXPECT_EQ(answer.found().names, 0U);
  ASSERT_EQ(lock(*b, exclusive(2, 0, id_of(2))), 0);
  Answer later;
  c->lock(exclusive(1, 0, id_of(3)), 1, later.told());
  ASSERT_EQ(later.wait(), 0);
  EXPECT_EQ(later.found().names, 7U);
}

TEST_F(Locks, ThatTheirNodeGivesUpAreLost) {
  const auto a = client(5), b = client(6);
  LockCalls own(kHome, home_->service().locks(), memory_, {}, {}, 5s);
  for (LockCalls* calls : {a.get(), &own}) {
    ASSERT_EQ(lock(*calls, exclusive(1)), 0);
    EXPECT_EQ(lock(*b, exclusive(1)), EAGAIN);
    calls->lose(id_of(1), 1);
    EXPECT_TRUE(calls->is_lost(id_of(1)));
    EXPECT_EQ(lock(*calls, exclusive(1)), EIO);
    EXPECT_TRUE(comes_true([&] { return lock(*b, exclusive(1)) == 0; }));
    EXPECT_EQ(unlock(*calls, exclusive(1)), EIO);
    EXPECT_FALSE(calls->is_lost(id_of(1)));
    ASSERT_EQ(unlock(*b, exclusive(1)), 0);
  }
}

TEST_F(Locks, EndWithTheFileThatWasClosed) {
  const auto a = client(5), b = client(6);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  Answer closed;
  EXPECT_FALSE(a->closed(id_of(1), 2, closed.told()));
  EXPECT_FALSE(a->closed(id_of(2), 1, closed.told()));
  ASSERT_TRUE(a->closed(id_of(1), 1, closed.told()));
  ASSERT_EQ(closed.wait(), 0);
  EXPECT_EQ(lock(*b, exclusive(1)), 0);
  Answer waits;
  a->lock(exclusive(3, 900), 1, waits.told());
  b->released(id_of(1), 2);
  EXPECT_EQ(waits.wait(200ms), -1);
  b->released(id_of(1), 1);
  EXPECT_EQ(waits.wait(), 0);
}

TEST_F(Locks, EndWithTheirNode) {
  auto a = client(5);
  const auto b = client(6);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  Answer waits;
  b->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  a.reset();
  EXPECT_EQ(waits.wait(), 0);
}

TEST_F(Locks, OutliveARestartOfTheirHome) {
  const auto a = client(5), b = client(6);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  Answer waits;
  b->lock(exclusive(1, 900), 1, waits.told());
  EXPECT_EQ(waits.wait(100ms), -1);
  restart_home(2s);
  // In the grace of the new home nobody else gets it, and then it is said again.
  EXPECT_EQ(lock(*b, exclusive(9)), EAGAIN);
  EXPECT_FALSE(a->is_lost(id_of(1)));
  EXPECT_EQ(waits.wait(200ms), -1);
  ASSERT_EQ(unlock(*a, exclusive(1)), 0);
  EXPECT_EQ(waits.wait(), 0);
}

TEST_F(Locks, OfAHomeThatForgotThemAreLostAloud) {
  const auto a = client(5);
  ASSERT_EQ(lock(*a, exclusive(1)), 0);
  ASSERT_EQ(lock(*a, exclusive(1, 0, id_of(2))), 0);
  restart_home(0s);
  for (int i = 0; i < 500 && !a->is_lost(id_of(1)); ++i) std::this_thread::sleep_for(10ms);
  ASSERT_TRUE(a->is_lost(id_of(1)));
  EXPECT_EQ(lock(*a, exclusive(1)), EIO);
  EXPECT_EQ(unlock(*a, exclusive(1)), EIO);
  EXPECT_FALSE(a->is_lost(id_of(1)));
  EXPECT_TRUE(a->is_lost(id_of(2)));
  EXPECT_EQ(lock(*a, exclusive(1)), 0);
}

// The process that had them is killed: its connection lingers, and what it kept is there.
TEST_F(Locks, OutliveTheProcessThatHasThem) {
  const auto killed = client(5), b = client(6);
  ASSERT_EQ(lock(*killed, exclusive(1)), 0);
  ASSERT_EQ(lock(*killed, exclusive(2, 0, id_of(2))), 0);
  ASSERT_EQ(unlock(*killed, exclusive(2, 0, id_of(2))), 0);
  Answer waits;
  killed->lock(exclusive(1, 900, id_of(2)), 1, waits.told());
  ASSERT_EQ(waits.wait(), 0);
  const auto kept = memory_.all();
  ASSERT_EQ(kept.size(), 3U);  // and as whom the home knows it
  Answer never;                // what it waited for ends, so nobody dead is granted it
  killed->lock(exclusive(7, 902), 1, never.told());
  EXPECT_EQ(never.wait(100ms), -1);
  const auto heir = client(5);
  ASSERT_TRUE(heir->restore(kept));
  EXPECT_EQ(lock(*b, exclusive(1)), EAGAIN);
  EXPECT_EQ(lock(*heir, exclusive(1)), 0);  // it has it already
  EXPECT_FALSE(heir->is_lost(id_of(1)));
  ASSERT_EQ(unlock(*heir, exclusive(1)), 0);
  EXPECT_EQ(lock(*b, exclusive(1)), 0);
  EXPECT_EQ(lock(*b, exclusive(1, 0, id_of(2))), EAGAIN);
  heir->released(id_of(2), 1);
  Answer later;
  b->lock(exclusive(1, 901, id_of(2)), 1, later.told());
  EXPECT_EQ(later.wait(), 0);
}

TEST_F(Locks, ThatAreKeptNowhereAreRefused) {
  const auto a = client(5);
  memory_.room = false;
  EXPECT_EQ(lock(*a, exclusive(1)), ENOLCK);
}

TEST_F(Locks, OfAHomeThatIsAwayFailInTime) {
  const auto a = client(5);
  home_.reset();
  Answer answer;
  a->lock(exclusive(1), 1, answer.told());
  EXPECT_EQ(answer.wait(20s), EHOSTUNREACH);
}

}  // namespace
}  // namespace btd::remote
