#include "alloc/heap.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "alloc/crc.h"
#include "alloc/recoverable.h"
#include "alloc/tx_context.h"

namespace btd {
namespace {

constexpr std::uint64_t kMaxLimboBytes = 8 * 1024 * 1024;
// Wholly free segments that each class keeps; who runs out of memory takes them.
constexpr std::uint64_t kMaxEmpty = 32;

Status check_options(const ArenaSource& source, const Heap::Options& options,
                     const SegmentTable::Geometry& plan) {
  if (options.lanes == 0 || options.lanes > kMaxLanes || options.lane_bytes < 4 * kPageBytes ||
      options.lane_bytes % kPageBytes != 0 || options.lane_bytes > (1U << 30)) {
    return fail(EINVAL, "A heap has 1 to 62 lanes of 16 KiB to 1 GiB, in whole pages.");
  }
  if (source.arena_bytes() % kSegmentBytes != 0 || source.arena_bytes() > kMaxHeapBytes) {
    return fail(EINVAL, "An arena is a multiple of 64 KiB, of at most 256 TiB.");
  }
  if (plan.segment_count > 0) return {};
  return fail(ENOSPC, "An arena of " + std::to_string(source.arena_bytes()) +
                          " bytes cannot hold " + std::to_string(options.lanes) + " lanes of " +
                          std::to_string(options.lane_bytes) +
                          " bytes; use larger arenas or fewer, smaller lanes.");
}

}  // namespace

// 24 bits that differ between two boots of a machine; 0 where there is no boot id.
std::uint32_t Heap::this_boot() {
  std::array<char, 64> id{};
  const int fd = ::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  const ssize_t len = ::read(fd, id.data(), id.size());
  ::close(fd);
  return len <= 0 ? 0 : crc32c(id.data(), static_cast<std::size_t>(len)) & 0xFFFFFFU;
}

Heap::Heap(ArenaSource& source)
    : source_(source),
      persist_(source.persist()),
      base_(source.base()),
      locks_{source.users(), [this](unsigned user) { static_cast<void>(bury(user)); }},
      // What the dead had begun to bury, who comes next buries anew.
      burial_context_{source.users(),
                      [this](unsigned user) { SharedLock::release_of(shared().burial, user); }},
      table_(source),
      recoverable_(std::make_shared<Recoverable>(*this)) {}

Heap::~Heap() { recoverable_->detach(); }

ArenaHeader* Heap::header(std::uint32_t index) const {
  return reinterpret_cast<ArenaHeader*>(base_ + index * source_.arena_bytes());
}

// Zeroes the table of an arena of whose bytes `used` were there before; behind them all is zero.
void Heap::clear_table(std::uint32_t index, const SegmentTable::Geometry& plan,
                       std::uint64_t used) {
  const std::uint64_t end = plan.table_offset + plan.segment_count * sizeof(SegmentHeader);
  if (used <= plan.table_offset) return;
  const std::vector<std::byte> zero(std::min(used, end) - plan.table_offset);
  persist_.copy_nodrain(base_ + index * source_.arena_bytes() + plan.table_offset, zero.data(),
                        zero.size());
}

// Writes the header of arena `index`, whose table is zero. `model` gives what all arenas share.
void Heap::write_identity(std::uint32_t index, const ArenaIdentity& model) {
  const bool first = index == 0;
  const SegmentTable::Geometry plan = SegmentTable::plan(
      source_.arena_bytes(),
      sizeof(ArenaHeader) +
          (first ? Journal::media_bytes({.lanes = model.lanes, .lane_bytes = model.lane_bytes})
                 : 0));
  const ArenaIdentity bare{.magic = persistent(kArenaMagic),
                           .version = persistent(kFormatVersion),
                           .arena_index = persistent(index),
                           .heap_uuid = model.heap_uuid,
                           .arena_bytes = persistent(source_.arena_bytes()),
                           .journal_offset = persistent(first ? sizeof(ArenaHeader) : 0),
                           .table_offset = persistent(plan.table_offset),
                           .segments_offset = persistent(plan.segments_offset),
                           .segment_count = persistent(plan.segment_count),
                           .lanes = model.lanes,
                           .lane_bytes = model.lane_bytes,
                           .window_gib = model.window_gib,
                           .crc = {}};
  const std::uint32_t crc = crc32c(&bare, offsetof(ArenaIdentity, crc));
  persist_.copy_nodrain(header(index), &bare, sizeof(bare));
  persist_.store(header(index)->grown, checked_word(0));
  persist_.store(header(index)->identity.crc, crc);
}

Result<std::unique_ptr<Heap>> Heap::format(ArenaSource& source, const Options& options) {
  if (source.count() == 0) BTD_TRY(source.extend());
  const Journal::Geometry lanes{.lanes = options.lanes, .lane_bytes = options.lane_bytes};
  const SegmentTable::Geometry plan =
      SegmentTable::plan(source.arena_bytes(), sizeof(ArenaHeader) + Journal::media_bytes(lanes));
  BTD_TRY(check_options(source, options, plan));
  std::unique_ptr<Heap> heap(new Heap(source));
  Persist& persist = source.persist();
  ArenaHeader* const header = heap->header();
  const std::uint64_t used = source.used_bytes(0);
  BTD_TRY(source.reserve_space(0, plan.table_offset));
  // First the old heap, if any, stops being one; last the new one begins to be.
  persist.store(header->identity.magic, std::uint64_t{0});
  if (!persist.drain()) return std::unexpected(persist.health().error());
  if (used != 0) {
    const std::vector<std::byte> zero(sizeof(ArenaHeader));
    persist.copy_nodrain(header, zero.data(), sizeof(ArenaHeader));
    heap->clear_table(0, plan, used);
  }
  Journal::format(persist, source.base() + sizeof(ArenaHeader), lanes);
  persist.store(header->state, checked_word(HeapState{.clean = true}.pack()));
  persist.store(header->arena_count, checked_word(1));
  if (!persist.drain()) return std::unexpected(persist.health().error());
  std::array<std::uint8_t, 16> uuid{};
  if (getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    return fail(EIO, "The system gave no random bytes for the heap's identity; try again.");
  }
  if (!source.users().own(0)) return fail(EBUSY, "The heap is in use elsewhere.");
  heap->write_identity(0, ArenaIdentity{.heap_uuid = persistent(uuid),
                                        .lanes = persistent(options.lanes),
                                        .lane_bytes = persistent(options.lane_bytes),
                                        .window_gib = persistent(options.window_gib)});
  if (!persist.drain()) return std::unexpected(persist.health().error());
  heap.reset();
  return open(source);
}

Status Heap::check_identity(const ArenaSource& source, const ArenaIdentity& identity,
                            std::uint32_t index) {
  const std::string arena = "Arena " + std::to_string(index);
  if (identity.magic != kArenaMagic) {
    return fail(index == 0 ? EINVAL : EUCLEAN,
                arena + " holds no heap; format it first, or name the right pool.");
  }
  if (identity.version != kFormatVersion) {
    return fail(EINVAL, arena + " has format version " + std::to_string(identity.version) +
                            " but this program reads version " + std::to_string(kFormatVersion) +
                            "; use the program that made it.");
  }
  if (identity.crc != crc32c(&identity, offsetof(ArenaIdentity, crc))) {
    return fail(EUCLEAN, arena + " has a damaged header; restore the heap from a backup.");
  }
  if (identity.arena_bytes != source.arena_bytes() || identity.arena_index != index) {
    return fail(EUCLEAN, arena + " is arena " + std::to_string(identity.arena_index) + " of " +
                             std::to_string(identity.arena_bytes) + " bytes but should be of " +
                             std::to_string(source.arena_bytes()) +
                             " bytes; it was truncated or moved: put the right file in its place.");
  }
  const Journal::Geometry lanes{.lanes = identity.lanes, .lane_bytes = identity.lane_bytes};
  const SegmentTable::Geometry plan = SegmentTable::plan(
      source.arena_bytes(), sizeof(ArenaHeader) + (index == 0 ? Journal::media_bytes(lanes) : 0));
  if (identity.table_offset != plan.table_offset ||
      identity.segments_offset != plan.segments_offset ||
      identity.segment_count != plan.segment_count || plan.segment_count == 0) {
    return fail(EUCLEAN, arena + " has an impossible layout; restore the heap from a backup.");
  }
  return {};
}

// What is read before anything says how large the arena is.
Status Heap::check_present(ArenaSource& source, std::uint32_t index, std::uint64_t bytes) {
  const std::uint64_t there = source.used_bytes(index);
  if (there >= bytes) return {};
  return fail(EUCLEAN, "Arena " + std::to_string(index) + " has " + std::to_string(there) +
                           " bytes instead of " + std::to_string(bytes) +
                           " or more; it was truncated: restore it.");
}

Result<std::uint32_t> Heap::check_arenas(HeapState& last) const {
  const ArenaHeader& first = *header();
  const std::optional<std::uint64_t> arenas = checked_value(first.arena_count);
  const std::optional<std::uint64_t> state = checked_value(first.state);
  if (!arenas || !state || *arenas == 0 || *arenas > SegmentTable::kMaxArenas) {
    return fail(EUCLEAN, "The heap's state is damaged; restore it from a backup.");
  }
  if (*arenas > source_.count()) {
    return fail(EUCLEAN, "The heap has " + std::to_string(*arenas) + " arenas but only " +
                             std::to_string(source_.count()) +
                             " are there; put the missing files back.");
  }
  const auto count = static_cast<std::uint32_t>(*arenas);
  for (std::uint32_t i = 1; i < count; ++i) {
    BTD_TRY(source_.reach(i));
    BTD_TRY(check_present(source_, i, sizeof(ArenaHeader)));
    BTD_TRY(check_identity(source_, header(i)->identity, i));
    const std::array<std::uint8_t, 16> mine = header(i)->identity.heap_uuid;
    const std::array<std::uint8_t, 16> other = first.identity.heap_uuid;
    if (mine == other) continue;
    return fail(EUCLEAN, "Arena " + std::to_string(i) + " belongs to another heap.");
  }
  last = HeapState::unpack(*state);
  return count;
}

Result<std::unique_ptr<Heap>> Heap::open(ArenaSource& source, Own own) {
  if (source.count() == 0) return fail(EINVAL, "There is no arena; format a heap first.");
  std::unique_ptr<Heap> heap(new Heap(source));
  const ArenaIdentity& first = heap->header()->identity;
  BTD_TRY(check_present(source, 0, sizeof(ArenaHeader)));
  BTD_TRY(check_identity(source, first, 0));
  BTD_TRY(check_present(source, 0, first.table_offset));
  HeapState last;
  BTD_ASSIGN(const std::uint32_t arenas, heap->check_arenas(last));
  heap->table_.set_geometry({.table_offset = first.table_offset,
                             .segments_offset = first.segments_offset,
                             .segment_count = first.segment_count},
                            SegmentTable::plan(source.arena_bytes(), sizeof(ArenaHeader)));
  heap->was_clean_ = last.clean;
  const bool alone = source.users().alone();
  Status opened = alone ? heap->open_alone(arenas, last, own) : heap->join(last);
  if (opened) return heap;
  if (alone) heap->shared().users = 0;  // who comes now finds nobody to join
  return std::unexpected(std::move(opened).error());
}

Status Heap::open_journal() {
  BTD_ASSIGN(journal_,
             Journal::open(persist_, base_, header()->identity.journal_offset, shared(), locks_));
  journal_->on_foreign([this](const Segment& segment) { table_.flag(segment); });
  if (source_.by_pages_of_nodes()) {
    journal_->set_reach([this](Offset at) {
      return source_.reach(static_cast<std::uint32_t>(at / source_.arena_bytes()));
    });
  }
  return {};
}

Status Heap::open_alone(std::uint32_t arenas, HeapState last, Own own) {
  reset_shared(arenas);
  BTD_TRY(open_journal());
  BTD_ASSIGN(recovery_, journal_->recover(arenas * source_.arena_bytes()));
  // An unclean one is marked whole.
  const bool few = last.clean && own == Own::kFew;
  std::uint32_t first = 0;
  while (few && first < arenas && !source_.near(first)) ++first;
  const std::uint32_t end = few ? std::min(first + 1, arenas) : arenas;
  for (std::uint32_t i = first; i < end; ++i) {
    if (!source_.users().own(i)) return fail(EBUSY, "An arena of the heap is in use elsewhere.");
    BTD_TRY(attach(i, last.clean));
  }
  generation_ = last.generation + 1;
  shared().users = self_bit();
  shared().durable = durable();
  shared().recovering = recoverable_->needs_recovery() ? 1 : 0;
  BTD_TRY(mark_state(false));
  // None is near: who comes first adds one, or takes what there is.
  if (table_.own_arenas().empty()) BTD_TRY(settle());
  return finish_copy();
}

Status Heap::attach(std::uint32_t index, bool clean) {
  std::vector<Segment*> found;
  BTD_TRY(table_.attach(index, clean, found));
  for (Segment* segment : found) {
    if (segment->recoverable()) {
      recoverable_->adopt(*segment);
      continue;
    }
    if (!clean) old_blocks_.push_back(segment);
    if (segment->large() || segment->free_slots == 0) continue;
    Bin& bin = bins_.at(segment->word.size_class);
    const std::lock_guard lock(bin.mutex);
    list(bin, segment);
  }
  limbo_limit_ = std::min(kMaxLimboBytes, table_.capacity() * kSegmentBytes / 8);
  empty_limit_ = std::min(kMaxEmpty, table_.capacity() / 64);
  return {};
}

// What users share, as the only one finds it: whatever lies there is of users that are gone.
void Heap::reset_shared(std::uint32_t arenas) {
  header()->heap = HeapShared{};
  for (std::uint32_t i = 0; i < arenas; ++i) header(i)->shared = ArenaShared{};
}

Status Heap::mark_state(bool clean) {
  const HeapState state{.boot = this_boot(), .generation = generation_, .clean = clean};
  persist_.store(header()->state, checked_word(state.pack()));
  return persist_.drain() ? Status{} : persist_.health();
}

Status Heap::checkpoint() { return checkpoint_and({}); }

Status Heap::checkpoint_and(const std::function<Status()>& at_home) {
  const std::lock_guard one(checkpoint_mutex_);
  std::vector<Slot> ripe;
  const auto all_home = [&]() -> Status {
    BTD_TRY(take_ripe_of_others(ripe));
    return at_home ? at_home() : Status{};
  };
  BTD_TRY(journal_->checkpoint(ripe, all_home));
  return return_slots(ripe);
}

Status Heap::reach(Offset off, std::size_t len) const {
  const Offset last = off + std::max<std::size_t>(len, 1) - 1;
  for (std::uint64_t i = off / source_.arena_bytes(); i <= last / source_.arena_bytes(); ++i) {
    BTD_TRY(source_.reach(static_cast<std::uint32_t>(i)));
  }
  return {};
}

Offset Heap::root(unsigned slot) const {
  if (slot >= kRootSlots) return 0;
  // Another thread's commit may set it now.
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(&header()->roots[slot]),
                         __ATOMIC_ACQUIRE);
}

