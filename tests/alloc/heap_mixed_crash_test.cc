// All contracts on one heap, crashed at every fence: published and recoverable blocks side by side
// under one table, transactions, garbage collection, growth by arenas.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <map>
#include <random>

#include "alloc/crash_harness.h"
#include "alloc/heap.h"

namespace btd {
namespace {

constexpr Heap::Options kLanes{.lanes = 2, .lane_bytes = 16 * 1024};
constexpr unsigned kSlots = 24;
constexpr std::uint64_t kNoStamp = 0;

// What a slot of the table must lead to: a block whose first word is the stamp, and of a
// recoverable one a child, behind its second word, that is stamped likewise.
struct Expected {
  bool there = false;
  std::uint64_t stamp = kNoStamp;  // kNoStamp: contents are not known
  std::uint64_t child = kNoStamp;
  bool operator==(const Expected&) const = default;
};
using Model = std::array<Expected, kSlots>;

std::uint64_t word(const Heap& heap, Offset at) {
  std::uint64_t value = 0;
  std::memcpy(&value, heap.at(at), sizeof(value));
  return value;
}

class Program {
 public:
  Program(Heap& heap, Model& now, Model& next, std::uint64_t seed)
      : heap_(heap), now_(now), next_(next), random_(seed) {}

  Status start() {
    BTD_ASSIGN(table_, heap_.reserve(kSlots * 8));
    std::memset(heap_.data(table_), 0, kSlots * 8);
    if (!heap_.persist().persist(heap_.data(table_), kSlots * 8)) return fail(EIO);
    const std::array<Heap::Action, 2> actions{
        Heap::Action{.kind = Heap::Action::Kind::kAllocate, .at = table_},
        Heap::Action{.kind = Heap::Action::Kind::kSet, .at = Heap::root_word(1), .value = table_}};
    return heap_.publish(actions);
  }

  Status step() {
    const unsigned slot = pick(kSlots);
    next_ = now_;
    const unsigned what = pick(16);
    if (what == 0) BTD_TRY(collect_garbage());
    if (what == 1) BTD_TRY(swap(slot, (slot + 1) % kSlots));
    if (what > 1) BTD_TRY(now_[slot].there ? remove(slot) : insert(slot));
    now_ = next_;
    return {};
  }

