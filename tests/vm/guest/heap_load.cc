// SPDX-License-Identifier: BSD-3-Clause
#include <bartender.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <vector>

#include "tests/stress/stress_util.h"
#include "tests/vm/guest/load.h"

namespace btd::vm {

namespace {

constexpr std::uint64_t kSlots = 128;
constexpr const char* kRoot = "table";

// The root's block, of contract R; all it points to is of contracts P and T.
struct Table {
  std::uint64_t operations;
  std::array<std::uint64_t, kSlots> slots;  // addresses of blocks, or 0
};

// A block begins with its id, then its size.
struct Block {
  std::uint64_t id = 0;  // the operation that allocated it; 0: the slot is empty
  std::uint64_t size = 0;
  std::uint64_t mark = 0;  // stored over its third word, if not 0
};
using Model = std::array<Block, kSlots>;

struct HeapOperation {
  enum class Kind : std::uint8_t { kPublish, kFree, kReplace, kSwap, kMark } kind = Kind::kPublish;
  std::uint64_t slot = 0;
  std::uint64_t other = 0;  // of kSwap
  std::uint64_t size = 0;
};

HeapOperation choose(const Model& model, std::uint64_t number) {
  using Kind = HeapOperation::Kind;
  stress::Random random(number * 2 + 1);
  HeapOperation o{.slot = random.Below(kSlots), .other = random.Below(kSlots)};
  // Mostly small blocks, some of many pages, and few that are large enough for a file of their own.
  const std::uint64_t dice = random.Below(256);
  o.size = 32 + random.Below(dice == 0 ? 1'200'000 : dice < 16 ? 60'000 : 1'500);
  if (model[o.slot].id == 0) return o;
  switch (random.Below(4)) {
    case 0:
      o.kind = Kind::kFree;
      break;
    case 1:
      o.kind = Kind::kReplace;
      // A transaction's log is at most 256 KiB.
      o.size = 32 + o.size % 60'000;
      break;
    case 2:
      o.kind = o.other == o.slot ? Kind::kFree : Kind::kSwap;
      break;
    default:
      o.kind = Kind::kMark;
  }
  return o;
}

void apply(Model& model, const HeapOperation& o, std::uint64_t number) {
  using Kind = HeapOperation::Kind;
  switch (o.kind) {
    case Kind::kPublish:
    case Kind::kReplace:
      model[o.slot] = {.id = number + 1, .size = o.size};
      break;
    case Kind::kFree:
      model[o.slot] = {};
      break;
    case Kind::kSwap:
      std::swap(model[o.slot], model[o.other]);
      break;
    case Kind::kMark:
      model[o.slot].mark = number + 1;
      break;
  }
}

std::vector<char> contents(const Block& block) {
  std::vector<char> bytes((block.size + 7) / 8 * 8);
  auto* words = reinterpret_cast<std::uint64_t*>(bytes.data());
  stress::Random random(block.id);
  for (std::size_t i = 0; i < bytes.size() / 8; ++i) words[i] = random.Next();
  words[0] = block.id;
  words[1] = block.size;
  if (block.mark != 0) words[2] = block.mark;
  return bytes;
}

Status done(bool ok, const char* what) {
  if (ok) return {};
  return fail(errno, std::string(what) + ": " + btd_strerror());
}

int count_published(const btd_object* object, void* count) {
  if (object->contract == 'T') ++*static_cast<std::uint64_t*>(count);
  return 0;
}

class HeapLoad final : public Load {
 public:
  HeapLoad(btd_cluster* heap, Table* table) : heap_(heap), table_(table) {}
  ~HeapLoad() override { btd_cluster_destroy(heap_); }

  Result<std::uint64_t> verify(std::uint64_t acknowledged, std::uint64_t ahead) override {
    const std::uint64_t there = table_->operations;
    if (there < acknowledged || there > acknowledged + ahead)
      return fail(EUCLEAN, "the heap has " + std::to_string(there) + " operations, but " +
                               std::to_string(acknowledged) + " were acknowledged");
    model_ = {};
    for (std::uint64_t i = 0; i < there; ++i) apply(model_, choose(model_, i), i);
    std::uint64_t expected = 0;
    for (std::uint64_t slot = 0; slot < kSlots; ++slot) {
      const Block& block = model_[slot];
      if (block.id != 0) ++expected;
      const std::uint64_t at = table_->slots[slot];
      if (block.id == 0 ? at == 0 : at != 0 && is_whole(block_at(slot), block)) continue;
      return fail(EUCLEAN, "slot " + std::to_string(slot) + " of the heap is not as " +
                               std::to_string(there) + " operations leave it");
    }
    BTD_TRY(check_blocks(expected));
    return there;
  }

  Status step() override {
    const std::uint64_t number = table_->operations;
    const HeapOperation operation = choose(model_, number);
    BTD_TRY(perform(operation, number));
    apply(model_, operation, number);
    return {};
  }

 private:
  [[nodiscard]] std::uint64_t* block_at(std::uint64_t slot) const {
    return reinterpret_cast<std::uint64_t*>(table_->slots[slot]);
  }

