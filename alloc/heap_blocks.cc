// The part of Heap that hands out slots and takes them back: bins, limbo, growth.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "alloc/crc.h"
#include "alloc/heap.h"
#include "alloc/recoverable.h"

namespace btd {
namespace {

// Headers of one class that are persisted together: enough that a fence is shared by many slots.
constexpr std::uint32_t kSlotsPerGrowth = 32;
constexpr std::uint32_t kMaxGrowth = 8;

}  // namespace

void Heap::list(Bin& bin, Segment* segment) {
  segment->list_index = static_cast<std::uint32_t>(bin.partial.size());
  bin.partial.push_back(segment);
  if (segment->free_slots == segment->slots) ++bin.empty;
}

void Heap::unlist(Bin& bin, Segment* segment) {
  if (segment->free_slots == segment->slots) --bin.empty;
  Segment* last = bin.partial.back();
  bin.partial[segment->list_index] = last;
  last->list_index = segment->list_index;
  bin.partial.pop_back();
  segment->list_index = Segment::kNotListed;
}

// There is one that has a slot.
Slot Heap::take_from(Bin& bin) {
  Segment* const segment = bin.partial.back();
  if (segment->free_slots == segment->slots) --bin.empty;
  const std::uint32_t slot = segment->take_slot();
  if (segment->free_slots == 0) unlist(bin, segment);
  return {.segment = segment, .index = slot};
}

void Heap::return_to(Bin& bin, const Slot& slot) {
  Segment* const segment = slot.segment;
  segment->return_slot(slot.index);
  if (segment->list_index == Segment::kNotListed) {
    list(bin, segment);
  } else if (segment->free_slots == segment->slots) {
    ++bin.empty;
  }
}

Result<Slot> Heap::reserve_slot(std::size_t bytes) {
  if (bytes == 0) return fail(EINVAL, "A block has at least one byte.");
  if (bytes <= kMaxSmallBytes) return reserve_small(size_class_of(bytes));
  return reserve_large((bytes + kSegmentBytes - 1) / kSegmentBytes);
}

Result<Slot> Heap::reserve_small(std::uint8_t size_class) {
  Bin& bin = bins_.at(size_class);
  for (bool looked = false;;) {
    {
      const std::lock_guard lock(bin.mutex);
      if (bin.partial.empty() && (looked || !others_freed())) BTD_TRY(grow(bin, size_class));
      if (!bin.partial.empty()) return take_from(bin);
    }
    BTD_TRY(std::exchange(looked, true) ? make_room(1) : return_freed());
  }
}

// Adds segments to a bin; adds none when none is free. The caller holds the bin's lock.
Status Heap::grow(Bin& bin, std::uint8_t size_class) {
  const std::uint32_t want =
      std::clamp(kSlotsPerGrowth / kSizeClasses.at(size_class).slots, 1U, kMaxGrowth);
  std::array<Segment*, kMaxGrowth> fresh{};
  std::uint32_t got = 0;
  while (got < want) {
    BTD_ASSIGN(fresh.at(got), table_.take({.kind = SegmentKind::kSmall,
                                           .contract = Contract::kTransactional,
                                           .size_class = size_class,
                                           .span = 1}));
    if (fresh.at(got) == nullptr) break;
    ++got;
  }
  const std::span<Segment* const> made(fresh.data(), got);
  if (made.empty()) return {};
  BTD_TRY(table_.create(made));
  for (Segment* segment : made) list(bin, segment);
  return {};
}

Result<Slot> Heap::reserve_large(std::uint64_t span) {
  if (others_freed()) BTD_TRY(return_freed());
  for (;;) {
    if (span < (std::uint64_t{1} << 32)) {
      BTD_ASSIGN(Segment* const segment, table_.take({.kind = SegmentKind::kLarge,
                                                      .contract = Contract::kTransactional,
                                                      .size_class = 0,
                                                      .span = static_cast<std::uint32_t>(span)}));
      if (segment != nullptr) return Slot{.segment = segment, .index = segment->take_slot()};
    }
    BTD_TRY(make_room(span));
  }
}

// Makes a run of `span` free segments likelier: by a checkpoint, by giving back empty segments, by
// another arena. ENOSPC when none of them helps. The caller holds no lock.
Status Heap::make_room(std::uint64_t span) {
  const std::lock_guard one(room_mutex_);
  if (table_.longest_run() >= span) return {};
  if (others_freed()) BTD_TRY(return_freed());
  if (journal_->parked_bytes() > 0) {
    BTD_TRY(checkpoint());
    if (table_.longest_run() >= span) return {};
  }
  BTD_TRY(trim());
  if (table_.own_arenas().size() < table_.arenas()) {
    BTD_ASSIGN(const bool took, take_orphan(Where::kNear));
    if (took) return {};
  }
  const Result<bool> grown = table_.grow(span);
  if (grown && *grown) return {};
  if (!grown) return spill(grown.error());
  const std::uint64_t most =
      SegmentTable::plan(source_.arena_bytes(), sizeof(ArenaHeader)).segment_count;
  if (span > most) {
    return fail(ENOSPC, "A block of " + std::to_string(span * kSegmentBytes) +
                            " bytes does not fit an arena of " +
                            std::to_string(source_.arena_bytes()) + " bytes.");
  }
  Status taken = take_arena(false);
  return taken ? taken : spill(taken.error());
}

// It is full here: an arena that is nobody's and not near may have room, or a new one elsewhere.
Status Heap::spill(const Error& full) {
  if (full.code != ENOSPC) return std::unexpected(full);
  if (table_.own_arenas().size() < table_.arenas()) {
    BTD_ASSIGN(const bool took, take_orphan(Where::kAnywhere));
    if (took) return {};
  }
  return take_arena(true) ? Status{} : std::unexpected(full);
}

// Gives back what reserve() took, of an aborted transaction. Nothing of it reached NVRAM.
void Heap::cancel(const Slot& slot) {
  Segment* segment = slot.segment;
  if (segment->word.kind == SegmentKind::kLarge) {
    table_.put_back(segment);
    return;
  }
  Bin& bin = bins_.at(segment->word.size_class);
  const std::lock_guard lock(bin.mutex);
  return_to(bin, slot);
}

void Heap::log_large_header(Record& record, const Segment& segment) const {
  // All of the header, so that what it held before does not matter.
  std::array<std::uint64_t, sizeof(SegmentHeader) / kWordBytes> image{};
  image[0] = checked_word(segment.word.pack());
  image[1] = std::uint64_t{generation_} << 32;
  image.at(offsetof(SegmentHeader, live) / kWordBytes) = 1;
  record.bytes(segment.header, image.data(), sizeof(image));
}

Result<Slot> Heap::begin_free(Offset block) {
  const Slot slot = table_.find(block);
  if (slot.segment == nullptr) {
    return fail(EINVAL, "No block lies at " + std::to_string(block) +
                            "; the pointer is not from this heap, or was freed before.");
  }
  if (slot.offset() != block) {
    return fail(EINVAL, "The offset " + std::to_string(block) + " is inside the block at " +
                            std::to_string(slot.offset()) + "; free the block by its start.");
  }
  if (slot.segment->recoverable()) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is recoverable; give it back with release().");
  }
  if (!slot.segment->is_allocated(slot.index)) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is not allocated; it was freed twice, or never allocated.");
  }
  return slot;
}

