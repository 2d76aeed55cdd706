// SPDX-License-Identifier: BSD-3-Clause
// A worker's threads: random operations of all contracts on the lane of each, on lanes of others
// under their locks, and on blocks that are nobody's but the holder's. Whatever is freed is checked
// first: a block that two processes got at once does not pass.
#include "tests/soak/several/worker.h"

#include <thread>
#include <vector>

#include "tests/soak/several/heap.h"
#include "tests/soak/several/record.h"

namespace btd::soak {
namespace {

// Contents that go with a transaction are logged, or wait for a second fence: not the largest ones.
constexpr unsigned kTransactionSizes = kMiddleSizes;
constexpr std::size_t kHeldBlocks = 32;

class Program {
 public:
  Program(Common& common, btd_cluster* heap, unsigned lane, std::uint64_t seed)
      : common_(common), heap_(heap), id_(lane), random_(seed), lane_(common.lanes.at(lane)) {
    for (unsigned l = 0; l < kLanes; ++l) {
      rows_.at(l) = used(common, l) ? row_of(common, heap, l) : nullptr;
    }
  }

  void run() {
    while (!common_.stop) {
      step();
      lane_.operations.fetch_add(1);
    }
    for (Held& each : held_) free_recoverable(each.block, each.sequence);
  }

 private:
  struct Held {
    void* block;
    State sequence;
  };
  struct Cell {
    unsigned lane;
    unsigned cell;
  };

  void step() {
    const std::uint64_t dice = random_.Below(100);
    if (dice < 15) return hold_or_drop();
    if (dice < 25) return write_letter();
    if (dice < 35) return read_letter();
    if (dice < 50) return exchange();
    const Hold hold(common_, id_);
    if (!hold.sound()) return;
    if (dice < 70) return put_or_take();
    if (dice < 80) return publish();
    if (dice < 86) return replace();
    if (dice < 91) return rewrite();
    if (dice < 94) return abandon();
    if (dice < 99) return set_root();
    expect(btd_checkpoint(heap_) == 0, "btd_checkpoint");
  }

  void expect(bool succeeded, const char* what) {
    if (succeeded) return;
    violation(common_, "lane %u: %s failed: %s", id_, what, btd_strerror());
  }
  void expect_record(const void* block, State sequence, const char* where) {
    if (sequence == kUnwritten || is_record(block, sequence)) return;
    violation(common_, "lane %u: the block %s should hold sequence %llu, but holds %s", id_, where,
              static_cast<unsigned long long>(sequence), described(block).c_str());
  }

  // ---- cells and their model
  [[nodiscard]] State& model(Cell c) { return common_.lanes.at(c.lane).cells.at(c.cell); }
  [[nodiscard]] void** cell(Cell c) { return &rows_.at(c.lane)[c.cell]; }
  [[nodiscard]] Cell any_cell() { return {id_, static_cast<unsigned>(random_.Below(kCells))}; }
  // One of this lane's own that does hold a record.
  [[nodiscard]] bool find_written(Cell& found) {
    for (int i = 0; i < 8; ++i) {
      found = any_cell();
      if (model(found) > kUnwritten) return true;
    }
    return false;
  }
  State new_sequence(unsigned sizes = 256) {
    const std::uint64_t number = lane_.sequences.fetch_add(1) + 1;
    return sequence_of(number, id_, static_cast<unsigned>(random_.Below(sizes)));
  }

  // `call` is what makes the changes that were intended; they are acknowledged when it returns.
  template <class Call>
  void change(std::initializer_list<Change> changes, Call call) {
    intend(changes.begin(), changes.size());
    call();
    acknowledge();
  }
  void intend(const Change* changes, std::size_t count) {
    std::copy(changes, changes + count, lane_.intent.changes.begin());
    lane_.intent.count = static_cast<std::uint32_t>(count);
    lane_.intent.enter(Stage::kBegun);
  }
  void acknowledge() {
    lane_.intent.enter(Stage::kReturned);
    for (std::uint32_t i = 0; i < lane_.intent.count; ++i) {
      const Change& each = lane_.intent.changes.at(i);
      model({each.lane, each.cell}) = each.after;
    }
    lane_.intent.enter(Stage::kNone);
  }
  static Change to(Cell c, State before, State after) {
    return {.lane = c.lane, .cell = c.cell, .before = before, .after = after};
  }

