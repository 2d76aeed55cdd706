#include "alloc/segment_table.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "alloc/crc.h"

namespace btd {
namespace {

// What a table covers at most; with a pointer for each segment, 128 MiB of address space.
constexpr std::uint64_t kMaxTableBytes = std::uint64_t{1} << 40;

// How far an arena grows ahead of need, in segments.
constexpr std::uint64_t kGrowthShare = 128;
constexpr std::uint64_t kMinGrowth = 64;
constexpr std::uint64_t kMaxGrowth = 1024;

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

SegmentTable::Geometry SegmentTable::plan(std::uint64_t arena_bytes, std::uint64_t table_offset) {
  Geometry plan{.table_offset = table_offset};
  // The table shrinks as the segments do; start from the bound without it and come down.
  std::uint64_t count = arena_bytes / kSegmentBytes;
  while (count > 0) {
    plan.segments_offset = round_up(table_offset + count * sizeof(SegmentHeader), kSegmentBytes);
    if (plan.segments_offset + count * kSegmentBytes <= arena_bytes) break;
    const std::uint64_t over = plan.segments_offset + count * kSegmentBytes - arena_bytes;
    count -= std::min(count, std::max<std::uint64_t>(1, over / (kSegmentBytes + kLineBytes)));
  }
  plan.segment_count = static_cast<std::uint32_t>(count);
  return plan;
}

SegmentMap::SegmentMap(std::uint64_t segments, std::atomic<std::uint64_t>* where)
    : cells_(where), size_(segments), own_(where == nullptr) {
  if (!own_) return;
  void* at = mmap(nullptr, segments * sizeof(*cells_), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    size_ = 0;
  } else {
    cells_ = static_cast<std::atomic<std::uint64_t>*>(at);
  }
}

SegmentMap::~SegmentMap() {
  if (cells_ == nullptr) return;
  if (own_) {
    munmap(cells_, size_ * sizeof(*cells_));
  } else {
    madvise(cells_, size_ * sizeof(*cells_), MADV_DONTNEED);  // zero again
  }
}

SegmentTable::SegmentTable(ArenaSource& source)
    : source_(source),
      base_(source.base()),
      arena_bytes_(source.arena_bytes()),
      persist_(source.persist()),
      map_(std::min(kMaxArenas * source.arena_bytes(), kMaxTableBytes) / kSegmentBytes,
           source.cells()),
      backed_(map_.size()) {}

Status SegmentTable::attach(std::uint32_t index, bool clean, std::vector<Segment*>& found) {
  const Geometry& plan = geometry(index);
  if (!map_.usable() || !backed_.usable())
    return fail(ENOMEM, "There is no address space for the table of segments.");
  if ((index + 1) * arena_bytes_ > map_.size() * kSegmentBytes) {
    return fail(ENOSPC, "The heap has all arenas it may have.");
  }
  const std::optional<std::uint64_t> grown = checked_value(arena_header(index)->grown);
  if (!grown || *grown > plan.segment_count) {
    return fail(EUCLEAN, "Arena " + std::to_string(index) +
                             " has a damaged header; restore the heap from a backup.");
  }
  const std::uint64_t bytes =
      *grown == 0 ? sizeof(ArenaHeader) : plan.segments_offset + *grown * kSegmentBytes;
  if (source_.used_bytes(index) < bytes) {
    return fail(EUCLEAN, "Arena " + std::to_string(index) + " has " +
                             std::to_string(source_.used_bytes(index)) + " bytes instead of " +
                             std::to_string(bytes) + "; it was truncated: restore it.");
  }
  const auto count = static_cast<std::uint32_t>(*grown);
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<std::uint64_t, std::uint32_t>> runs;
  std::uint32_t free = 0;  // neighbouring free segments before i
  for (std::uint32_t i = 0; i < count;) {
    std::uint32_t used = 0;
    if (Status read = read_segment(index, i, clean, found, used); !read) {
      // As if nothing had been read: it may be tried again.
      for (Segment* segment : found) set_pointers(*segment, nullptr);
      found.clear();
      return read;
    }
    if (used != 0 && free != 0) runs.emplace_back(first_id(index) + i - free, free);
    free = used != 0 ? 0 : free + 1;
    i += std::max(used, 1U);
  }
  if (free != 0) runs.emplace_back(first_id(index) + count - free, free);
  for (const auto& [start, length] : runs) extents_.put(start, length);
  const std::uint32_t owned = own_count_.load();
  own_.at(owned) = index;
  own_count_.store(owned + 1, std::memory_order_release);
  map_of_own_.at(index).store(true);
  return {};
}

std::unexpected<Error> SegmentTable::damaged(std::uint32_t arena, std::uint32_t index,
                                             const char* what) {
  return fail(EUCLEAN, "The header of segment " + std::to_string(index) + " of arena " +
                           std::to_string(arena) + " is damaged (" + what +
                           "); run `btd check`, or restore the heap from a backup.");
}

SegmentTable::Decoded SegmentTable::decode(std::uint64_t word, std::uint64_t room) {
  const std::optional<std::uint64_t> bits = checked_value(word);
  if (!bits) return {.word = {}, .damage = "its checksum does not hold"};
  const SegmentWord said = SegmentWord::unpack(*bits);
  const bool small = said.kind == SegmentKind::kSmall;
  if ((!small && said.kind != SegmentKind::kLarge) || said.contract > Contract::kRecoverable)
    return {.word = said, .damage = "its kind is unknown"};
  const auto span_fits = [&] {
    if (said.span == 0 || said.span > room) return false;
    if (!small) return true;
    if (said.size_class >= kClasses) return false;
    return said.span == 1 || (said.contract == Contract::kRecoverable &&
                              said.span == kSizeClasses[said.size_class].span);
  };
  return {.word = said, .damage = span_fits() ? nullptr : "its size is out of range"};
}

// Sets `used` to the segments that the one at `index` takes; 0 when it is free.
Status SegmentTable::read_segment(std::uint32_t arena, std::uint32_t index, bool clean,
                                  std::vector<Segment*>& found, std::uint32_t& used) {
  const Offset at =
      arena * arena_bytes_ + geometry(arena).table_offset + index * sizeof(SegmentHeader);
  const auto* header = reinterpret_cast<const SegmentHeader*>(base_ + at);
  if (header->word == 0) return {};
  const Decoded decoded = decode(header->word, grown(arena) - index);
  if (decoded.damage != nullptr) return damaged(arena, index, decoded.damage);
  const SegmentWord& word = decoded.word;
  const bool small = word.kind == SegmentKind::kSmall;
  const bool recoverable = word.contract == Contract::kRecoverable;
  // A transactional large extent that was freed keeps its header: with the bit clear it means
  // nothing.
  if (!small && !recoverable && (header->live[0] & 1U) == 0) return {};
  Segment* segment = make(word, first_id(arena) + index);
  if (recoverable) {
    segment->uncounted = true;  // counted when it is first allocated from
    segment->dirty = !clean;
    segment->free_slots = 0;
  } else if (!load_bitmap(*segment)) {
    return damaged(arena, index, "its bitmap has slots that do not exist");
  }
  found.push_back(segment);
  used = word.span;
  return {};
}

// False if it has bits of slots that do not exist.
bool SegmentTable::load_bitmap(Segment& segment) const {
  segment.free_slots = 0;
  for (std::uint32_t i = 0; i < segment.words; ++i) {
    const std::uint64_t live = segment.load_live(i);
    if ((live & ~segment.existing(i)) != 0) return false;
    // A claim that no running process holds.
    if (segment.load_freed(i) != 0) {
      __atomic_store_n(segment.freed_at(i), 0, __ATOMIC_RELAXED);
      persist_.flush(segment.freed_at(i), kWordBytes);
    }
    segment.avail[i] = ~live & segment.existing(i);
    segment.free_slots += static_cast<std::uint32_t>(std::popcount(segment.avail[i]));
  }
  return true;
}

Segment* SegmentTable::make(SegmentWord word, std::uint64_t id) {
  Segment* segment = nullptr;
  if (spare_.empty()) {
    segment = &pool_.emplace_back();
  } else {
    segment = spare_.back();
    spare_.pop_back();
  }
  describe(*segment, word, id);
  segment->hint = 0;
  segment->list_index = Segment::kNotListed;
  segment->free_slots = segment->slots;
  segment->fast.store(&Segment::kNobody, std::memory_order_relaxed);
  segment->owner.store(nullptr, std::memory_order_relaxed);
  segment->logged_seq.store(0, std::memory_order_relaxed);
  segment->uncounted = segment->dirty = false;
  segment->state = nullptr;
  segment->states.reset();
  segment->avail.reset();
  segment->held.reset();
  if (!segment->recoverable()) {
    segment->avail = std::make_unique<std::uint64_t[]>(segment->words);
    segment->held = std::make_unique<std::atomic<std::uint64_t>[]>(segment->words);
    for (std::uint32_t i = 0; i < segment->words; ++i) segment->avail[i] = segment->existing(i);
  }
  set_pointers(*segment, segment);
  return segment;
}

void SegmentTable::describe(Segment& segment, const SegmentWord& word, std::uint64_t id) const {
  const auto arena = static_cast<std::uint32_t>(id * kSegmentBytes / arena_bytes_);
  segment.id = id;
  segment.word = word;
  segment.header = arena * arena_bytes_ + geometry(arena).table_offset +
                   (id - first_id(arena)) * sizeof(SegmentHeader);
  set_places(segment);
  const std::uint32_t words =
      segment.large() ? kInlineBitmapWords : kSizeClasses[word.size_class].bitmap_words;
  segment.live = reinterpret_cast<persistent<std::uint64_t>*>(base_ + segment.bitmap);
  segment.freed = reinterpret_cast<transient<std::uint64_t>*>(segment.live + words);
}

// Where its slots and bits lie.
void SegmentTable::set_places(Segment& segment) {
  const Offset inline_bitmap = segment.header + offsetof(SegmentHeader, live);
  const Offset start = segment.id * kSegmentBytes;
  if (segment.large()) {
    segment.data = start;
    segment.slots = segment.words = 1;
    segment.slot_bytes = segment.word.span * kSegmentBytes;
    segment.inverse = 0;
    segment.bitmap = inline_bitmap;
    return;
  }
  const SizeClass& size = kSizeClasses[segment.word.size_class];
  segment.data = start + size.data_offset;
  segment.slots = size.slots_in(segment.word.span);
  segment.words = (segment.slots + 63) / 64;
  segment.slot_bytes = size.bytes;
  segment.inverse = size.inverse;
  segment.bitmap = size.inline_bitmap ? inline_bitmap : start;
}

void SegmentTable::set_pointers(const Segment& segment, Segment* to) {
  for (std::uint64_t id = segment.id; id < segment.id + segment.word.span; ++id) map_.set(id, to);
}

// What others marked in the header is about who had it before.
Segment* SegmentTable::make_fresh(SegmentWord word, std::uint64_t id) {
  const auto arena = static_cast<std::uint32_t>(id * kSegmentBytes / arena_bytes_);
  SegmentHeader* const header = header_at(arena, static_cast<std::uint32_t>(id - first_id(arena)));
  header->pending.shared().store(0);
  for (auto& bits : header->freed) bits.shared().store(0);
  return make(word, id);
}

Result<Segment*> SegmentTable::take(SegmentWord word) {
  for (;;) {
    std::unique_lock lock(mutex_);
    if (const std::optional<std::uint64_t> run = extents_.take(word.span)) {
      if (take_backed(*run, word.span)) return make_fresh(word, *run);
      lock.unlock();  // it may take as long as the file system likes
      Status reserved = source_.reserve_space(*run * kSegmentBytes, word.span * kSegmentBytes);
      lock.lock();
      if (reserved) return make_fresh(word, *run);
      extents_.put(*run, word.span);
      return std::unexpected(std::move(reserved).error());
    }
    lock.unlock();
    // First what others left, then more.
    if (own_arenas().size() < arenas()) return nullptr;
    const Result<bool> grown = grow(word.span);
    if (grown && *grown) continue;
    if (grown || grown.error().code == ENOSPC) return nullptr;
    return std::unexpected(grown.error());
  }
}

Result<bool> SegmentTable::grow(std::uint64_t span) {
  const std::lock_guard one(growth_mutex_);
  if (longest_run() >= span) return true;
  Status full;
  for (const std::uint32_t arena : own_arenas()) {
    const std::uint64_t has = grown(arena);
    const std::uint64_t room = geometry(arena).segment_count - has;
    const std::uint64_t tail = [&] {
      const std::lock_guard lock(mutex_);
      return extents_.ending_at(first_id(arena) + has);
    }();
    if (room == 0 || tail + room < span) continue;
    // Ahead of need, by less than a hundredth of what there is.
    const std::uint64_t needed = span > tail ? span - tail : 1;
    const std::uint64_t ahead = std::clamp(has / kGrowthShare, kMinGrowth, kMaxGrowth);
    const std::uint64_t most = std::min(std::max(needed, ahead), room);
    Status done = grow_arena(arena, most);
    if (!done && done.error().code == ENOSPC && most > needed) done = grow_arena(arena, needed);
    if (done) return true;
    if (done.error().code != ENOSPC) return std::unexpected(std::move(done).error());
    full = std::move(done);  // another may lie where there is room
  }
  if (!full) return std::unexpected(std::move(full).error());
  return false;
}

Status SegmentTable::grow_arena(std::uint32_t arena, std::uint64_t segments) {
  const Geometry& plan = geometry(arena);
  const std::uint64_t has = grown(arena);
  const Offset start = arena * arena_bytes_;
  BTD_TRY(source_.reserve_space(start + plan.table_offset + has * sizeof(SegmentHeader),
                                segments * sizeof(SegmentHeader)));
  BTD_TRY(source_.reserve_space(start + plan.segments_offset + has * kSegmentBytes,
                                segments * kSegmentBytes));
  persist_.store(arena_header(arena)->grown, checked_word(has + segments));
  if (!persist_.drain()) return persist_.health();
  const std::lock_guard lock(mutex_);
  put_free(first_id(arena) + has, segments);
  return {};
}

// Free segments that have memory. Under the lock.
void SegmentTable::put_free(std::uint64_t id, std::uint64_t span) {
  extents_.put(id, span);
  for (std::uint64_t i = id; i < id + span; ++i) backed_.set(i, true);
  backed_count_ += span;
}

// They are free no more. Whether all had memory. Under the lock.
bool SegmentTable::take_backed(std::uint64_t id, std::uint64_t span) {
  std::uint64_t count = 0;
  for (std::uint64_t i = id; i < id + span; ++i) {
    count += backed_.test(i) ? 1 : 0;
    backed_.set(i, false);
  }
  backed_count_ -= count;
  return count == span;
}

// Plain stores: nobody trusts the bits of a recoverable segment before a clean close persists them.
// Its states say the same from now on.
void SegmentTable::clear_bits(const Segment& segment) const {
  for (std::uint32_t i = 0; i < segment.words; ++i) {
    segment.store_live(i, 0);
    segment.freed[i].shared().store(0, std::memory_order_relaxed);
  }
}

Status SegmentTable::create(std::span<Segment* const> fresh) {
  bool cleared = false;
  for (Segment* segment : fresh) {
    if (segment->recoverable()) {
      clear_bits(*segment);
      segment->states = std::make_unique<std::uint8_t[]>(segment->slots);
      segment->state = segment->states.get();
      continue;
    }
    // At the head lies old data, whose zeros need not be durable. An inline bitmap that reads as
    // zero is zero on NVRAM too: retire() and the journal fenced it.
    const bool zero = kSizeClasses[segment->word.size_class].inline_bitmap &&
                      std::all_of(segment->live, segment->live + segment->words,
                                  [](std::uint64_t word) { return word == 0; });
    clear_bits(*segment);
    if (zero) continue;
    persist_.flush(segment->live, segment->words * kWordBytes);
    cleared = true;
  }
  if (cleared && !persist_.drain()) return persist_.health();
  for (const Segment* segment : fresh) {
    persist_.store(header_of(*segment)->word, checked_word(segment->word.pack()));
  }
  if (!persist_.drain()) return persist_.health();
  return {};
}

Status SegmentTable::retire(std::span<Segment* const> empty) {
  if (empty.empty()) return {};
  for (const Segment* segment : empty) {
    SegmentHeader* header = header_of(*segment);
    // A clean close may have left bits of a recoverable segment; its next user wants zeros.
    for (auto& bits : header->live) {
      if (bits != 0) persist_.store(bits, std::uint64_t{0});
    }
    for (auto& bits : header->freed) bits.shared().store(0);
    header->pending.shared().store(0);
    persist_.store(header->word, std::uint64_t{0});
  }
  if (!persist_.drain()) return persist_.health();
  for (Segment* segment : empty) put_back(segment);
  return {};
}

void SegmentTable::put_back(Segment* segment) {
  segment->fast.store(&Segment::kNobody, std::memory_order_release);
  segment->owner.store(nullptr, std::memory_order_release);
  set_pointers(*segment, nullptr);
  const std::uint64_t id = segment->id;
  const std::uint64_t span = segment->word.span;
  std::unique_lock lock(mutex_);
  spare_.push_back(segment);
  if (span < kReleased || backed_count_ + span <= kReservoir) return put_free(id, span);
  lock.unlock();
  const bool released = source_.release_space(id * kSegmentBytes, span * kSegmentBytes);
  lock.lock();
  if (!released) return put_free(id, span);
  extents_.put(id, span);
}

std::uint64_t SegmentTable::free_segments() const {
  const std::lock_guard lock(mutex_);
  return extents_.free_segments();
}

std::uint64_t SegmentTable::total_segments() const {
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < arenas(); ++i) total += grown(i);
  return total;
}

std::uint64_t SegmentTable::capacity() const {
  std::uint64_t sum = 0;
  for (const std::uint32_t arena : own_arenas()) sum += geometry(arena).segment_count;
  return sum;
}

std::uint64_t SegmentTable::longest_run() const {
  const std::lock_guard lock(mutex_);
  return extents_.longest();
}

namespace {

// How many neighbouring segments share a flag of their arena.
std::uint32_t group_size(const SegmentTable::Geometry& plan) {
  constexpr std::uint32_t kGroups = kPendingWords * 64;
  return (plan.segment_count + kGroups - 1) / kGroups;
}

}  // namespace

std::uint64_t SegmentTable::index_of(Offset at) const {
  const Geometry& plan = geometry(static_cast<std::uint32_t>(at / arena_bytes_));
  const std::uint64_t into = at % arena_bytes_;
  return into < plan.segments_offset ? (into - plan.table_offset) / sizeof(SegmentHeader)
                                     : (into - plan.segments_offset) / kSegmentBytes;
}

void SegmentTable::mark_freed(Offset live, std::uint64_t bits) const {
  const auto arena = static_cast<std::uint32_t>(live / arena_bytes_);
  const Geometry& plan = geometry(arena);
  const std::uint64_t index = index_of(live);
  if (index >= plan.segment_count) return;
  std::uint32_t words = kInlineBitmapWords;
  if (live % arena_bytes_ >= plan.segments_offset) {
    // The header stands while a slot is allocated, or freed and not taken back.
    const std::uint64_t raw = load_word(header_at(arena, static_cast<std::uint32_t>(index))->word);
    const Decoded decoded = decode(raw, plan.segment_count - index);
    if (decoded.damage != nullptr || decoded.word.kind != SegmentKind::kSmall) return;
    words = kSizeClasses[decoded.word.size_class].bitmap_words;
  }
  auto* const freed = reinterpret_cast<std::uint64_t*>(base_ + live) + words;
  __atomic_fetch_or(freed, bits, __ATOMIC_SEQ_CST);
}

Status SegmentTable::persist_freed() {
  const bool by_pages = persist_.domain() == Domain::kMsync;
  const std::byte* first = nullptr;
  const std::byte* end = nullptr;
  for_each([&](const Segment& segment) {
    const auto* const from = reinterpret_cast<const std::byte*>(segment.freed);
    const std::size_t len = segment.words * kWordBytes;
    if (!by_pages) return persist_.flush(from, len);
    if (first == nullptr || from < first) first = from;
    if (end == nullptr || from + len > end) end = from + len;
  });
  // The kernel knows the dirty pages.
  if (first != nullptr) persist_.flush(first, static_cast<std::size_t>(end - first));
  return persist_.drain() ? Status{} : persist_.health();
}

// In this order: who sees the summary sees the group, and who sees that the segment.
void SegmentTable::flag(Offset at) const {
  const auto arena = static_cast<std::uint32_t>(at / arena_bytes_);
  const Geometry& plan = geometry(arena);
  const std::uint64_t index = index_of(at);
  if (index >= plan.segment_count) return;
  header_at(arena, static_cast<std::uint32_t>(index))->pending.shared().store(1);
  const std::uint64_t group = index / group_size(plan);
  ArenaShared& shared = arena_header(arena)->shared;
  shared.groups[group / 64].shared().fetch_or(std::uint64_t{1} << (group % 64));
  shared.summary.shared().fetch_or(std::uint64_t{1} << (group / 64));
}

void SegmentTable::take_flagged(std::uint32_t arena, std::vector<Segment*>& found) const {
  ArenaShared& shared = arena_header(arena)->shared;
  if (shared.summary.load() == 0) return;
  const std::uint32_t size = group_size(geometry(arena));
  const std::uint32_t end = grown(arena);
  for (std::uint64_t words = shared.summary.shared().exchange(0); words != 0; words &= words - 1) {
    const auto word = static_cast<std::uint32_t>(std::countr_zero(words));
    for (std::uint64_t groups = shared.groups[word].shared().exchange(0); groups != 0;
         groups &= groups - 1) {
      const std::uint32_t first =
          (word * 64 + static_cast<std::uint32_t>(std::countr_zero(groups))) * size;
      for (std::uint32_t i = first; i < std::min(first + size, end); ++i) {
        auto& pending = header_at(arena, i)->pending;
        if (pending.load() == 0 || pending.shared().exchange(0) == 0) continue;
        Segment* const segment = map_.get(first_id(arena) + i);
        if (segment != nullptr && segment->id == first_id(arena) + i) found.push_back(segment);
      }
    }
  }
}

// The segment of another user that holds byte `at`: as its header says at the moment, or that of
// the extent which it lies inside.
Segment* SegmentTable::foreign_of(Offset at) const {
  const auto arena = static_cast<std::uint32_t>(at / arena_bytes_);
  if (arena >= kMaxArenas || owns(arena) || arena >= arenas()) return nullptr;
  const std::uint64_t into = at % arena_bytes_;
  const Geometry& plan = geometry(arena);
  if (into < plan.segments_offset || !source_.reach(arena)) return nullptr;
  const auto index = static_cast<std::uint32_t>((into - plan.segments_offset) / kSegmentBytes);
  const std::uint32_t end = grown(arena);
  for (std::uint32_t i = index; index < end; --i) {
    const SegmentHeader* const header = header_at(arena, i);
    const std::uint64_t raw = load_word(header->word);
    const Decoded decoded = raw == 0 ? Decoded{.word = {}, .damage = ""} : decode(raw, end - i);
    const SegmentWord& word = decoded.word;
    // A transactional extent that was freed keeps its header, which means nothing.
    if (decoded.damage == nullptr &&
        (word.kind == SegmentKind::kSmall || word.contract == Contract::kRecoverable ||
         (load_word(header->live[0]) & 1U) != 0))
      return i + word.span > index ? view_of(word, first_id(arena) + i) : nullptr;
    if (i == 0) break;
  }
  return nullptr;
}

Segment* SegmentTable::view_of(const SegmentWord& word, std::uint64_t id) const {
  const std::lock_guard lock(views_mutex_);
  std::vector<std::unique_ptr<Segment>>& known = views_[id];
  for (const auto& view : known) {
    if (view->word.pack() == word.pack()) return view.get();
  }
  Segment& view = *known.emplace_back(std::make_unique<Segment>());
  describe(view, word, id);
  view.foreign = true;
  return &view;
}

void SegmentTable::for_each_foreign(const std::function<void(Segment&)>& visit) const {
  for (std::uint32_t arena = 0; arena < arenas(); ++arena) {
    if (owns(arena)) continue;
    const Offset first = arena * arena_bytes_ + geometry(arena).segments_offset;
    const std::uint32_t end = grown(arena);
    for (std::uint32_t i = 0; i < end;) {
      Segment* const segment = load_word(header_at(arena, i)->word) == 0
                                   ? nullptr
                                   : foreign_of(first + i * kSegmentBytes);
      const bool here = segment != nullptr && segment->id == first_id(arena) + i;
      if (here) visit(*segment);
      i += here ? segment->word.span : 1;
    }
  }
}

}  // namespace btd
