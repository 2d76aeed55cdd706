// Journal: lanes of self-certifying redo records; the one place where a change becomes atomic.
//
// A transaction is one record. commit() writes it to a lane and fences once: that is the commit
// point. Then it applies the record to the home locations with plain stores and flushes nothing.
// checkpoint() flushes the homes of all records in the lanes, fences, and raises the watermark W:
// "every record up to W is home". recover() replays the records above W in order of their numbers.
//
// Lanes belong to nobody: any thread of any process that uses the heap takes a free one for a
// commit (LaneShared). What a dead process left half applied, bury() finishes. A block is claimed
// for freeing (its freed bit) only inside a commit, after the record lies in the lane: so what the
// dead had claimed stands in their record. ASSUMPTIONS
// - Between two transactions that touch the same word, other than by or64/and64 of different bits,
// the
//   caller holds a lock from before the first one's commit() until it returned.
// - Content that a record refers to but does not carry was fenced before commit(): a record may
// reach
//   NVRAM by eviction before its fence.
// LOCK ORDER: the door, lanes by number, the burial lock.
// Thread-safety: commit, checkpoint and bury from any thread; the rest before any other use.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "alloc/layout.h"
#include "alloc/persist.h"
#include "alloc/record.h"
#include "alloc/result.h"
#include "alloc/segment.h"
#include "alloc/shared_lock.h"

namespace btd {

class Journal {
 public:
  struct Geometry {
    std::uint32_t lanes = 0;
    std::uint64_t lane_bytes = 0;
  };
  struct Recovery {
    std::uint64_t records = 0;  // replayed
    std::uint64_t bytes = 0;    // of those records
  };
  // Ways to break the protocol, so that tests prove that the crash harness would see it.
  enum class Fault : std::uint8_t {
    kNone,
    kApplyBeforeCommit,
    kWatermarkBeforeFlush,
    kReuseBeforeWatermark,  // the heap's part of the protocol
    kForgetDead,            // of bury(): what the dead were applying is left half done
  };

  // Media bytes that a journal of this geometry takes.
  [[nodiscard]] static constexpr std::uint64_t media_bytes(const Geometry& geometry) {
    return sizeof(JournalHeader) + geometry.lanes * geometry.lane_bytes;
  }
  // Writes an empty journal at `where`, in zero-filled memory. The caller fences.
  static void format(Persist& persist, std::byte* where, const Geometry& geometry);
  // Opens the journal at heap offset `where`. `context`, for the locks of lanes, must outlive it.
  // Errors: EUCLEAN the header is damaged.
  static Result<std::unique_ptr<Journal>> open(Persist& persist, std::byte* heap_base, Offset where,
                                               HeapShared& shared,
                                               const SharedLock::Context& context);
  // Called inside commits, for each segment of another user in which a slot was freed.
  void on_foreign(std::function<void(const Segment&)> notify) { notify_ = std::move(notify); }
  // Where other kernels have pages of the heap (ArenaSource::by_pages_of_nodes): called before a
  // home is touched that another user's record names.
  void set_reach(std::function<Status(Offset)> reach) { reach_ = std::move(reach); }

  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // For who opens the heap alone: sets what users share anew and replays what is not home yet;
  // `heap_bytes` bounds the homes. Idempotent. Errors: EUCLEAN.
  Result<Recovery> recover(std::uint64_t heap_bytes);

  // Makes the record durable and applies it; returns its number. `freed`: slots that the record
  // frees; they wait in the lane for the watermark, or for their owner. Errors, nothing changed:
  // E2BIG it does not fit a lane; EAGAIN the lane is full: checkpoint() first; EINVAL one of
  // `freed` is claimed by another commit; ETIMEDOUT. EIO the medium failed: in doubt.
  Result<std::uint64_t> commit(Record& record, std::span<const Slot> freed = {});
  // A slot that may not be reused before what is in the lanes now is home.
  Status park(const Slot& slot);

  // Brings all records home and empties the lanes. `ripe` gets the slots that waited for that.
  // `at_home` is called while no commit is under way and no record waits. Errors: EIO, ETIMEDOUT.
  Status checkpoint(std::vector<Slot>& ripe, const std::function<Status()>& at_home = {});
  // Whether bury() would find all that it touches.
  [[nodiscard]] bool can_bury(unsigned user);
  // Finishes what a dead user was committing, and frees its lanes: under the burial lock. `freed`
  // is called for each word of live bits in which that frees slots, with their bits.
  void bury(unsigned user, const std::function<void(Offset word, std::uint64_t bits)>& freed);

  [[nodiscard]] std::uint64_t watermark() const { return shared_.home_seq.load(); }
  [[nodiscard]] std::uint64_t parked_bytes() const {
    return parked_bytes_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t commits() const { return shared_.next_seq.load() - first_seq_; }
  [[nodiscard]] std::uint64_t checkpoints() const { return checkpoints_.load(); }
  [[nodiscard]] std::uint64_t lane_bytes() const { return lane_bytes_; }
  void inject(Fault fault) { fault_ = fault; }
  [[nodiscard]] Fault fault() const { return fault_; }

 private:
  struct alignas(2 * kLineBytes) Lane {
    std::byte* base = nullptr;
    LaneShared* shared = nullptr;
    std::vector<Slot> parked;  // under the lane's lock
    std::uint64_t parked_bytes = 0;
  };
  struct Found {
    const RecordHeader* header;
    const std::byte* at;
  };
  class LineFilter;
  class AllLanes;

  Journal(Persist& persist, std::byte* heap_base, Offset where, const Geometry& geometry,
          HeapShared& shared, const SharedLock::Context& context);
  Result<Lane*> take_lane();
  static void leave(Lane& lane) { SharedLock::unlock(lane.shared->lock); }
  void park_in(Lane& lane, const Slot& slot);
  void finish_checkpoint(Lane& lane);
  Status claim_or_void(std::span<const Slot> freed, std::byte* record);
  [[nodiscard]] std::optional<RecordHeader> valid_record(const Lane& lane, std::uint64_t at,
                                                         std::uint64_t above) const;
  Status walk_lane(const Lane& lane, std::uint64_t above, std::vector<Found>& found) const;
  Status check_entries(const Found& record, std::uint64_t heap_bytes) const;
  void apply(const std::byte* record);
  Status flush_homes();
  Status flush_homes_of_nodes();
  // The dead user's record in a lane, if it is whole.
  [[nodiscard]] std::optional<RecordHeader> record_in_flight(const Lane& lane) const;
  Status raise_watermark(std::uint64_t seq);

  Persist& persist_;
  std::byte* const heap_base_;
  const Offset where_;
  JournalHeader* const header_;
  HeapShared& shared_;
  const SharedLock::Context& context_;
  const std::uint64_t lane_bytes_;
  std::vector<Lane> lanes_;
  std::function<void(const Segment&)> notify_;
  std::function<Status(Offset)> reach_;
  std::atomic<std::uint64_t> parked_bytes_{0};
  std::atomic<std::uint64_t> checkpoints_{0};
  std::uint64_t first_seq_ = 1;
  Fault fault_ = Fault::kNone;
};

}  // namespace btd
