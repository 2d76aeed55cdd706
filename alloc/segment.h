// Segment: what this process knows in DRAM of one segment or large extent in use.
//
// The allocation bits (live and freed) are on the medium, where every user sees them. What only the
// owner of the arena needs to hand out slots is here. Transactional: `avail` says which slots may
// be allocated. A slot that is neither available nor live is on its way: reserved by an open
// transaction, or freed (its freed bit is set) and waiting for the watermark. avail and free_slots
// belong to the lock of the segment's bin. Recoverable: `state` says exactly which slots are
// allocated. The live bits on the medium also cover slots that a thread's cache keeps; only the
// owner, one thread's cache, writes them, with plain stores, a word at a time where it can. Others
// set the freed bit.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>

#include "alloc/layout.h"
#include "alloc/raise_to.h"
#include "alloc/size_class.h"

namespace btd {

struct Segment {
  static constexpr std::uint32_t kNotListed = ~0U;
  static constexpr char kNobody = 0;        // its address is no cache's, and not null
  static constexpr std::uint8_t kFree = 0;  // states
  static constexpr std::uint8_t kAllocated = 1;
  static constexpr std::uint8_t kFreedByOther = 2;

  // What the fast paths of contract R read, together: one line.
  // The cache whose thread may free here without more ado; kNobody: the long way for all.
  alignas(kLineBytes) std::atomic<const void*> fast{&kNobody};
  Offset data = 0;  // slot 0
  std::uint64_t slot_bytes = 0;
  std::uint64_t inverse = 0;  // inverse_of(slot_bytes); 0 of a large extent
  std::uint8_t* state = nullptr;
  persistent<std::uint64_t>* live = nullptr;
  std::uint32_t slots = 0;
  std::uint32_t free_slots = 0;  // slots that may be taken and nobody claimed
  SegmentWord word;
  transient<std::uint64_t>* freed = nullptr;

  std::atomic<const void*> owner{nullptr};  // of a recoverable segment: a thread's cache
  std::uint32_t list_index = kNotListed;    // in a list of segments with free slots
  std::uint32_t words = 0;                  // of 64 slots
  std::uint32_t hint = 0;                   // word where the last available slot was found
  std::uint64_t id = 0;                     // of its first 64 KiB: Offset / kSegmentBytes
  Offset header = 0;                        // its SegmentHeader
  Offset bitmap = 0;                        // its live words
  bool foreign =
      false;  // of an arena that another user owns: only looked at, never handed out from
  // Of a recoverable segment: a record that may be replayed writes into it; frees of others wait in
  // the list of its owner; its slots were not counted yet (state is null); open found it after an
  // unclean stop.
  std::atomic<std::uint64_t> logged_seq{0};
  std::atomic<bool> pending{false};
  Segment* next_pending = nullptr;
  bool uncounted = false;
  std::atomic<bool> dirty{false};
  std::unique_ptr<std::uint8_t[]> states;              // of a recoverable segment that was counted
  std::unique_ptr<std::uint64_t[]> avail;              // of a transactional segment
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
    raise_to(logged_seq, seq);
    fast.store(&kNobody);
  }

  // The slots of word `i` that are allocated.
  [[nodiscard]] std::uint64_t allocated_word(std::uint32_t i) const {
    return (state != nullptr ? pack_state(i) : load_live(i)) & ~load_freed(i);
  }
  [[nodiscard]] bool is_allocated(std::uint32_t slot) const {
    if (state != nullptr && load_state(slot) != kAllocated) return false;
    return (load_live(slot / 64) & ~load_freed(slot / 64) & mask_of(slot)) != 0;
  }
  // Of its slots that are allocated; of one that waits for recovery all may be.
  [[nodiscard]] std::uint64_t used_bytes() const {
    std::uint64_t used = 0;
    for (std::uint32_t i = 0; i < words; ++i)
      used += static_cast<unsigned>(std::popcount(dirty ? existing(i) : allocated_word(i)));
    return used * slot_bytes;
  }
  // Claims an allocated slot for who frees it: of several that try, one succeeds.
  [[nodiscard]] bool claim(std::uint32_t slot) const {
    if (!is_allocated(slot)) return false;
    std::uint8_t expected = kAllocated;  // the owner's fast path looks at the state alone
    if (state != nullptr && !__atomic_compare_exchange_n(state + slot, &expected, kFreedByOther,
                                                         false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
      return false;
    const std::uint64_t bit = mask_of(slot);
    return (__atomic_fetch_or(freed_at(slot / 64), bit, __ATOMIC_SEQ_CST) & bit) == 0;
  }
  void unclaim(std::uint32_t slot) const {
    __atomic_fetch_and(freed_at(slot / 64), ~mask_of(slot), __ATOMIC_SEQ_CST);
  }

  // A plain store of the owner may meet loads of others, never their stores.
  [[nodiscard]] std::uint64_t* live_at(std::uint32_t i) const {
    return reinterpret_cast<std::uint64_t*>(live + i);
  }
  [[nodiscard]] std::uint64_t* freed_at(std::uint32_t i) const {
    return reinterpret_cast<std::uint64_t*>(freed + i);
  }
  [[nodiscard]] std::uint64_t load_live(std::uint32_t i) const {
    return __atomic_load_n(live_at(i), __ATOMIC_ACQUIRE);
  }
  void store_live(std::uint32_t i, std::uint64_t value) const {
    __atomic_store_n(live_at(i), value, __ATOMIC_RELAXED);
  }
  [[nodiscard]] std::uint64_t load_freed(std::uint32_t i) const {
    return __atomic_load_n(freed_at(i), __ATOMIC_ACQUIRE);
  }
  [[nodiscard]] std::uint8_t load_state(std::uint32_t slot) const {
    return __atomic_load_n(state + slot, __ATOMIC_RELAXED);
  }
  void store_state(std::uint32_t slot, std::uint8_t value) const {
    __atomic_store_n(state + slot, value, __ATOMIC_RELAXED);
  }
  [[nodiscard]] std::uint64_t pack_state(std::uint32_t i) const {
    std::uint64_t word_bits = 0;
    const std::uint32_t end = slots - i * 64 < 64 ? slots - i * 64 : 64;
    for (std::uint32_t k = 0; k < end; ++k) {
      word_bits |= std::uint64_t{load_state(i * 64 + k) == kAllocated} << k;
    }
    return word_bits;
  }

  [[nodiscard]] std::uint32_t slot_of(Offset at) const {
    return static_cast<std::uint32_t>(((at - data) * inverse) >> kInverseShift);
  }
  [[nodiscard]] Offset slot_offset(std::uint32_t slot) const { return data + slot * slot_bytes; }
  // Where the journal changes the slot's bit.
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