 private:
  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }
  [[nodiscard]] Offset at(unsigned slot) const { return table_ + slot * 8; }
  std::size_t size() {  // few classes: an arena has few segments
    static constexpr std::array<std::size_t, 4> kSizes{40, 200, 1000, 70'000};
    return kSizes.at(pick(16) == 0 ? 3 : pick(3));
  }

  Result<Offset> stamped(std::uint64_t stamp, Offset child) {
    BTD_ASSIGN(const Offset block, heap_.allocate(size(), child == 0 ? kTypeNoPointers : 0));
    const std::array<std::uint64_t, 2> words{stamp, child};
    std::memcpy(heap_.data(block), words.data(), sizeof(words));
    if (!heap_.persist().persist(heap_.data(block), sizeof(words))) return fail(EIO);
    return block;
  }

  Status insert(unsigned slot) {
    for (unsigned i = pick(20); i > 0; --i) BTD_TRY(heap_.allocate(size()));  // garbage
    const std::uint64_t stamp = ++stamps_;
    switch (pick(3)) {
      case 0: {  // published, contents later
        next_[slot] = {.there = true};
        BTD_ASSIGN(const Offset block, heap_.allocate_to(at(slot), size()));
        now_ = next_;
        next_[slot].stamp = stamp;
        return heap_.copy(block, &stamp, sizeof(stamp));
      }
      case 1: {  // reserved, filled, published
        BTD_ASSIGN(const Offset block, heap_.reserve(size()));
        std::memcpy(heap_.data(block), &stamp, sizeof(stamp));
        if (!heap_.persist().persist(heap_.data(block), sizeof(stamp))) return fail(EIO);
        next_[slot] = {.there = true, .stamp = stamp};
        const std::array<Heap::Action, 2> actions{
            Heap::Action{.kind = Heap::Action::Kind::kAllocate, .at = block},
            Heap::Action{.kind = Heap::Action::Kind::kSet, .at = at(slot), .value = block}};
        return heap_.publish(actions);
      }
      default: {  // recoverable, with a child, linked by one durable word
        const std::uint64_t child_stamp = ++stamps_;
        BTD_ASSIGN(const Offset child, stamped(child_stamp, 0));
        BTD_ASSIGN(const Offset block, stamped(stamp, child));
        next_[slot] = {.there = true, .stamp = stamp, .child = child_stamp};
        const Heap::Action link{.kind = Heap::Action::Kind::kSet, .at = at(slot), .value = block};
        return heap_.publish({&link, 1});
      }
    }
  }

  Status remove(unsigned slot) {
    const bool recoverable = now_[slot].child != kNoStamp;
    next_[slot] = {};
    if (!recoverable) return heap_.free_from(at(slot));
    const Offset block = word(heap_, at(slot));
    const Offset child = word(heap_, block + 8);
    const Heap::Action unlink{.kind = Heap::Action::Kind::kSet, .at = at(slot), .value = 0};
    BTD_TRY(heap_.publish({&unlink, 1}));
    now_ = next_;
    BTD_TRY(heap_.release(child));
    return heap_.release(block);
  }

  Status swap(unsigned one, unsigned other) {
    std::swap(next_[one], next_[other]);
    Tx tx = heap_.begin();
    const std::uint64_t a = word(heap_, at(one));
    const std::uint64_t b = word(heap_, at(other));
    BTD_TRY(tx.set(at(one), b));
    BTD_TRY(tx.set(at(other), a));
    return tx.commit();
  }

  Status collect_garbage() {
    BTD_TRY(heap_.collect());
    return heap_.recover(Marking::Options{.threads = 2});
  }

  Heap& heap_;
  Model& now_;
  Model& next_;
  std::mt19937_64 random_;
  Offset table_ = 0;
  std::uint64_t stamps_ = 0;
};

using Blocks = std::map<Offset, std::uint64_t>;

// Whether a word of the blocks happens to be an address in [at, at + bytes): what the heap handed
// out holds what lay there before, and marking takes any word for a pointer.
bool leads_to(Heap& heap, const Blocks& blocks, Offset at, std::uint64_t bytes) {
  for (const auto& [block, length] : blocks) {
    for (Offset from = block; from + 8 <= block + length; from += 8) {
      if (word(heap, from) - at < bytes) return true;
    }
  }
  return false;
}

// Blocks beyond `blocks`, but recoverable ones that stale words keep.
std::uint64_t leaked_bytes(Heap& heap, Blocks blocks) {
  Blocks extra;
  std::uint64_t lost = 0;
  heap.for_each_block([&](const Slot& slot) {
    if (blocks.contains(slot.offset())) return;
    if (slot.segment->recoverable())
      extra.emplace(slot.offset(), slot.bytes());
    else
      lost += slot.bytes();
  });
  for (bool more = true; more;) {
    more = false;
    for (auto at = extra.begin(); at != extra.end();) {
      const bool kept = leads_to(heap, blocks, at->first, at->second);
      more = more || kept;
      if (kept) blocks.insert(*at);
      at = kept ? extra.erase(at) : std::next(at);
    }
  }
  for (const auto& [block, bytes] : extra) lost += bytes;
  return lost;
}

// The table leads to what `model` says; all blocks are distinct and the heap has no other.
Status matches(Heap& heap, const Model& model) {
  const Offset table = heap.root(1);
  Blocks blocks;
  const auto enter = [&](Offset block) -> Status {
    BTD_ASSIGN(const std::uint64_t bytes, heap.block_bytes(block));
    return blocks.emplace(block, bytes).second ? Status{} : fail(EIO, "a block is linked twice");
  };
  if (table != 0) BTD_TRY(enter(table));
  for (unsigned i = 0; i < kSlots; ++i) {
    const Offset block = table == 0 ? 0 : word(heap, table + i * 8);
    if ((block != 0) != model[i].there) return fail(EIO, "a slot is neither old nor new");
    if (block == 0) continue;
    BTD_TRY(enter(block));
    if (model[i].stamp == kNoStamp) continue;
    if (word(heap, block) != model[i].stamp) return fail(EIO, "a block has other contents");
    if (model[i].child == kNoStamp) continue;
    const Offset child = word(heap, block + 8);
    BTD_TRY(enter(child));
    if (word(heap, child) != model[i].child) return fail(EIO, "a child has other contents");
  }
  if (const std::uint64_t lost = leaked_bytes(heap, blocks); lost != 0)
    return fail(EIO, "leak: nothing leads to " + std::to_string(lost) + " bytes");
  for (int i = 0; i < 200; ++i) {
    BTD_ASSIGN(const Offset fresh, heap.allocate(16 + static_cast<unsigned>(i % 3) * 90));
    const auto after = blocks.upper_bound(fresh);
    if (after == blocks.begin()) continue;
    const auto& [block, bytes] = *std::prev(after);
    if (fresh < block + bytes) return fail(EIO, "reachable memory is handed out again");
  }
  return {};
}

CrashHarness::Report crash(std::uint64_t seed, Mutation mutation = {}) {
  auto now = std::make_shared<Model>();
  auto next = std::make_shared<Model>();
  const bool sound = mutation.kind == Mutation::Kind::kNone;
  CrashHarness harness({.arena_bytes = 1 << 20,
                        .max_arenas = 4,
                        .seeds = sound ? 3U : 10U,
                        .probability = sound ? 0.3 : 1.0,
                        .nested = sound,
                        .mutation = mutation});
  return harness.run(
      [](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, kLanes));
        return heap->close();
      },
      [=](ArenaSource& source) -> Status {
        *now = *next = {};
        BTD_ASSIGN(auto heap, Heap::open(source));
        Program program(*heap, *now, *next, seed);
        BTD_TRY(program.start());
        for (int i = 0; i < 80; ++i) BTD_TRY(program.step());
        if (heap->stats().arenas < 2) return fail(EIO, "the heap did not grow: ask it for more");
        return heap->close();
      },
      [=](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        if (!heap->needs_recovery()) BTD_TRY(heap->collect());
        BTD_TRY(heap->recover(Marking::Options{.threads = 1}));
        Status old = matches(*heap, *now);
        if (!old) {
          // What matches() allocated is garbage.
          BTD_TRY(heap->collect());
          BTD_TRY(heap->recover(Marking::Options{.threads = 1}));
          if (!matches(*heap, *next)) return old;
        }
        return heap->close();
      });
}

TEST(HeapMixedCrash, EveryContractAtEveryFence) {
  for (const std::uint64_t seed : {1U, 2U, 3U, 4U}) {
    const auto report = crash(seed);
    EXPECT_TRUE(report.ok()) << report.summary();
  }
}

// The harness notices a program that forgets a fence: most of them protect something.
TEST(HeapMixedCrash, AForgottenFenceIsSeen) {
  unsigned seen = 0;
  constexpr unsigned kTried = 12;
  for (unsigned i = 0; i < kTried; ++i) {
    if (!crash(1, {.kind = Mutation::Kind::kSkipFence, .at = 4 + i * 9}).ok()) ++seen;
  }
  EXPECT_GE(seen, kTried / 4) << "of " << kTried;
  RecordProperty("seen", static_cast<int>(seen));
}

}  // namespace
}  // namespace btd
