// Contract P of Heap: published operations, and failure-atomic copies of any length.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "alloc/heap.h"
#include "alloc/tx_context.h"

namespace btd {

namespace {

// The changes of bitmap words of one call: bits of one word go into one entry.
class BitChanges {
 public:
  explicit BitChanges(EntryKind kind) : kind_(kind) {}
  void add(const Slot& slot) {
    const Offset word = slot.segment->bitmap_word(slot.index);
    const std::uint64_t bit = Segment::mask_of(slot.index);
    // Neighbours come one after the other: a short look back finds nearly all.
    const std::size_t look = std::min<std::size_t>(words_.size(), 8);
    for (std::size_t i = words_.size() - look; i < words_.size(); ++i) {
      if (words_[i].first != word) continue;
      words_[i].second |= bit;
      return;
    }
    words_.emplace_back(word, bit);
  }
  void log(Record& record) {
    for (const auto& [word, bits] : words_) {
      if (kind_ == EntryKind::kOr64) record.or64(word, bits);
      if (kind_ == EntryKind::kAnd64) record.and64(word, ~bits);
    }
  }
  void clear() { words_.clear(); }

 private:
  const EntryKind kind_;
  std::vector<std::pair<Offset, std::uint64_t>> words_;
};

// What publish() takes for the time of the call; kept by the thread, so that it costs no memory.
struct Taken {
  Record record;
  std::vector<Slot> allocated;
  std::vector<Slot> freed;
  std::vector<Segment*> logged;
  BitChanges sets{EntryKind::kOr64};
  BitChanges clears{EntryKind::kAnd64};
  void clear() {
    record.clear();
    allocated.clear();
    freed.clear();
    logged.clear();
    sets.clear();
    clears.clear();
  }
};

bool take_held(const Slot& slot) {
  const std::uint64_t bit = Segment::mask_of(slot.index);
  return (slot.segment->held[slot.index / 64].fetch_and(~bit, std::memory_order_acq_rel) & bit) !=
         0;
}

void hold(const Slot& slot) {
  slot.segment->held[slot.index / 64].fetch_or(Segment::mask_of(slot.index),
                                               std::memory_order_acq_rel);
}

bool is_held(const Slot& slot) {
  return !slot.segment->recoverable() && !slot.segment->foreign &&
         (slot.segment->held[slot.index / 64].load(std::memory_order_acquire) &
          Segment::mask_of(slot.index)) != 0;
}

bool starts_block(const Slot& slot, Offset at) {
  return slot.segment != nullptr && slot.offset() == at;
}

}  // namespace

// Whether `word` may be set: an aligned word of an allocated or reserved block, or a root slot. A
// recoverable segment that it lies in is returned, else null.
Result<Segment*> Heap::check_word(Offset word) const {
  const Offset roots = offsetof(ArenaHeader, roots);
  if (word % kWordBytes == 0) {
    if (word >= roots && word < roots + sizeof(ArenaHeader::roots)) return nullptr;
    const Slot slot = table_.find(word);
    if (slot.segment != nullptr && slot.segment->is_allocated(slot.index))
      return slot.segment->recoverable() ? slot.segment : nullptr;
    if (slot.segment != nullptr && is_held(slot)) return nullptr;
  }
  return fail(EINVAL, "The word at " + std::to_string(word) +
                          " is not an aligned word of an allocated block.");
}

void Heap::log_allocation(Record& record, const Slot& slot) const {
  if (slot.segment->large()) {
    log_large_header(record, *slot.segment);
  } else {
    record.or64(slot.segment->bitmap_word(slot.index), Segment::mask_of(slot.index));
  }
}

Result<Offset> Heap::allocate_to(Offset dest, std::size_t bytes) {
  BTD_ASSIGN(Segment* const recoverable, check_word(dest));
  BTD_ASSIGN(const Slot slot, reserve_slot(bytes));
  Record record;
  log_allocation(record, slot);
  record.set64(dest, slot.offset() + bias_);
  BTD_ASSIGN(const std::uint64_t seq, commit(record));  // in doubt: nobody reuses it
  if (recoverable != nullptr) note_logged({&recoverable, 1}, seq);
  return slot.offset();
}

Status Heap::free_from(Offset dest) {
  BTD_ASSIGN(Segment* const recoverable, check_word(dest));
  const Offset block =
      __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at(dest)), __ATOMIC_RELAXED) - bias_;
  BTD_ASSIGN(const Slot slot, begin_free(block));
  Record record;
  record.and64(slot.segment->bitmap_word(slot.index), ~Segment::mask_of(slot.index));
  record.set64(dest, 0);
  BTD_ASSIGN(const std::uint64_t seq, commit(record, {&slot, 1}));
  if (recoverable != nullptr) note_logged({&recoverable, 1}, seq);
  return {};
}

Result<Offset> Heap::reserve(std::size_t bytes) {
  BTD_ASSIGN(const Slot slot, reserve_slot(bytes));
  hold(slot);
  return slot.offset();
}

Status Heap::cancel(Offset reserved) {
  const Slot slot = table_.find(reserved);
  if (!starts_block(slot, reserved) || !is_held(slot) || !take_held(slot)) {
    return fail(EINVAL, "The block at " + std::to_string(reserved) + " is not reserved.");
  }
  cancel(slot);
  return {};
}

