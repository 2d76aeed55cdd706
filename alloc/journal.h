// Journal: lanes of self-certifying redo records; the one place where a change becomes atomic.
//
// A transaction is one record. commit() writes it to a lane and fences once: that is the commit
// point. Then it applies the record to the home locations with plain stores and flushes nothing.
// checkpoint() flushes the homes of all records since the last one, fences, and raises the
// watermark W: "every record up to W is home". recover() replays the records above W in sequence
// order.
//
// ASSUMPTIONS
// - Between two transactions that touch the same word, other than by or64/and64 of different bits,
// the
//   caller holds a lock from before the first one's commit() until it returned.
// - Content that a record refers to but does not carry was fenced before commit(): a record may
// reach
//   NVRAM by eviction before its fence.
// LOCK ORDER: checkpoint lock, then lanes by index. No lock is held while the caller's code runs.
// Thread-safety: commit and checkpoint from any thread; recover before any other use.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "alloc/layout.h"
#include "alloc/persist.h"
#include "alloc/result.h"

namespace btd {

// A transaction being assembled in DRAM. Reusable; clear() keeps the memory.
class Record {
 public:
  void clear();
  void bytes(Offset home, const void* data, std::size_t len);
  void set64(Offset home, std::uint64_t value) { word(EntryKind::kSet64, home, value); }
  void or64(Offset home, std::uint64_t mask) { word(EntryKind::kOr64, home, mask); }
  void and64(Offset home, std::uint64_t mask) { word(EntryKind::kAnd64, home, mask); }

  [[nodiscard]] bool empty() const { return entries_ == 0; }
  // What the record takes in a lane, with its header and padding.
  [[nodiscard]] std::size_t lane_bytes() const;

 private:
  friend class Journal;
  void word(EntryKind kind, Offset home, std::uint64_t value);
  std::span<const std::byte> seal(std::uint64_t seq);

  std::vector<std::uint64_t> words_;  // header, entries; padded to a line by seal()
  std::uint32_t entries_ = 0;
};

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
  };

  // Media bytes that a journal of this geometry takes.
  [[nodiscard]] static constexpr std::uint64_t media_bytes(const Geometry& geometry) {
    return sizeof(JournalHeader) + geometry.lanes * geometry.lane_bytes;
  }
  // Writes an empty journal at `where`, in zero-filled memory. The caller fences.
  static void format(Persist& persist, std::byte* where, const Geometry& geometry);
  // Opens the journal at heap offset `where`. `protected_from..to` are the journal's own bytes and
  // identity, which no record may change. Errors: EUCLEAN the header is damaged.
  static Result<std::unique_ptr<Journal>> open(Persist& persist, std::byte* heap_base,
                                               Offset where);

  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  // Replays what is not home yet; `heap_bytes` bounds the homes. Idempotent. Errors: EUCLEAN.
  Result<Recovery> recover(std::uint64_t heap_bytes);

  // Makes the record durable and applies it; returns its sequence number.
  // Errors, nothing changed: E2BIG it does not fit a lane. EIO the medium failed: in doubt.
  Result<std::uint64_t> commit(Record& record);

  // Brings all records home and empties the lanes. Errors: EIO.
  Status checkpoint();

  [[nodiscard]] std::uint64_t watermark() const {
    return watermark_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t commits() const { return next_seq_.load() - first_seq_; }
  [[nodiscard]] std::uint64_t checkpoints() const { return checkpoints_.load(); }
  [[nodiscard]] std::uint64_t lane_bytes() const { return lane_bytes_; }
  void inject(Fault fault) { fault_ = fault; }
  [[nodiscard]] Fault fault() const { return fault_; }

 private:
  // The cache lines that a lane's records changed at home, each about once: a direct-mapped filter
  // forgets, never lies. So a checkpoint need not read back what was written past the cache.
  class HomeLines {
   public:
    void add(Offset from, std::uint64_t len) {
      const std::uint64_t last = (from + len - 1) / kLineBytes;
      for (std::uint64_t line = from / kLineBytes; line <= last; ++line) {
        std::uint64_t& seen = seen_[(line ^ (line >> 9)) % kSlots];
        if (seen == line) continue;
        seen = line;
        lines_.push_back(line);
      }
    }
    [[nodiscard]] const std::vector<std::uint64_t>& lines() const { return lines_; }
    void clear() {
      for (const std::uint64_t line : lines_) seen_[(line ^ (line >> 9)) % kSlots] = 0;
      lines_.clear();
    }

   private:
    static constexpr std::size_t kSlots = 512;
    std::array<std::uint64_t, kSlots> seen_{};  // line 0 is the heap's identity: never a home
    std::vector<std::uint64_t> lines_;          // bounded by what a lane holds
  };
  struct alignas(2 * kLineBytes) Lane {
    std::mutex mutex;  // held from before the sequence number is taken until the record is applied
    std::byte* base = nullptr;
    std::uint64_t tail = 0;
    HomeLines homes;
  };
  struct Found {
    const RecordHeader* header;
    const std::byte* at;
  };

  Journal(Persist& persist, std::byte* heap_base, Offset where, const Geometry& geometry);
  std::unique_lock<std::mutex> take_lane(Lane*& lane);
  [[nodiscard]] std::optional<RecordHeader> valid_record(const Lane& lane, std::uint64_t at,
                                                         std::uint64_t above) const;
  Status walk_lane(const Lane& lane, std::uint64_t above, std::vector<Found>& found) const;
  Status check_entries(const Found& record, std::uint64_t heap_bytes) const;
  void apply(const std::byte* record, HomeLines* homes);
  void flush_homes();
  Status raise_watermark(std::uint64_t seq);

  Persist& persist_;
  std::byte* const heap_base_;
  const Offset where_;
  JournalHeader* const header_;
  const std::uint64_t lane_bytes_;
  std::vector<Lane> lanes_;
  std::mutex checkpoint_mutex_;
  std::atomic<std::uint64_t> next_seq_{1};
  std::atomic<std::uint64_t> watermark_{0};
  std::atomic<std::uint64_t> checkpoints_{0};
  std::uint64_t first_seq_ = 1;
  Fault fault_ = Fault::kNone;
};

}  // namespace btd