  // ---- contract P
  void put_or_take() {
    const Cell c = any_cell();
    if (model(c) == kEmpty) return put(c);
    expect_record(*cell(c), model(c), "to be freed");
    change({to(c, model(c), kEmpty)},
           [&] { expect(btd_free_from(cell(c)) == 0, "btd_free_from"); });
  }
  void put(Cell c) {
    const State sequence = new_sequence();
    const auto& record = record_of(sequence);
    change({to(c, kEmpty, kUnwritten)},
           [&] { expect(btd_malloc_to(cell(c), record.size()) != nullptr, "btd_malloc_to"); });
    change({to(c, kUnwritten, sequence)}, [&] {
      expect(btd_memcpy(*cell(c), record.data(), record.size()) != nullptr, "btd_memcpy");
    });
  }
  // A reserved block with the record of `sequence`, durable after btd_drain().
  void* reserve(State sequence) {
    const auto& record = record_of(sequence);
    void* const made = btd_reserve(heap_, record.size());
    expect(made != nullptr, "btd_reserve");
    btd_memcpy_nodrain(made, record.data(), record.size());
    return made;
  }
  // Several cells in one step: what is empty is filled, what is full is emptied or replaced.
  void publish() {
    std::vector<btd_action> actions;
    std::vector<Change> changes;
    const unsigned first = any_cell().cell;
    const auto count = 1 + static_cast<unsigned>(random_.Below(Intent::kMost));
    for (unsigned i = 0; i < count; ++i) {
      const Cell c{id_, (first + i) % kCells};
      void* made = nullptr;
      State after = kEmpty;
      if (model(c) == kEmpty || random_.OneIn(2)) {
        after = new_sequence();
        made = reserve(after);
        actions.push_back({.kind = BTD_ACTION_ALLOCATE, .at = made, .value = 0});
      }
      actions.push_back(
          {.kind = BTD_ACTION_SET, .at = cell(c), .value = reinterpret_cast<std::uintptr_t>(made)});
      if (model(c) != kEmpty) {
        expect_record(*cell(c), model(c), "to be replaced");
        actions.push_back({.kind = BTD_ACTION_FREE, .at = *cell(c), .value = 0});
      }
      changes.push_back(to(c, model(c), after));
    }
    expect(btd_drain(heap_) == 0, "btd_drain");
    if (random_.OneIn(10)) {
      expect(btd_cancel(reserve(new_sequence())) == 0, "btd_cancel");
    }
    intend(changes.data(), changes.size());
    expect(btd_publish(heap_, actions.data(), actions.size()) == 0, "btd_publish");
    acknowledge();
  }

  // ---- contract T
  // Two cells change places: of this lane, or of any other.
  void exchange() {
    auto other = static_cast<unsigned>(random_.Below(kLanes));
    if (!used(common_, other)) other = id_;
    const Hold first(common_, std::min(id_, other));
    if (other == id_) return exchange(any_cell(), any_cell(), first.sound());
    const Hold second(common_, std::max(id_, other));
    exchange(any_cell(), {other, any_cell().cell}, first.sound() && second.sound());
  }
  void exchange(Cell a, Cell b, bool sound) {
    const bool same = a.lane == b.lane && a.cell == b.cell;
    if (!sound || same || model(a) == model(b)) return;
    void* const of_a = *cell(a);
    void* const of_b = *cell(b);
    const State state_a = model(a);
    const State state_b = model(b);
    change({to(a, state_a, state_b), to(b, state_b, state_a)}, [&] {
      BTD_TX(heap_) {
        set_pointer(cell(a), of_b);
        set_pointer(cell(b), of_a);
      }
      expect(btd_tx_result() == 0, "the exchange's btd_tx_commit");
    });
  }
  void set_pointer(void** at, void* to) {
    expect(btd_tx_set(at, &to, sizeof to) == 0, "btd_tx_set of a cell");
  }
  // What replace() and abandon() do inside their transaction.
  void replace_in_transaction(Cell c, State sequence) {
    const auto& record = record_of(sequence);
    void* const made = btd_tx_alloc(record.size());
    expect(made != nullptr, "btd_tx_alloc");
    expect(btd_tx_set(made, record.data(), record.size()) == 0, "btd_tx_set of a record");
    if (*cell(c) != nullptr) expect(btd_tx_free(*cell(c)) == 0, "btd_tx_free");
    set_pointer(cell(c), made);
  }
  void replace() {
    const Cell c = any_cell();
    const State sequence = new_sequence(kTransactionSizes);
    if (model(c) != kEmpty) expect_record(*cell(c), model(c), "to be replaced");
    change({to(c, model(c), sequence)}, [&] {
      BTD_TX(heap_) { replace_in_transaction(c, sequence); }
      expect(btd_tx_result() == 0, "the replacement's btd_tx_commit");
    });
  }
  void abandon() {
    expect(btd_tx_begin(heap_) == 0, "btd_tx_begin");
    replace_in_transaction(any_cell(), new_sequence(kTransactionSizes));
    expect(btd_tx_abort() == 0, "btd_tx_abort");
  }
  // New contents for an old block.
  void rewrite() {
    Cell c{};
    if (!find_written(c)) return;
    const auto size = static_cast<unsigned>(model(c) & 0xff);
    const State sequence = sequence_of(lane_.sequences.fetch_add(1) + 1, id_, size);
    const auto& record = record_of(sequence);
    change({to(c, model(c), sequence)}, [&] {
      if (size >= kTransactionSizes) {
        expect(btd_memcpy(*cell(c), record.data(), record.size()) != nullptr, "btd_memcpy");
        return;
      }
      BTD_TX(heap_) {
        void* const copy = btd_tx_add(*cell(c), record.size());
        expect(copy != nullptr, "btd_tx_add");
        std::memcpy(copy, record.data(), record.size());
      }
      expect(btd_tx_result() == 0, "the rewriting's btd_tx_commit");
    });
  }