Result<std::uint64_t> Heap::commit(Record& record, std::span<const Slot> freed) {
  const bool early = journal_->fault() == Journal::Fault::kReuseBeforeWatermark;
  for (;;) {
    Result<std::uint64_t> seq = journal_->commit(record, early ? std::span<const Slot>{} : freed);
    if (seq) [[likely]] {
      if (early) [[unlikely]] {
        std::vector<Slot> now(freed.begin(), freed.end());
        BTD_TRY(return_slots(now));
      }
      if (journal_->parked_bytes() > limbo_limit_) [[unlikely]]
        relieve();
      return seq;
    }
    if (seq.error().code != EAGAIN) return seq;
    BTD_TRY(checkpoint());
  }
}

// Freed blocks wait until no record older than their freeing can be replayed: such a record would
// write into what the next owner stored past the journal. So many wait now that it is time.
void Heap::relieve() {
  // A failed checkpoint is not this transaction's failure; the next commit reports the medium.
  static_cast<void>(checkpoint());
}

Status Heap::park(const Slot& slot) {
  BTD_TRY(journal_->park(slot));
  if (journal_->parked_bytes() > limbo_limit_) relieve();
  return {};
}

Status Heap::return_slots(std::vector<Slot>& slots) {
  std::vector<Segment*> empty;
  std::unique_lock<std::mutex> lock;  // of `held`: neighbours mostly share their bin
  Bin* held = nullptr;
  for (const Slot& slot : slots) {
    Segment* segment = slot.segment;
    Bin* bin =
        segment->recoverable() || segment->large() ? nullptr : &bins_.at(segment->word.size_class);
    if (bin != held) {
      if (lock.owns_lock()) lock.unlock();
      if (bin != nullptr) lock = std::unique_lock(bin->mutex);
      held = bin;
    }
    if (segment->recoverable()) {
      BTD_TRY(recoverable_->take_back(slot));
      continue;
    }
    if (bin == nullptr) {
      table_.put_back(segment);
      continue;
    }
    segment->unclaim(slot.index);
    return_to(*bin, slot);
    // Some stay, so that who frees and allocates in turn does not pay for headers each time.
    if (segment->free_slots == segment->slots && bin->empty > empty_limit_ &&
        bin->partial.size() > 1) {
      unlist(*bin, segment);
      empty.push_back(segment);
    }
  }
  if (lock.owns_lock()) lock.unlock();
  return table_.retire(empty);
}

Status Heap::trim() {
  std::vector<Segment*> empty;
  for (Bin& bin : bins_) {
    const std::lock_guard lock(bin.mutex);
    for (std::size_t i = bin.partial.size(); i-- > 0;) {
      Segment* segment = bin.partial[i];
      if (segment->free_slots != segment->slots) continue;
      unlist(bin, segment);
      empty.push_back(segment);
    }
  }
  BTD_TRY(table_.retire(empty));
  return recoverable_->trim();
}

}  // namespace btd
