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
  // Of a recoverable segment: the thread cache that owns avail, and what others freed meanwhile.
  std::atomic<const void*> owner{nullptr};
  std::atomic<std::uint32_t> remote_count{0};
  std::atomic<std::uint64_t> logged_seq{0};
  std::unique_ptr<std::atomic<std::uint64_t>[]> remote;

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

  // The newest record that writes into a recoverable segment; its slots wait for the watermark too.
  void note_logged(std::uint64_t seq) {
    std::uint64_t known = logged_seq.load(std::memory_order_relaxed);
    while (known < seq && !logged_seq.compare_exchange_weak(known, seq)) {
    }
  }
  void free_remotely(std::uint32_t slot) {
    remote[slot / 64].fetch_or(mask_of(slot), std::memory_order_release);
    remote_count.fetch_add(1, std::memory_order_release);
  }
  // Makes available what others freed. The caller owns avail.
  void adopt_remote() {
    if (remote_count.load(std::memory_order_acquire) == 0) return;
    for (std::uint32_t i = 0; i < words; ++i) {
      const std::uint64_t got = remote[i].exchange(0, std::memory_order_acquire);
      const auto bits = static_cast<std::uint32_t>(std::popcount(got));
      avail[i] |= got;
      free_slots += bits;
      remote_count.fetch_sub(bits, std::memory_order_relaxed);
    }
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
