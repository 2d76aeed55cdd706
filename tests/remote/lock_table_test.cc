// LockTable: against a model of single bytes under random operations, and the rules one by one.
#include "fs/remote/lock_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <list>
#include <map>
#include <random>
#include <set>

namespace btd::remote {
namespace {

constexpr InodeId kFile = 7;
constexpr std::uint64_t kBytes = 12;  // of the model
constexpr std::size_t kOwners = 5;

LockOwner owner(std::uint64_t number, NodeId node = 1) { return {{node, 100U + node}, number}; }

LockTable::Request request(const LockOwner& of, std::uint64_t start, std::uint64_t end,
                           bool is_exclusive, std::uint64_t wait = 0,
                           LockKind kind = LockKind::kRecord, InodeId id = kFile) {
  return {.id = id,
          .kind = kind,
          .lock = {.owner = of, .start = start, .end = end, .is_exclusive = is_exclusive},
          .wait = wait};
}

LockTable::Request whole(const LockOwner& of, bool is_exclusive, std::uint64_t wait = 0) {
  return request(of, 0, kLastByte, is_exclusive, wait, LockKind::kFile);
}

// What each owner has of each byte: 0 nothing, 1 shared, 2 exclusive; and who waits, in order.
class Model {
 public:
  bool may(std::size_t who, std::uint64_t start, std::uint64_t end, bool exclusive) const {
    for (std::size_t other = 0; other < kOwners; ++other)
      for (std::uint64_t at = start; other != who && at <= end; ++at)
        if (bytes[other][at] == 2 || (exclusive && bytes[other][at] != 0)) return false;
    return true;
  }
  void set(std::size_t who, std::uint64_t start, std::uint64_t end, int to) {
    for (std::uint64_t at = start; at <= end; ++at) bytes[who][at] = to;
  }
  struct Waiting {
    std::size_t who;
    std::uint64_t start, end;
    bool exclusive;
    std::uint64_t wait;
  };
  bool reaches(std::size_t from, std::size_t to, std::set<std::size_t>& seen) const {
    for (const Waiting& one : waiting)
      if (one.who == from && leads(one, to, seen)) return true;
    return false;
  }
  bool leads(const Waiting& one, std::size_t to, std::set<std::size_t>& seen) const {
    for (std::size_t other = 0; other < kOwners; ++other) {
      if (other == one.who) continue;
      bool blocks = false;
      for (std::uint64_t at = one.start; at <= one.end; ++at)
        blocks = blocks || bytes[other][at] == 2 || (one.exclusive && bytes[other][at] != 0);
      if (!blocks) continue;
      if (other == to || (seen.insert(other).second && reaches(other, to, seen))) return true;
    }
    return false;
  }
  std::vector<std::uint64_t> settle() {
    std::vector<std::uint64_t> granted;
    for (auto at = waiting.begin(); at != waiting.end();) {
      if (may(at->who, at->start, at->end, at->exclusive)) {
        set(at->who, at->start, at->end, at->exclusive ? 2 : 1);
        granted.push_back(at->wait);
        waiting.erase(at);
        at = waiting.begin();
      } else {
        ++at;
      }
    }
    return granted;
  }

  std::array<std::array<int, kBytes>, kOwners> bytes{};
  std::list<Waiting> waiting;
};

class Pair {
 public:
  explicit Pair(unsigned seed) : random_(seed) {}

  void step() {
    const std::size_t who = random_() % kOwners;
    std::uint64_t start = random_() % kBytes, end = random_() % kBytes;
    if (start > end) std::swap(start, end);
    switch (random_() % 8) {
      case 0:
      case 1:
        ASSERT_TRUE(table_.unlock(kFile, LockKind::kRecord, of(who), start, end));
        model_.set(who, start, end, 0);
        break;
      case 2:
        table_.release(kFile, of(who));
        model_.set(who, 0, kBytes - 1, 0);
        break;
      case 3:
        cancel();
        break;
      default:
        lock(who, start, end, random_() % 2 == 0, random_() % 2 == 0);
    }
    compare_granted();
    compare_bytes();
  }
  std::size_t deadlocks = 0, grants = 0;

 private:
  // Owners of two nodes, so that clients differ too.
  static LockOwner of(std::size_t who) { return owner(who, who % 2 == 0 ? 1 : 2); }

