// Contract P of Heap: published operations, and failure-atomic copies of any length.
#include <algorithm>
#include <cstring>
#include <string>

#include "alloc/heap.h"
#include "alloc/tx_context.h"

namespace btd {

Status Heap::set_word(Tx& tx, Offset word, std::uint64_t value) {
  const Offset roots = offsetof(ArenaHeader, roots);
  const bool is_root = word >= roots && word < roots + sizeof(ArenaHeader::roots) &&
                       word % sizeof(std::uint64_t) == 0;
  if (is_root) {
    return tx.set_root(static_cast<unsigned>((word - roots) / sizeof(std::uint64_t)), value);
  }
  return tx.set(word, value);
}

Result<Offset> Heap::allocate_to(Offset dest, std::size_t bytes) {
  Tx tx = begin();
  BTD_ASSIGN(const Offset block, tx.alloc(bytes));
  BTD_TRY(set_word(tx, dest, block));
  BTD_TRY(tx.commit());
  return block;
}

Status Heap::free_from(Offset dest) {
  Tx tx = begin();
  BTD_TRY(set_word(tx, dest, 0));  // first, as it also checks that dest may be read
  std::uint64_t block = 0;
  std::memcpy(&block, at(dest), sizeof(block));
  BTD_TRY(tx.free(block));
  return tx.commit();
}

Result<Offset> Heap::reserve(std::size_t bytes) {
  BTD_ASSIGN(const Slot slot, reserve_slot(bytes));
  const std::lock_guard lock(reserved_mutex_);
  reserved_.insert(slot.offset());
  return slot.offset();
}

Status Heap::cancel(Offset reserved) {
  {
    const std::lock_guard lock(reserved_mutex_);
    if (reserved_.erase(reserved) == 0) {
      return fail(EINVAL, "The block at " + std::to_string(reserved) + " is not reserved.");
    }
  }
  cancel(table_.find(reserved));
  return {};
}

Status Heap::publish(std::span<const Action> actions) {
  Tx tx = begin();
  std::vector<Offset> taken;
  const auto give_back = [&] {
    const std::lock_guard lock(reserved_mutex_);
    for (const Offset block : taken) {
      reserved_.insert(block);
      // The transaction must not cancel what stays reserved.
      const std::uint32_t own = tx.context_->alloc_at.get(block);
      tx.context_->allocs[own].dropped = true;
    }
  };
  // Reservations first: a word of a reserved block may be set by the same call.
  for (const Action& action : actions) {
    if (action.kind != Action::Kind::kAllocate) continue;
    const std::lock_guard lock(reserved_mutex_);
    if (reserved_.erase(action.at) == 0) continue;
    taken.push_back(action.at);
    tx.context_->alloc_at.put(action.at, static_cast<std::uint32_t>(tx.context_->allocs.size()));
    tx.context_->allocs.push_back({.slot = table_.find(action.at)});
  }
  Status status;
  for (const Action& action : actions) {
    if (action.kind == Action::Kind::kSet) status = set_word(tx, action.at, action.value);
    if (action.kind == Action::Kind::kFree) status = tx.free(action.at);
    if (action.kind == Action::Kind::kAllocate &&
        std::find(taken.begin(), taken.end(), action.at) == taken.end()) {
      status = fail(EINVAL, "The block at " + std::to_string(action.at) + " is not reserved.");
    }
    if (!status) break;
  }
  if (status && tx.log_bytes() > journal_->lane_bytes()) {
    status = fail(E2BIG, "The actions need more log than a lane has; publish fewer at a time.");
  }
  if (!status) {
    give_back();
    return status;
  }
  return tx.commit();
}

Status Heap::copy(Offset to, const void* from, std::size_t len) {
  if (len == 0) return {};
  const Slot slot = table_.find(to);
  if (slot.segment == nullptr || !slot.segment->is_live(slot.index) ||
      to + len > slot.offset() + slot.bytes()) {
    return fail(EINVAL,
                "The range at " + std::to_string(to) + " is not inside an allocated block.");
  }
  if (len > journal_->lane_bytes() / 2) return copy_by_shadow(to, from, len);
  std::unique_ptr<TxContext> context = take_context();
  context->record.bytes(to, from, len);
  const auto seq = journal_->commit(context->record);
  return_context(std::move(context));
  if (seq && slot.segment->word.contract == Contract::kRecoverable) {
    slot.segment->note_logged(*seq);
  }
  return seq ? Status{} : std::unexpected(seq.error());
}

// The shadow is whole before it is promised, and the promise durable before `to` is touched.
Status Heap::copy_by_shadow(Offset to, const void* from, std::size_t len) {
  const std::lock_guard one(copy_mutex_);
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
