// StateTable: what the kernel knows of this mount (lookup counts, opens, backing ids), kept so that
// a worker may be killed at any instruction and the next one goes on from there.
//
// Every change of an entry is one PendingUpdate: written in full, then marked valid, then applied,
// then cleared. It names the slot record that takes the matching undo item, so that the counts
// and the record of who made them change together. The next worker applies a valid one again.
// A killed process has stored everything up to one instruction and nothing after it, so keeping
// the compiler from reordering is all that this needs; there are no flushes.
//
// Thread-safety: all calls from any thread, except that a slot belongs to one thread at a time.
// Lock order: mutex_ is innermost.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "alloc/result.h"
#include "fs/daemon/state_layout.h"

namespace btd {

class StateTable {
 public:
  // An empty memfd with an initialised header; it is sealed to nobody and closes on exec.
  static Result<int> create_memfd(std::uint64_t session);
  // Maps the memfd and finishes the update that the last worker was making.
  // Errors: EPROTO another version of this program laid it out.
  static Result<std::unique_ptr<StateTable>> attach(int fd);

  ~StateTable();
  StateTable(const StateTable&) = delete;
  StateTable& operator=(const StateTable&) = delete;

  [[nodiscard]] StateHeader& header() { return *header_; }
  [[nodiscard]] LockRecord* locks() const {
    return reinterpret_cast<LockRecord*>(base_ + kLocksOffset);
  }

  // --- entries -------------------------------------------------------------------------------
  [[nodiscard]] std::optional<StateEntry> find(std::uint64_t id) const;
  // Adds to the counts, making the entry if need be, and notes the inverse in `slot` (kNoSlot:
  // not). Counts below zero become zero. Returns the entry as it is then. Errors: ENOMEM.
  Result<StateEntry> add(std::uint32_t slot, std::uint64_t id, std::int32_t dlookup,
                         std::int32_t dopens);
  // Takes `n` lookups away: a FORGET, which is never sent again.
  StateEntry forget(std::uint64_t id, std::uint64_t n);
  Status set_backing(std::uint64_t id, std::int32_t backing_id);
  // Sets or clears flags of an entry; without an entry nothing happens.
  std::optional<StateEntry> set_flags(std::uint64_t id, std::uint32_t flags);
  std::optional<StateEntry> clear_flags(std::uint64_t id, std::uint32_t flags);
  // Notes the mark that a write past the daemon would change; 0: none. Without an entry:
  // nothing.
  void set_suid_watch(std::uint64_t id, std::uint32_t mark);
  // Drops the entry if nothing refers to it any more.
  void drop_if_idle(std::uint64_t id);
  // Visits every entry; `visit` must not call the table.
  void for_each(const std::function<void(const StateEntry&)>& visit) const;
  [[nodiscard]] std::uint64_t size() const;

  // --- slots ---------------------------------------------------------------------------------
  // A slot whose last request was answered, now the caller's; nullopt if there is none.
  std::optional<std::uint32_t> claim_slot();
  void give_back_slot(std::uint32_t slot);
  // The request in `slot` begins (its items are forgotten), or has been answered.
  void begin(std::uint32_t slot, std::uint64_t unique);
  void end(std::uint32_t slot);
  // The slot, left by an earlier worker, that was executing `unique`; claims it and takes back
  // what the request had counted, also in another slot (an open is counted where it is answered).
  std::optional<std::uint32_t> adopt(std::uint64_t unique);
  // No request of an earlier worker will come again: what is left of them was answered.
  void forget_earlier_requests();
  [[nodiscard]] const SlotRecord& slot(std::uint32_t index) const { return slots_[index]; }

 private:
  StateTable() = default;
  StateEntry* table(std::uint64_t capacity) const;
  void recover();
  [[nodiscard]] std::uint64_t find_index(std::uint64_t id) const;  // capacity if absent
  Result<std::uint64_t> index_for_insert(std::uint64_t id);
  Status make_room();
  Status rebuild(std::uint64_t capacity);
  void update(std::uint64_t index, const StateEntry& entry, std::uint32_t slot,
              std::uint32_t count);
  void apply_pending();
  void erase(std::uint64_t index);
  std::optional<StateEntry> change_flags(std::uint64_t id, std::uint32_t set, std::uint32_t clear);
  Result<StateEntry> add_locked(std::uint32_t slot, std::uint32_t slot_count, std::uint64_t id,
                                std::int64_t dlookup, std::int64_t dopens);

  int fd_ = -1;
  char* base_ = nullptr;
  StateHeader* header_ = nullptr;
  SlotRecord* slots_ = nullptr;
  mutable std::mutex mutex_;
  std::uint64_t live_ = 0, dead_ = 0;  // of the present table
  bool claimed_[kSlots] = {};
};

}  // namespace btd