  static bool is_whole(const std::uint64_t* at, const Block& block) {
    const std::vector<char> bytes = contents(block);
    return btd_usable_size(at) >= bytes.size() && std::memcmp(at, bytes.data(), bytes.size()) == 0;
  }

  // A block that is in no slot has leaked.
  Status check_blocks(std::uint64_t expected) {
    std::uint64_t found = 0;
    BTD_TRY(done(btd_foreach(heap_, count_published, &found) == 0, "btd_foreach"));
    if (found != expected)
      return fail(EUCLEAN, "the heap has " + std::to_string(found) + " blocks, but " +
                               std::to_string(expected) + " are in use");
    if (btd_check(heap_, nullptr, nullptr) != 0) return fail(EUCLEAN, "the heap is damaged");
    return {};
  }

  Status perform(const HeapOperation& o, std::uint64_t number) {
    using Kind = HeapOperation::Kind;
    switch (o.kind) {
      case Kind::kPublish:
        return publish(o, number);
      case Kind::kFree: {
        const std::array<btd_action, 3> actions{btd_action{BTD_ACTION_FREE, block_at(o.slot), 0},
                                                {BTD_ACTION_SET, &table_->slots[o.slot], 0},
                                                {BTD_ACTION_SET, &table_->operations, number + 1}};
        return done(btd_publish(heap_, actions.data(), actions.size()) == 0, "btd_publish");
      }
      case Kind::kReplace:
      case Kind::kSwap:
      case Kind::kMark:
        return transact(o, number);
    }
    return {};
  }

  Status publish(const HeapOperation& o, std::uint64_t number) {
    const std::vector<char> bytes = contents({.id = number + 1, .size = o.size});
    void* block = btd_reserve(heap_, bytes.size());
    BTD_TRY(done(block != nullptr, "btd_reserve"));
    btd_memcpy_nodrain(block, bytes.data(), bytes.size());
    BTD_TRY(done(btd_drain(heap_) == 0, "btd_drain"));
    const std::array<btd_action, 3> actions{
        btd_action{BTD_ACTION_ALLOCATE, block, 0},
        {BTD_ACTION_SET, &table_->slots[o.slot], reinterpret_cast<std::uint64_t>(block)},
        {BTD_ACTION_SET, &table_->operations, number + 1}};
    return done(btd_publish(heap_, actions.data(), actions.size()) == 0, "btd_publish");
  }

  static bool set_word(std::uint64_t* at, std::uint64_t value) {
    return btd_tx_set(at, &value, sizeof(value)) == 0;
  }

  Status transact(const HeapOperation& o, std::uint64_t number) {
    using Kind = HeapOperation::Kind;
    BTD_TRY(done(btd_tx_begin(heap_) == 0, "btd_tx_begin"));
    std::uint64_t* slot = &table_->slots[o.slot];
    bool ok = true;
    if (o.kind == Kind::kReplace) {
      const std::vector<char> bytes = contents({.id = number + 1, .size = o.size});
      void* block = btd_tx_alloc(bytes.size());
      ok = block != nullptr && btd_tx_set(block, bytes.data(), bytes.size()) == 0 &&
           btd_tx_free(block_at(o.slot)) == 0 &&
           set_word(slot, reinterpret_cast<std::uint64_t>(block));
    } else if (o.kind == Kind::kSwap) {
      std::uint64_t* other = &table_->slots[o.other];
      ok = set_word(slot, *other) && set_word(other, *slot);
    } else {
      auto* copy =
          static_cast<std::uint64_t*>(btd_tx_add(block_at(o.slot) + 2, sizeof(std::uint64_t)));
      ok = copy != nullptr;
      if (ok) *copy = number + 1;
    }
    ok = ok && set_word(&table_->operations, number + 1);
    const Status inside = done(ok, "a call in a transaction");
    if (!ok) btd_tx_abort();
    const bool committed = btd_tx_commit() == 0;
    BTD_TRY(inside);
    return done(committed, "btd_tx_commit");
  }

  btd_cluster* const heap_;
  Table* const table_;
  Model model_{};
};

}  // namespace

Result<std::unique_ptr<Load>> open_heap_load(const std::string& directory) {
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return fail(errno, "mkdir " + directory + ": " + std::strerror(errno));
  btd_config config;
  btd_config_init(&config);
  config.directory = directory.c_str();
  config.heap = "load";
  btd_cluster* heap = btd_cluster_create(&config);
  BTD_TRY(done(heap != nullptr, "btd_cluster_create"));
  auto* table = static_cast<Table*>(btd_root(heap, kRoot));
  if (table == nullptr) {
    BTD_TRY(done(errno == ENOENT, "btd_root"));
    // Until it is a root, a cut reclaims it.
    table = static_cast<Table*>(btd_calloc(heap, 1, sizeof(Table)));
    BTD_TRY(done(table != nullptr && btd_persist(table, sizeof(Table)) == 0 &&
                     btd_set_root(heap, kRoot, table) == 0,
                 "the table cannot be made"));
  }
  return std::make_unique<HeapLoad>(heap, table);
}

}  // namespace btd::vm
