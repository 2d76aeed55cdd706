// Segment: what DRAM knows of one segment or large extent in use.
//
// Two bits a slot. `avail`: may be allocated. `live`: allocated and committed, may be freed. A slot
// with neither is on its way: reserved by an open transaction, or freed and waiting for the
// watermark. avail and free_slots belong to the lock of the segment's bin; live is changed by
// atomic bit operations, so that of two threads that free one block exactly one succeeds.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>

#include "alloc/layout.h"

namespace btd {

struct Segment {
  static constexpr std::uint32_t kNotListed = ~0U;

  std::uint64_t id = 0;  // see SegmentTable
  Offset data = 0;       // slot 0
  Offset header = 0;     // its SegmentHeader
  Offset bitmap = 0;     // word 0 of its bitmap, on NVRAM
  std::uint64_t slot_bytes = 0;
  std::uint32_t slots = 0;
  std::uint32_t words = 0;  // of 64 slots
  SegmentWord word;
  std::uint32_t free_slots = 0;           // slots with avail set
  std::uint32_t hint = 0;                 // word where the last available slot was found
  std::uint32_t list_index = kNotListed;  // in its bin's list of segments with available slots
  std::unique_ptr<std::uint64_t[]> avail;
  std::unique_ptr<std::atomic<std::uint64_t>[]> live;

  // Takes an available slot. There is one: free_slots > 0.
  [[nodiscard]] std::uint32_t take_slot() {
    while (avail[hint] == 0) hint = hint + 1 == words ? 0 : hint + 1;
    const auto bit = static_cast<std::uint32_t>(std::countr_zero(avail[hint]));
    avail[hint] &= avail[hint] - 1;
    --free_slots;
    return hint * 64 + bit;
  }
  void return_slot(std::uint32_t slot) {
    avail[slot / 64] |= mask_of(slot);
    ++free_slots;
  }

  [[nodiscard]] bool is_live(std::uint32_t slot) const {
    return (live[slot / 64].load(std::memory_order_acquire) & mask_of(slot)) != 0;
  }
  void set_live(std::uint32_t slot) {
    live[slot / 64].fetch_or(mask_of(slot), std::memory_order_acq_rel);
  }
  // False if it was not live: a double free, or never allocated.
  [[nodiscard]] bool clear_live(std::uint32_t slot) {
    return (live[slot / 64].fetch_and(~mask_of(slot), std::memory_order_acq_rel) & mask_of(slot)) !=
           0;
  }

  [[nodiscard]] Offset slot_offset(std::uint32_t slot) const { return data + slot * slot_bytes; }
  [[nodiscard]] Offset bitmap_word(std::uint32_t slot) const {
    return bitmap + std::uint64_t{slot} / 64 * kWordBytes;
  }
  [[nodiscard]] static constexpr std::uint64_t mask_of(std::uint32_t slot) {
    return std::uint64_t{1} << (slot % 64);
  }
};

// A slot of a segment, and where it lies.
struct Slot {
  Segment* segment = nullptr;
  std::uint32_t index = 0;

  [[nodiscard]] Offset offset() const { return segment->slot_offset(index); }
  [[nodiscard]] std::uint64_t bytes() const { return segment->slot_bytes; }
};

}  // namespace btd
