#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "alloc/heap.h"
#include "alloc/tx_context.h"

namespace btd {
namespace {

Segment* if_recoverable(const Slot& slot) {
  return slot.segment->recoverable() ? slot.segment : nullptr;
}

std::uint64_t word_at(const std::byte* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

// Logs the words of `copy` that differ from `home`. Runs are not joined over equal words: an
// entry's tag costs as much as the word it would save, and words not changed must not be written.
void log_changes(Record& record, Offset off, const std::byte* home, const std::byte* copy,
                 std::size_t len) {
  std::size_t at = 0;
  while (at < len) {
    if (at % kLineBytes == 0 && len - at >= kLineBytes &&
        std::memcmp(home + at, copy + at, kLineBytes) == 0) {
      at += kLineBytes;
      continue;
    }
    if (word_at(home + at) == word_at(copy + at)) {
      at += kWordBytes;
      continue;
    }
    const std::size_t from = at;
    while (at < len && word_at(home + at) != word_at(copy + at)) at += kWordBytes;
    record.bytes(off + from, copy + from, at - from);
  }
}

}  // namespace

Tx::Tx(Heap& heap, std::unique_ptr<TxContext> context)
    : heap_(&heap), context_(std::move(context)) {}

Tx::Tx(Tx&& other) noexcept : heap_(other.heap_), context_(std::move(other.context_)) {}

Tx::~Tx() {
  if (context_) abort();
}

Result<Offset> Tx::alloc(std::size_t bytes) {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  BTD_ASSIGN(const Slot slot, heap_->reserve_slot(bytes));
  context_->alloc_at.put(slot.offset(), static_cast<std::uint32_t>(context_->allocs.size()));
  context_->allocs.push_back({.slot = slot});
  return slot.offset();
}

void Tx::drop_edits(const Slot& slot) {
  const Offset from = slot.offset();
  const Offset to = from + slot.bytes();
  for (TxContext::Edit& edit : context_->edits) {
    if (edit.off < from || edit.off >= to) continue;
    edit.len = 0;
    context_->edit_at.put(edit.off, OffsetIndex::kNone);
  }
  std::erase_if(context_->sets,
                [&](const TxContext::Set& set) { return set.word >= from && set.word < to; });
}

Status Tx::free(Offset block) {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  const std::uint32_t own = context_->alloc_at.get(block);
  if (own != OffsetIndex::kNone) {
    TxContext::Alloc& alloc = context_->allocs[own];
    drop_edits(alloc.slot);
    heap_->cancel(alloc.slot);
    alloc.dropped = true;
    context_->alloc_at.put(block, OffsetIndex::kNone);
    return {};
  }
  BTD_ASSIGN(const Slot slot, heap_->begin_free(block));
  if (context_->free_at.get(block) != OffsetIndex::kNone) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is freed twice by the same transaction.");
  }
  context_->free_at.put(block, static_cast<std::uint32_t>(context_->frees.size()));
  drop_edits(slot);
  context_->frees.push_back(slot);
  return {};
}

// A word set before its range was edited is part of the copy from now on.
void Tx::absorb_sets(Offset off, std::size_t len, std::byte* copy) {
  std::erase_if(context_->sets, [&](const TxContext::Set& set) {
    if (set.word < off || set.word >= off + len) return false;
    std::memcpy(copy + (set.word - off), &set.value, sizeof(set.value));
    return true;
  });
}

Result<std::byte*> Tx::edit(Offset off, std::size_t len) {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  len = (len + kWordBytes - 1) & ~(kWordBytes - 1);
  const std::uint32_t known = context_->edit_at.get(off);
  if (known != OffsetIndex::kNone) {
    const TxContext::Edit& edit = context_->edits[known];
    if (len <= edit.len) return edit.copy;
    return fail(EINVAL, "The block at " + std::to_string(off) + " was edited with " +
                            std::to_string(edit.len) +
                            " bytes before; edit the larger range first.");
  }
  const Slot slot = heap_->table_.find(off);
  if (slot.segment == nullptr || off % kWordBytes != 0 || len == 0 ||
      off + len > slot.offset() + slot.bytes()) {
    return fail(EINVAL, "The range at " + std::to_string(off) +
                            " is not aligned to 8 bytes inside one block of the heap.");
  }
  const bool fresh = context_->alloc_at.get(slot.offset()) != OffsetIndex::kNone;
  if (!fresh && (!slot.segment->is_allocated(slot.index) || context_->frees_block(slot))) {
    return fail(EINVAL, "The block at " + std::to_string(slot.offset()) +
                            " is not allocated; allocate it before editing it.");
  }
  std::byte* copy = context_->buffers.take(len);
  if (fresh) {
    std::memset(copy, 0, len);
  } else {
    std::memcpy(copy, heap_->at(off), len);
  }
  if (!context_->sets.empty()) absorb_sets(off, len, copy);
  context_->edit_at.put(off, static_cast<std::uint32_t>(context_->edits.size()));
  context_->edits.push_back(
      {.off = off, .len = len, .copy = copy, .fresh = fresh, .recoverable = if_recoverable(slot)});
  return copy;
}

const std::byte* Tx::view(Offset off) const {
  if (context_) {
    const std::uint32_t known = context_->edit_at.get(off);
    if (known != OffsetIndex::kNone) return context_->edits[known].copy;
  }
  return heap_->at(off);
}

void Tx::read(Offset off, std::byte* to, std::size_t len) const {
  if (to != heap_->at(off)) std::memmove(to, heap_->at(off), len);
  if (!context_) return;
  const auto lay_over = [&](Offset at, const std::byte* bytes, std::size_t count) {
    const Offset from = std::max(at, off);
    const Offset end = std::min(at + count, off + len);
    if (from < end) std::memcpy(to + (from - off), bytes + (from - at), end - from);
  };
  for (const TxContext::Set& set : context_->sets) {
    lay_over(set.word, reinterpret_cast<const std::byte*>(&set.value), sizeof(set.value));
  }
  for (const TxContext::Edit& edit : context_->edits) lay_over(edit.off, edit.copy, edit.len);
}

Status Tx::set(Offset word, std::uint64_t value) {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  const Slot slot = heap_->table_.find(word);
  if (slot.segment == nullptr || word % kWordBytes != 0 ||
      ((!slot.segment->is_allocated(slot.index) || context_->frees_block(slot)) &&
       context_->alloc_at.get(slot.offset()) == OffsetIndex::kNone)) {
    return fail(EINVAL, "The word at " + std::to_string(word) +
                            " is not an aligned word of an allocated block.");
  }
  for (const TxContext::Edit& edit : context_->edits) {
    if (word < edit.off || word >= edit.off + edit.len) continue;
    std::memcpy(edit.copy + (word - edit.off), &value, sizeof(value));
    return {};
  }
  std::erase_if(context_->sets, [&](const TxContext::Set& set) { return set.word == word; });
  context_->sets.push_back({.word = word, .value = value, .recoverable = if_recoverable(slot)});
  return {};
}

Status Tx::set_root(unsigned slot, Offset value) {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  if (slot >= kRootSlots) return fail(EINVAL, "A heap has root slots 0 to 63.");
  const Offset word = offsetof(ArenaHeader, roots) + slot * sizeof(std::uint64_t);
  std::erase_if(context_->sets, [&](const TxContext::Set& set) { return set.word == word; });
  context_->sets.push_back({.word = word, .value = value});
  return {};
}

std::size_t Tx::fresh_bytes() const {
  std::size_t sum = 0;
  for (const TxContext::Edit& edit : context_->edits) sum += edit.fresh ? edit.len : 0;
  return sum;
}

// Two copies of one byte would leave the outcome to chance.
Status Tx::check_overlaps() {
  auto& edits = context_->edits;
  const auto by_place = [](const TxContext::Edit& a, const TxContext::Edit& b) {
    return a.off < b.off;
  };
  std::erase_if(edits, [](const TxContext::Edit& edit) { return edit.len == 0; });
  std::sort(edits.begin(), edits.end(), by_place);
  for (std::size_t i = 1; i < edits.size(); ++i) {
    if (edits[i - 1].off + edits[i - 1].len <= edits[i].off) continue;
    return fail(EINVAL, "The edits at " + std::to_string(edits[i - 1].off) + " and " +
                            std::to_string(edits[i].off) + " overlap; edit the whole range once.");
  }
  return {};
}

void Tx::build_record(bool log_fresh) {
  Record& record = context_->record;
  record.clear();
  for (const TxContext::Alloc& alloc : context_->allocs) {
    if (alloc.dropped) continue;
    heap_->log_allocation(record, alloc.slot);
  }
  for (const Slot& slot : context_->frees) {
    record.and64(slot.segment->bitmap_word(slot.index), ~Segment::mask_of(slot.index));
  }
  for (const TxContext::Set& set : context_->sets) record.set64(set.word, set.value);
  for (const TxContext::Edit& edit : context_->edits) {
    if (edit.len == 0) continue;
    if (!edit.fresh) {
      log_changes(record, edit.off, heap_->at(edit.off), edit.copy, edit.len);
    } else if (log_fresh) {
      record.bytes(edit.off, edit.copy, edit.len);
    }
  }
}

std::size_t Tx::log_bytes() const {
  if (!context_) return 0;
  // The record is scratch: commit() builds it anew.
  const_cast<Tx*>(this)->build_record(fresh_bytes() <= kInlineFreshBytes);
  return context_->record.empty() ? 0 : context_->record.lane_bytes();
}

Status Tx::commit() {
  if (!context_) return fail(EINVAL, "The transaction is over; begin another.");
  if (Status sound = check_overlaps(); !sound) {
    abort();
    return sound;
  }
  const bool log_fresh = fresh_bytes() <= kInlineFreshBytes;
  build_record(log_fresh);
  if (context_->record.empty()) {
    finish(0);
    return {};
  }
  if (!log_fresh && context_->record.lane_bytes() <= heap_->journal_->lane_bytes()) {
    // The record may reach NVRAM by eviction before its own fence, so what it refers to goes first.
    for (const TxContext::Edit& edit : context_->edits) {
      if (edit.fresh) heap_->persist_.copy_nodrain(heap_->base_ + edit.off, edit.copy, edit.len);
    }
    if (!heap_->persist_.drain()) {
      abort();
      return heap_->persist_.health();
    }
  }
  const Result<std::uint64_t> seq = heap_->commit(context_->record, context_->frees);
  if (!seq) {
    // In doubt, if the medium failed: blocks may or may not be taken, so none is reused.
    if (seq.error().code != EIO) abort();
    context_.reset();
    return std::unexpected(seq.error());
  }
  finish(*seq);
  return {};
}

void Tx::finish(std::uint64_t seq) {
  std::vector<Segment*>& logged = context_->logged;
  for (const TxContext::Edit& edit : context_->edits) {
    if (edit.recoverable != nullptr) logged.push_back(edit.recoverable);
  }
  for (const TxContext::Set& set : context_->sets) {
    if (set.recoverable != nullptr) logged.push_back(set.recoverable);
  }
  if (!logged.empty()) heap_->note_logged(logged, seq);
  heap_->return_context(std::move(context_));
}

void Tx::abort() {
  for (const TxContext::Alloc& alloc : context_->allocs) {
    if (!alloc.dropped) heap_->cancel(alloc.slot);
  }
  heap_->return_context(std::move(context_));
}

}  // namespace btd