  void lock(std::size_t who, std::uint64_t start, std::uint64_t end, bool exclusive, bool waits) {
    const std::uint64_t wait = waits ? next_wait_++ : 0;
    const auto got = table_.lock(request(of(who), start, end, exclusive, wait));
    if (model_.may(who, start, end, exclusive)) {
      ASSERT_TRUE(got && *got);
      model_.set(who, start, end, exclusive ? 2 : 1);
      return;
    }
    const Model::Waiting waiting{who, start, end, exclusive, wait};
    std::set<std::size_t> seen;
    if (!waits) {
      ASSERT_FALSE(got);
      ASSERT_EQ(got.error().code, EAGAIN);
    } else if (model_.leads(waiting, who, seen)) {
      ASSERT_FALSE(got);
      ASSERT_EQ(got.error().code, EDEADLK);
      ++deadlocks;
    } else {
      ASSERT_TRUE(got && !*got);
      model_.waiting.push_back(waiting);
    }
  }

  void cancel() {
    if (model_.waiting.empty()) return;
    auto at =
        std::next(model_.waiting.begin(), static_cast<long>(random_() % model_.waiting.size()));
    ASSERT_TRUE(table_.cancel({of(at->who).client, at->wait}));
    ASSERT_FALSE(table_.cancel({of(at->who).client, at->wait}));
    model_.waiting.erase(at);
  }

  void compare_granted() {
    std::vector<std::uint64_t> got;
    for (const auto& wait : table_.take_granted()) got.push_back(wait.number);
    const auto meant = model_.settle();
    grants += meant.size();
    ASSERT_EQ(got, meant);
  }

  void compare_bytes() {
    std::array<std::array<int, kBytes>, kOwners> bytes{};
    std::map<std::size_t, Lock> last;
    for (const Lock& lock : table_.held(kFile, LockKind::kRecord)) {
      const std::size_t who = lock.owner.number;
      const int value = lock.is_exclusive ? 2 : 1;
      const auto before = last.find(who);  // merged where it can be
      const bool touches = before != last.end() && before->second.end + 1 == lock.start &&
                           before->second.is_exclusive == lock.is_exclusive;
      ASSERT_FALSE(touches);
      last[who] = lock;
      for (std::uint64_t at = lock.start; at <= lock.end; ++at) {
        ASSERT_EQ(bytes[who][at], 0);
        bytes[who][at] = value;
      }
    }
    ASSERT_EQ(bytes, model_.bytes);
    ASSERT_EQ(table_.counts().waits, model_.waiting.size());
    ASSERT_EQ(table_.counts().locks, table_.held(kFile, LockKind::kRecord).size());
  }

  std::mt19937 random_;
  LockTable table_;
  Model model_;
  std::uint64_t next_wait_ = 1;
};

TEST(LockTable, EqualsTheModelOfBytes) {
  std::size_t deadlocks = 0, grants = 0;
  for (unsigned seed = 1; seed <= 100; ++seed) {
    Pair pair(seed);
    for (int i = 0; i < 400; ++i) {
      pair.step();
      if (HasFatalFailure()) FAIL() << "seed " << seed << ", step " << i;
    }
    deadlocks += pair.deadlocks;
    grants += pair.grants;
  }
  EXPECT_GT(deadlocks, 100U);
  EXPECT_GT(grants, 1000U);
}

TEST(LockTable, SharesAndExcludes) {
  LockTable table;
  EXPECT_TRUE(*table.lock(request(owner(1), 0, 9, false)));
  EXPECT_TRUE(*table.lock(request(owner(2), 5, 20, false)));
  EXPECT_EQ(table.lock(request(owner(3), 9, 9, true)).error().code, EAGAIN);
  const auto first = table.conflict(kFile, LockKind::kRecord, request(owner(3), 10, 11, true).lock);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->owner, owner(2));
  EXPECT_FALSE(table.conflict(kFile, LockKind::kFile, whole(owner(3), true).lock));
}

TEST(LockTable, GrantsInTheOrderOfArrival) {
  LockTable table;
  ASSERT_TRUE(*table.lock(request(owner(1), 0, 9, true)));
  ASSERT_FALSE(*table.lock(request(owner(2), 0, 9, true, 21)));
  ASSERT_FALSE(*table.lock(request(owner(3), 0, 9, true, 31)));
  ASSERT_TRUE(table.unlock(kFile, LockKind::kRecord, owner(1), 0, kLastByte));
  ASSERT_FALSE(*table.lock(request(owner(1), 0, 9, true, 11)));  // who comes back comes last
  const std::vector<LockTable::Wait> second{{owner(2).client, 21}};
  EXPECT_EQ(table.take_granted(), second);
  table.release(kFile, owner(2));
  const std::vector<LockTable::Wait> third{{owner(3).client, 31}};
  EXPECT_EQ(table.take_granted(), third);
}

TEST(LockTable, SeesDeadlocksOverSeveralFilesAndOwners) {
  LockTable table;
  for (std::uint64_t i = 1; i <= 3; ++i)
    ASSERT_TRUE(*table.lock(request(owner(i), 0, 0, true, 0, LockKind::kRecord, i)));
  ASSERT_FALSE(*table.lock(request(owner(1), 0, 0, true, 1, LockKind::kRecord, 2)));
  ASSERT_FALSE(*table.lock(request(owner(2), 0, 0, true, 2, LockKind::kRecord, 3)));
  const auto last = table.lock(request(owner(3), 0, 0, true, 3, LockKind::kRecord, 1));
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code, EDEADLK);
}

