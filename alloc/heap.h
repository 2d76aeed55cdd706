// Heap: failure-atomic memory over the arenas of one ArenaSource.
//
// One engine, three contracts: T transactions (class Tx), P published operations and R recoverable
// allocation. T and P allocation bits live on NVRAM and change through the journal. DRAM is
// authoritative for what is free; no link is ever stored inside a free block.
// LOCK ORDER: a bin, then the segment table; the journal's locks are taken with none held.
// Thread-safety: any number of threads; one Tx belongs to one thread. The source must outlive the
// heap, and the heap its transactions.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/journal.h"
#include "alloc/layout.h"
#include "alloc/marking.h"
#include "alloc/result.h"
#include "alloc/segment_table.h"

namespace btd {

class Heap;
class Recoverable;
struct TxContext;

// A redo transaction (contract T). Destroying it without commit() aborts it.
class Tx {
 public:
  Tx(Tx&& other) noexcept;
  Tx& operator=(Tx&&) = delete;
  Tx(const Tx&) = delete;
  Tx& operator=(const Tx&) = delete;
  ~Tx();

  // A block of at least `bytes`; its contents are undefined until edited. Errors: ENOSPC, EINVAL.
  Result<Offset> alloc(std::size_t bytes);
  // Takes effect at commit. Errors: EINVAL for what is not the start of an allocated block.
  Status free(Offset block);
  // A private copy of [off, off + len) that becomes durable at commit. Asking again for the same
  // offset returns the same copy. In a block of this transaction's own it starts as zeros. `off` is
  // a multiple of 8, the range lies in one block, and ranges do not overlap. Errors: EINVAL.
  Result<std::byte*> edit(Offset off, std::size_t len);
  // The private copy that starts at `off`, if there is one, else the committed bytes.
  [[nodiscard]] const std::byte* view(Offset off) const;
  // Copies [off, off + len) as it would be after a commit now: with every edit and set in it. Looks
  // at every change of the transaction.
  void read(Offset off, std::byte* to, std::size_t len) const;
  // Sets one aligned word of an allocated block. Errors: EINVAL.
  Status set(Offset word, std::uint64_t value);
  // Errors: EINVAL for a slot of 64 or more.
  Status set_root(unsigned slot, Offset value);
  // All or nothing; durable on return. One fence, or two where fresh blocks got more than
  // kInlineFreshBytes. The transaction is over whatever the result; on E2BIG nothing changed.
  Status commit();
  // What commit() would write to the lane now. Compares every edit: meant for once in a while.
  [[nodiscard]] std::size_t log_bytes() const;

  // Fresh contents up to this are logged; beyond it they are written home before the record, behind
  // a fence of their own: logging would cost more than a fence does.
  static constexpr std::size_t kInlineFreshBytes = 1024;

 private:
  friend class Heap;
  Tx(Heap& heap, std::unique_ptr<TxContext> context);
  void build_record(bool log_fresh);
  [[nodiscard]] std::size_t fresh_bytes() const;
  Status check_overlaps();
  void absorb_sets(Offset off, std::size_t len, std::byte* copy);
  void drop_edits(const Slot& slot);
  void abort();
  void finish(std::uint64_t seq);

  Heap* heap_;
  std::unique_ptr<TxContext> context_;  // null: over
};

class Heap {
 public:
  struct Options {
    std::uint32_t lanes = 16;
    std::uint64_t lane_bytes = 256 * 1024;
    std::uint32_t window_gib = 0;  // where users must map it, in GiB; 0: anywhere
  };
  struct Stats {
    std::uint32_t arenas = 0;
    std::uint64_t total_bytes = 0;  // of segments
    std::uint64_t used_bytes = 0;   // of allocated blocks, with rounding to their class
    std::uint64_t free_segment_bytes = 0;
    std::uint64_t limbo_bytes = 0;      // freed, not reusable before the next checkpoint
    std::uint64_t commits = 0;          // since open
    std::uint64_t checkpoints = 0;      // since open
    Journal::Recovery recovery;         // what open replayed
    Marking::Found marked;              // by the last recovery
    std::uint64_t reclaimed_bytes = 0;  // by recoveries since open
    std::uint32_t generation = 0;       // opens of the heap
    bool was_clean = false;             // the last user closed the heap
  };