Tx Heap::begin() { return Tx(*this, take_context()); }

Result<std::uint64_t> Heap::block_bytes(Offset block) const {
  const Slot slot = table_.find(block);
  if (slot.segment != nullptr && slot.offset() == block && slot.segment->is_allocated(slot.index)) {
    return slot.bytes();
  }
  return fail(EINVAL, "No allocated block starts at " + std::to_string(block) + ".");
}

std::uint64_t Heap::used_bytes() const {
  std::uint64_t bytes = 0;
  table_.for_all([&](const Segment& segment) { bytes += segment.used_bytes(); });
  return bytes;
}

Heap::Stats Heap::stats() const {
  return {.arenas = table_.arenas(),
          .total_bytes = table_.total_segments() * kSegmentBytes,
          .used_bytes = used_bytes(),
          .free_segment_bytes = table_.free_segments() * kSegmentBytes,
          .limbo_bytes = journal_->parked_bytes(),
          .commits = journal_->commits(),
          .checkpoints = journal_->checkpoints(),
          .recovery = recovery_,
          .marked = {.objects = marked_objects_.load(), .bytes = marked_bytes_.load()},
          .reclaimed_bytes = reclaimed_bytes_.load(),
          .generation = generation_,
          .was_clean = was_clean_};
}

std::unique_ptr<TxContext> Heap::take_context() {
  {
    const std::lock_guard lock(contexts_mutex_);
    if (!contexts_.empty()) {
      std::unique_ptr<TxContext> context = std::move(contexts_.back());
      contexts_.pop_back();
      return context;
    }
  }
  auto context = std::make_unique<TxContext>();
  context->clear();
  return context;
}

void Heap::return_context(std::unique_ptr<TxContext> context) {
  context->clear();
  const std::lock_guard lock(contexts_mutex_);
  contexts_.push_back(std::move(context));
}

}  // namespace btd