Status Heap::publish(std::span<const Action> actions) {
  thread_local Taken taken;
  taken.clear();
  Record& record = taken.record;
  const auto take = [&](const Action& action) -> Status {
    if (action.kind == Action::Kind::kSet) {
      BTD_ASSIGN(Segment* const recoverable, check_word(action.at));
      if (recoverable != nullptr) taken.logged.push_back(recoverable);
      record.set64(action.at, action.value);
      return {};
    }
    if (action.kind == Action::Kind::kFree) {
      BTD_ASSIGN(const Slot slot, begin_free(action.at));
      taken.freed.push_back(slot);
      taken.clears.add(slot);
      return {};
    }
    const Slot slot = table_.find(action.at);
    if (!starts_block(slot, action.at) || !is_held(slot)) {
      return fail(EINVAL, "The block at " + std::to_string(action.at) + " is not reserved.");
    }
    taken.allocated.push_back(slot);
    if (slot.segment->large()) {
      log_large_header(record, *slot.segment);
    } else {
      taken.sets.add(slot);
    }
    return {};
  };
  Status status;
  for (const Action& action : actions) {
    status = take(action);
    if (!status) break;
  }
  std::size_t claimed = 0;  // of the reservations
  if (status) {
    taken.sets.log(record);
    taken.clears.log(record);
    if (record.lane_bytes() > journal_->lane_bytes()) {
      status = fail(E2BIG, "The actions need more log than a lane has; publish fewer at a time.");
    }
    while (status && claimed < taken.allocated.size()) {
      if (take_held(taken.allocated[claimed])) {
        ++claimed;
      } else {
        status = fail(EINVAL, "The block at " + std::to_string(taken.allocated[claimed].offset()) +
                                  " is published twice.");
      }
    }
  }
  if (!status) {
    for (std::size_t i = 0; i < claimed; ++i) hold(taken.allocated[i]);
    return status;
  }
  if (record.empty()) return {};
  const Result<std::uint64_t> seq = commit(record, taken.freed);
  if (!seq) {
    // Not in doubt, unless the medium failed: nothing happened.
    if (seq.error().code != EIO) {
      for (const Slot& slot : taken.allocated) hold(slot);
    }
    return std::unexpected(seq.error());
  }
  note_logged(taken.logged, *seq);
  return {};
}

Status Heap::copy(Offset to, const void* from, std::size_t len) {
  if (len == 0) return {};
  const Slot slot = table_.find(to);
  if (slot.segment == nullptr || !slot.segment->is_allocated(slot.index) ||
      to + len > slot.offset() + slot.bytes()) {
    return fail(EINVAL,
                "The range at " + std::to_string(to) + " is not inside an allocated block.");
  }
  if (len > journal_->lane_bytes() / 2) return copy_by_shadow(to, from, len);
  Record record;
  record.bytes(to, from, len);
  BTD_ASSIGN(const std::uint64_t seq, commit(record));
  if (slot.segment->recoverable()) note_logged({&slot.segment, 1}, seq);
  return {};
}

// The shadow is whole before it is promised, and the promise durable before `to` is touched.
Status Heap::copy_by_shadow(Offset to, const void* from, std::size_t len) {
  BTD_ASSIGN(const SharedHold one, SharedHold::take(shared().copy, locks_, "a long copy"));
  BTD_TRY(finish_copy());  // of who died in it
  Tx tx = begin();
  BTD_ASSIGN(const Offset shadow, tx.alloc(len));
  persist_.copy_nodrain(data(shadow), from, len);
  if (!persist_.drain()) return persist_.health();
  const Offset intent = offsetof(ArenaHeader, copy);
  tx.context_->sets.push_back({.word = intent + offsetof(CopyIntent, to), .value = to});
  tx.context_->sets.push_back({.word = intent + offsetof(CopyIntent, shadow), .value = shadow});
  tx.context_->sets.push_back({.word = intent + offsetof(CopyIntent, len), .value = len});
  BTD_TRY(tx.commit());
  return finish_copy();
}

// Does what the intent promises, if there is one: after the promise, or at the next open.
Status Heap::finish_copy() {
  const CopyIntent promised = header()->copy;
  if (promised.len == 0) return {};
  const Slot to = table_.find(promised.to);
  const Slot shadow = table_.find(promised.shadow);
  if (to.segment == nullptr || shadow.segment == nullptr ||
      promised.to + promised.len > to.offset() + to.bytes() || promised.shadow != shadow.offset() ||
      promised.len > shadow.bytes()) {
    return fail(EUCLEAN, "The heap promises a copy that cannot be; restore it from a backup.");
  }
  // Older records of the target must be home for good: replayed later, they would undo the copy.
  BTD_TRY(checkpoint());
  persist_.copy_nodrain(data(promised.to), at(promised.shadow), promised.len);
  if (!persist_.drain()) return persist_.health();
  Tx tx = begin();
  BTD_TRY(tx.free(promised.shadow));
  tx.context_->sets.push_back(
      {.word = offsetof(ArenaHeader, copy) + offsetof(CopyIntent, len), .value = 0});
  return tx.commit();
}

}  // namespace btd