TEST(LockTable, AConvertedFileLockIsGivenUpFirst) {
  LockTable table;
  ASSERT_TRUE(*table.lock(whole(owner(1), false)));
  ASSERT_TRUE(*table.lock(whole(owner(2), false)));
  ASSERT_FALSE(*table.lock(whole(owner(1), true, 11)));
  // Else these two would wait for each other.
  ASSERT_FALSE(*table.lock(whole(owner(2), true, 21)));
  const std::vector<LockTable::Wait> granted{{owner(1).client, 11}};
  EXPECT_EQ(table.take_granted(), granted);
}

TEST(LockTable, AClientEndsWithAllItHas) {
  LockTable table;
  ASSERT_TRUE(*table.lock(request(owner(1, 1), 0, 9, true)));
  ASSERT_TRUE(*table.lock(whole(owner(1, 1), true)));
  ASSERT_FALSE(*table.lock(request(owner(1, 2), 0, 9, true, 5)));
  ASSERT_FALSE(*table.lock(request(owner(2, 1), 0, 9, true, 6)));
  table.end(owner(1, 1).client);
  const std::vector<LockTable::Wait> granted{{owner(1, 2).client, 5}};
  EXPECT_EQ(table.take_granted(), granted);
  EXPECT_EQ(table.counts().locks, 1U);
  EXPECT_EQ(table.counts().waits, 0U);
}

TEST(LockTable, AClientInheritsLocksButNoWaits) {
  LockTable table;
  const LockClient heir{1, 999};
  ASSERT_TRUE(*table.lock(request(owner(1), 0, 9, true)));
  ASSERT_TRUE(*table.lock(request(owner(1, 2), 20, 29, true)));
  ASSERT_FALSE(*table.lock(request(owner(2), 20, 29, true, 6)));
  table.inherit(owner(1).client, heir);
  table.end(owner(1).client);
  EXPECT_EQ(table.counts().waits, 0U);
  ASSERT_EQ(table.held_by(heir).size(), 1U);
  EXPECT_EQ(table.held_by(heir)[0].lock.owner, (LockOwner{heir, 1}));
  EXPECT_EQ(table.lock(request(owner(1, 2), 0, 0, false)).error().code, EAGAIN);
  table.end(heir);
  EXPECT_TRUE(*table.lock(request(owner(1, 2), 0, 0, false)));
}

TEST(LockTable, IsBounded) {
  LockTable table;
  for (std::uint64_t i = 0; i < LockTable::kMostLocks; ++i)
    ASSERT_TRUE(table.lock(request(owner(1), 0, 0, true, 0, LockKind::kRecord, i)));
  EXPECT_EQ(table.lock(request(owner(1), 2, 2, true)).error().code, ENOLCK);
  EXPECT_TRUE(table.lock(request(owner(1, 2), 2, 2, true)));  // another client's
  for (std::uint64_t i = 1; i <= LockTable::kMostWaits; ++i)
    ASSERT_TRUE(table.lock(request(owner(1, 2), 0, 0, true, i)));
  EXPECT_EQ(table.lock(request(owner(1, 2), 0, 0, true, 9999)).error().code, ENOLCK);
  EXPECT_EQ(table.lock(request(owner(1, 3), 5, 4, true)).error().code, EINVAL);
  EXPECT_EQ(table.lock(request(owner(1, 3), 0, kLastByte + 1, true)).error().code, EINVAL);
}

}  // namespace
}  // namespace btd::remote