  // Makes an empty heap in the source's first arena (added if there is none), whatever it held.
  // Errors: EINVAL the geometry is impossible; ENOSPC the arena cannot hold the lanes.
  static Result<std::unique_ptr<Heap>> format(ArenaSource& source, const Options& options);
  // Alone: replays the journal, reads the segment table. Beside others: takes an arena of its own.
  // The caller holds the door, of this and of format(). Errors: EINVAL not a heap, or another
  // version; EUCLEAN damaged: nothing was changed but by the replay; EAGAIN another user has yet to
  // recover what is from before an unclean stop; ENOSPC no arena is left.
  // kFew: of a clean heap only what is needed at first, so that other users find arenas too.
  enum class Own : std::uint8_t { kAll, kFew };
  static Result<std::unique_ptr<Heap>> open(ArenaSource& source, Own own = Own::kAll);
  // Without close() the next open finds the heap unclean, as after a crash.
  ~Heap();
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // The last user brings all records home and marks the heap clean; another leaves its arenas to
  // others. No transaction may be open. Errors: EIO, ETIMEDOUT.
  Status close();

  [[nodiscard]] const std::byte* at(Offset off) const { return base_ + off; }
  // Whether [off, off + len) lies in the heap's arenas, so that at() may be read there.
  [[nodiscard]] bool contains(Offset off, std::size_t len) const {
    const std::uint64_t bytes = std::uint64_t{table_.arenas()} * source_.arena_bytes();
    return len <= bytes && off <= bytes - len && (source_.all_reached() || reach(off, len));
  }
  // Has the memory of [off, off + len) there, whichever user added it. Errors: why it is not.
  Status reach(Offset off, std::size_t len) const;
  Status reach_all() const { return reach(0, arenas() * source_.arena_bytes()); }
  [[nodiscard]] Offset root(unsigned slot) const;
  [[nodiscard]] Tx begin();
  // Bytes of the block that starts at `block`; EINVAL if there is none.
  Result<std::uint64_t> block_bytes(Offset block) const;
  // The allocated block that holds byte `at`; a null segment if there is none.
  [[nodiscard]] Slot block_of(Offset at) const;
  // The slot that holds byte `at`, allocated or not; a null segment if there is none.
  [[nodiscard]] Slot slot_of(Offset at) const { return table_.find(at); }
  // Brings all records home, so that freed blocks may be reused. Errors: EIO.
  Status checkpoint();

  // What a pointer in the heap is: the offset of its target plus `bias`; 0, the default, or the
  // address of offset 0. Set once, before use.
  void set_pointer_bias(std::uint64_t bias) { bias_ = bias; }

  // --- Contract P: each call is durable when it returns; one record, one fence. `dest` is a word
  // of an allocated block, or root_word(slot). Of two calls on one word the caller lets one go
  // first.
  [[nodiscard]] static Offset root_word(unsigned slot) {
    return offsetof(ArenaHeader, roots) + slot * sizeof(std::uint64_t);
  }
  // Allocates a block and stores a pointer to it in *dest. Errors: ENOSPC, EINVAL.
  Result<Offset> allocate_to(Offset dest, std::size_t bytes);
  // Frees the block that *dest points to and sets *dest to 0. Errors: EINVAL.
  Status free_from(Offset dest);
  // A block that is nobody's until published; a crash gives it back. Fill it through data() and
  // persist that before publish(), which may take effect before its own fence.
  Result<Offset> reserve(std::size_t bytes);
  Status cancel(Offset reserved);  // Errors: EINVAL it is not reserved.
  struct Action {
    enum class Kind : std::uint8_t { kSet, kAllocate, kFree };
    Kind kind;
    Offset at;                // a word to set, a reserved block, a block to free
    std::uint64_t value = 0;  // kSet
  };
  // All of the actions or none. On E2BIG and EINVAL nothing changed and reservations stay.
  Status publish(std::span<const Action> actions);
  // Copies into an allocated block, all or nothing, of any length. Up to half a lane: one record.
  // Longer: by way of a shadow block that is published first; six fences, and n bytes of free
  // memory.
  Status copy(Offset to, const void* from, std::size_t len);
  // The home location, to be stored to by who owns the block.
  [[nodiscard]] std::byte* data(Offset off) { return base_ + off; }

