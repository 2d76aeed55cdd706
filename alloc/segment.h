// Segment: what DRAM knows of one segment or large extent in use.
//
// Transactional: two bits a slot, in DRAM. `avail`: may be allocated. `live`: allocated and
// committed, may be freed. A slot with neither is on its way: reserved by an open transaction, or
// freed and waiting for the watermark. avail and free_slots belong to the lock of the segment's
// bin; live is changed by atomic bit operations, so that of two threads that free one block exactly
// one succeeds.
// Recoverable: SlotBits on the medium, where every process sees them. Only the owner, one thread's
// cache, writes `live`, with plain stores; others set `remote`.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>

#include "alloc/layout.h"
#include "alloc/size_class.h"

namespace btd {

struct Segment {
  static constexpr std::uint32_t kNotListed = ~0U;

  // What the fast paths of contract R read, together.
  Offset data = 0;  // slot 0
  std::uint64_t slot_bytes = 0;
  std::uint64_t inverse = 0;  // inverse_of(slot_bytes); 0 of a large extent
  std::uint32_t slots = 0;
  SegmentWord word;
  SlotBits* bits = nullptr;  // of a recoverable segment
  // Whether a free takes the long way: a large extent, logged, uncounted or dirty; see below.
  std::atomic<bool> slow{false};
  std::atomic<const void*> owner{nullptr};  // of a recoverable segment: a thread's cache
  std::uint32_t free_slots = 0;             // slots that may be taken and nobody claimed
  std::uint32_t list_index = kNotListed;    // in a list of segments with available slots

  std::uint64_t id = 0;     // of its first 64 KiB: Offset / kSegmentBytes
  Offset header = 0;        // its SegmentHeader
  Offset bitmap = 0;        // word 0 of its bitmap, on NVRAM
  std::uint32_t words = 0;  // of 64 slots
  std::uint32_t hint = 0;   // word where the last available slot was found
  // Of a recoverable segment: a record that may be replayed writes into it; frees of others wait in
  // the list of its owner; its bits were not counted yet; open found it after an unclean stop.
  std::atomic<std::uint64_t> logged_seq{0};
  std::atomic<bool> pending{false};
  Segment* next_pending = nullptr;
  bool uncounted = false;
  std::atomic<bool> dirty{false};
  std::unique_ptr<std::uint64_t[]> avail;              // of a transactional segment
  std::unique_ptr<std::atomic<std::uint64_t>[]> live;  // of a transactional segment
  std::unique_ptr<std::atomic<std::uint64_t>[]> held;  // reserved, to be published or cancelled

  [[nodiscard]] bool recoverable() const { return word.contract == Contract::kRecoverable; }
  [[nodiscard]] bool large() const { return word.kind == SegmentKind::kLarge; }

  // The bits of word `i` that stand for slots.
  [[nodiscard]] std::uint64_t existing(std::uint32_t i) const {
    const std::uint32_t in_word = slots - i * 64;
    return in_word >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
  }

  // Takes an available slot of a transactional segment. There is one: free_slots > 0.
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
    slow.store(true);
  }

  [[nodiscard]] std::uint64_t live_word(std::uint32_t i) const {
    return recoverable() ? load_live(i) : live[i].load(std::memory_order_acquire);
  }
  // Live, and not freed by another than the owner meanwhile.
  [[nodiscard]] std::uint64_t allocated_word(std::uint32_t i) const {
    return recoverable() ? load_live(i) & ~load_remote(i) : live_word(i);
  }
  [[nodiscard]] bool is_allocated(std::uint32_t slot) const {
    return (allocated_word(slot / 64) & mask_of(slot)) != 0;
  }
  [[nodiscard]] bool is_live(std::uint32_t slot) const {
    return (live_word(slot / 64) & mask_of(slot)) != 0;
  }
  void set_live(std::uint32_t slot) {
    live[slot / 64].fetch_or(mask_of(slot), std::memory_order_acq_rel);
  }
  // False if it was not live: a double free, or never allocated.
  [[nodiscard]] bool clear_live(std::uint32_t slot) {
    return (live[slot / 64].fetch_and(~mask_of(slot), std::memory_order_acq_rel) & mask_of(slot)) !=
           0;
  }

  // Recoverable bits. A plain store of the owner may meet loads of others, never their stores.
  [[nodiscard]] std::uint64_t* live_at(std::uint32_t i) const {
    return reinterpret_cast<std::uint64_t*>(&bits[i].live);
  }
  [[nodiscard]] std::uint64_t* remote_at(std::uint32_t i) const {
    return reinterpret_cast<std::uint64_t*>(&bits[i].remote);
  }
  [[nodiscard]] std::uint64_t load_live(std::uint32_t i) const {
    return __atomic_load_n(live_at(i), __ATOMIC_RELAXED);
  }
  void store_live(std::uint32_t i, std::uint64_t value) const {
    __atomic_store_n(live_at(i), value, __ATOMIC_RELAXED);
  }
  [[nodiscard]] std::uint64_t load_remote(std::uint32_t i) const {
    return __atomic_load_n(remote_at(i), __ATOMIC_RELAXED);
  }

  [[nodiscard]] std::uint32_t slot_of(Offset at) const {
    return static_cast<std::uint32_t>(((at - data) * inverse) >> kInverseShift);
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