  // ---- contract R
  void* make_recoverable(State sequence) {
    const auto& record = record_of(sequence);
    void* const made =
        random_.OneIn(8) ? btd_calloc(heap_, 1, record.size()) : btd_malloc(heap_, record.size());
    expect(made != nullptr, "btd_malloc");
    std::memcpy(made, record.data(), record.size());
    return made;
  }
  void free_recoverable(void* block, State sequence) {
    expect_record(block, sequence, "of contract R");
    errno = 0;
    btd_free(block);
    expect(errno == 0, "btd_free");
  }
  void hold_or_drop() {
    if (held_.size() < kHeldBlocks && random_.OneIn(2)) {
      const State sequence = new_sequence();
      held_.push_back({.block = make_recoverable(sequence), .sequence = sequence});
    } else if (!held_.empty()) {
      std::swap(held_[random_.Below(held_.size())], held_.back());
      free_recoverable(held_.back().block, held_.back().sequence);
      held_.pop_back();
    }
  }
  void write_letter() {
    const auto to_whom = random_.Below(common_.workers);
    auto& place = common_.letters.at(to_whom).at(random_.Below(kLetters));
    if (place.load() != nullptr) return;
    const State sequence = new_sequence();
    void* const block = make_recoverable(sequence);
    void* none = nullptr;
    if (!place.compare_exchange_strong(none, block)) free_recoverable(block, sequence);
  }
  void read_letter() {
    auto& mine = common_.letters.at(id_ / kMostThreads);
    void* const block = mine.at(random_.Below(kLetters)).exchange(nullptr);
    if (block == nullptr) return;
    RecordHead head{};
    std::memcpy(&head, block, sizeof head);
    free_recoverable(block, head.sequence);
  }
  void set_root() {
    const Cell c{id_, kRoot};
    const std::string name = root_name(id_);
    void* const old = btd_root(heap_, name.c_str());
    const State before = model(c);
    const State after = random_.OneIn(8) ? kEmpty : new_sequence(kTransactionSizes);
    void* const made = after == kEmpty ? nullptr : make_recoverable(after);
    if (made != nullptr) expect(btd_persist(made, bytes_of(after)) == 0, "btd_persist");
    change({to(c, before, after)},
           [&] { expect(btd_set_root(heap_, name.c_str(), made) == 0, "btd_set_root"); });
    if (old != nullptr) free_recoverable(old, before);
  }

  Common& common_;
  btd_cluster* heap_;
  unsigned id_;
  stress::Random random_;
  Lane& lane_;
  std::array<void**, kLanes> rows_{};
  std::vector<Held> held_;
};

}  // namespace

void work(Common& common, unsigned worker, std::uint64_t life) {
  btd_cluster* const heap = open_heap(common);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < threads_of(worker); ++thread) {
    threads.emplace_back([&, thread] {
      const unsigned lane = lane_of(worker, thread);
      Program(common, heap, lane, stress::Random(common.seed + life * kLanes + lane).Next()).run();
    });
  }
  for (std::thread& each : threads) each.join();
  close_heap(common, heap);
}

}  // namespace btd::soak