  // --- Contract R: nothing is persisted per call. After an unclean stop old objects stay as they
  // are until one of the recover calls has returned: they may be neither freed nor reached, for
  // what a program moves meanwhile could be missed. allocate() works at once, from fresh segments.
  Result<Offset> allocate(std::size_t bytes, std::uint8_t type = kTypeUntyped);  // ENOSPC, EINVAL
  Status release(Offset block);                                                  // EINVAL, EBUSY
  // Inline, for who allocates millions: see alloc/recoverable.h.
  [[nodiscard]] Recoverable& recoverable() { return *recoverable_; }
  class Marker {
   public:
    // Marks the recoverable object that holds `at`. True if it was not marked before: then visit
    // what it points to. False also for what is no object in need of recovery.
    bool mark(Offset at);

   private:
    friend class Heap;
    explicit Marker(const SegmentTable& table) : table_(table) {}
    const SegmentTable& table_;
  };
  // Keeps the old objects that `visit` marks, reclaims the others.
  Status recover(const std::function<void(Marker&)>& visit);
  // Keeps what the roots of `options`, the root slots and all transactional blocks reach.
  Status recover(const Marking::Options& options);
  [[nodiscard]] bool needs_recovery() const;  // has recoverable objects of an unclean stop
  // Makes all recoverable objects old ones, to be recovered. No other call until that is done, and
  // no user comes. Errors: EBUSY there are other users.
  Status collect();

  // --- Several users of one heap.
  [[nodiscard]] std::uint32_t arenas() const { return table_.arenas(); }
  [[nodiscard]] bool owns_arena(std::uint32_t arena) const { return table_.owns(arena); }
  // How far an arena that there is, of whomever, has memory.
  [[nodiscard]] std::uint64_t memory_of(std::uint32_t arena) const {
    return table_.geometry(arena).segments_offset + table_.grown(arena) * kSegmentBytes;
  }
  // The lock of what libbtd keeps in the heap. Errors: ETIMEDOUT.
  Result<SharedHold> lock_names() {
    return SharedHold::take(shared().names, locks_, "the names of the heap");
  }
  // Whether this process alone has the heap, as far as can be seen without the door.
  [[nodiscard]] bool alone() { return source_.users().alone(); }

  // Across a fork, of a heap that only contract R uses: in between nobody changes what threads
  // share, so that a child inherits it whole. What other threads' caches held is lost to the child,
  // and nothing else.
  void pause();
  void resume();

  // Calls visit(slot) for each allocated block, of this user by address, then those of others. No
  // other call meanwhile.
  void for_each_block(const std::function<void(const Slot&)>& visit) const;

  // Compares what NVRAM says of segments and blocks with what DRAM knows, and verifies headers.
  // Calls report with a sentence for each contradiction. No other call meanwhile.
  void check(const std::function<void(const std::string&)>& report) const;

  [[nodiscard]] std::uint64_t arena_bytes() const { return source_.arena_bytes(); }
  // What HeapState::boot is on this machine since it started.
  [[nodiscard]] static std::uint32_t this_boot();

  [[nodiscard]] Stats stats() const;
  [[nodiscard]] Persist& persist() { return persist_; }
  void inject(Journal::Fault fault) { journal_->inject(fault); }

 private:
  friend class Tx;
  friend class Recoverable;

  // Transactional segments of one class.
  struct alignas(2 * kLineBytes) Bin {
    std::mutex mutex;
    std::vector<Segment*> partial;  // with available slots; the last one is used next
    std::size_t empty = 0;          // of these, wholly free
  };
  explicit Heap(ArenaSource& source);
  void check_arena(std::uint32_t index,
                   const std::function<void(const std::string&)>& report) const;
  static Status check_identity(const ArenaSource& source, const ArenaIdentity& identity,
                               std::uint32_t index);
  static Status check_present(ArenaSource& source, std::uint32_t index, std::uint64_t bytes);
  void clear_table(std::uint32_t index, const SegmentTable::Geometry& plan, std::uint64_t used);
  void write_identity(std::uint32_t index, const ArenaIdentity& model);
  Status attach(std::uint32_t index, bool clean);
  Status open_journal();
  Status open_alone(std::uint32_t arenas, HeapState last, Own own);
  Status join(HeapState last);
  Status make_arena(std::uint32_t index, bool is_full);
  Status format_arena(std::uint32_t index);
  Status take_arena(bool is_full);
  // Whose arenas: those as near as a new one would be, or all.
  enum class Where : std::uint8_t { kNear, kAnywhere };
  Result<bool> take_orphan(Where where);
  Result<bool> adopt_orphan(Where where);
  Status settle();
  Status adopt_all();
  Status bury_the_dead();
  // False: it could not be done now.
  bool bury(unsigned user);
  void finish_for(unsigned user);
  [[nodiscard]] bool somebody_there() const;
  Status leave();
  Status write_what_is_known();
  [[nodiscard]] std::uint64_t self_bit() const {
    return std::uint64_t{1} << source_.users().self();
  }
  // What HeapShared::durable says of this user.
  [[nodiscard]] std::uint32_t durable() const {
    return persist_.domain() == Domain::kProcess ? 0 : 1;
  }
  // Whether others used the heap since it was opened alone, or may still do.
  [[nodiscard]] bool several() const { return shared().users.load() != self_bit(); }
  // Whether there is something for return_freed().
  [[nodiscard]] bool others_freed() const;
  // Takes back what others freed in this user's arenas. Errors: EIO, ETIMEDOUT.
  Status return_freed();
  Status take_ripe_of_others(std::vector<Slot>& ripe);
  Status checkpoint_and(const std::function<Status()>& at_home);
  Status mark_state(bool clean);
  void reset_shared(std::uint32_t arenas);
  // The checked number of arenas. Errors: EUCLEAN.
  Result<std::uint32_t> check_arenas(HeapState& last) const;
  [[nodiscard]] ArenaHeader* header(std::uint32_t index = 0) const;
  [[nodiscard]] HeapShared& shared() const { return header()->heap; }
  [[nodiscard]] std::uint64_t used_bytes() const;

  Status sweep();
  Status finish_copy();
  Status copy_by_shadow(Offset to, const void* from, std::size_t len);
  Result<Segment*> check_word(Offset word) const;
  void log_allocation(Record& record, const Slot& slot) const;
  Result<Slot> reserve_slot(std::size_t bytes);
  Result<Slot> reserve_small(std::uint8_t size_class);
  Result<Slot> reserve_large(std::uint64_t span);
  Status grow(Bin& bin, std::uint8_t size_class);
  Status make_room(std::uint64_t span);
  Status spill(const Error& full);
  void cancel(const Slot& slot);
  void log_large_header(Record& record, const Segment& segment) const;
  Result<Slot> begin_free(Offset block);
  // Commits the record; the slots that it frees wait for the watermark.
  Result<std::uint64_t> commit(Record& record, std::span<const Slot> freed = {});
  // The same for a slot of contract R into which the record `seq` writes.
  Status park(const Slot& slot);
  // After a record that writes into `segments`, of contract R.
  void note_logged(std::span<Segment* const> segments, std::uint64_t seq);
  void relieve();
  Status return_slots(std::vector<Slot>& slots);
  Status trim();
  static void list(Bin& bin, Segment* segment);
  static void unlist(Bin& bin, Segment* segment);
  static Slot take_from(Bin& bin);
  static void return_to(Bin& bin, const Slot& slot);

  std::unique_ptr<TxContext> take_context();
  void return_context(std::unique_ptr<TxContext> context);

  ArenaSource& source_;
  std::uint64_t bias_ = 0;
  Persist& persist_;
  std::byte* const base_;
  // What is done when a lock's holder is found dead.
  const SharedLock::Context locks_;
  const SharedLock::Context burial_context_;
  SegmentTable table_;
  std::unique_ptr<Journal> journal_;
  std::array<Bin, kClasses> bins_;
  std::mutex room_mutex_;  // one thread at a time makes room
  // With more bytes that wait for the watermark a commit runs a checkpoint.
  std::atomic<std::uint64_t> limbo_limit_{0};
  std::atomic<std::uint64_t> empty_limit_{0};  // wholly free segments that a bin keeps
  std::mutex contexts_mutex_;
  std::vector<std::unique_ptr<TxContext>> contexts_;
  std::mutex checkpoint_mutex_;  // until what became ripe is returned
  std::mutex flagged_mutex_;
  std::vector<Segment*> flagged_;  // of T and P, in which others freed
  std::atomic<bool> has_flagged_{false};
  std::shared_ptr<Recoverable> recoverable_;  // shared with the caches of its threads
  Journal::Recovery recovery_;
  std::vector<const Segment*> old_blocks_;  // transactional, that open found unclean
  std::atomic<std::uint64_t> marked_objects_{0};
  std::atomic<std::uint64_t> marked_bytes_{0};
  std::atomic<std::uint64_t> reclaimed_bytes_{0};
  bool was_clean_ = false;
  std::uint32_t generation_ = 0;
};

}  // namespace btd
