#include "alloc/recoverable.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

namespace btd {
namespace {

constexpr std::uint32_t kMaxGrowth = 8;  // headers to a fence
constexpr std::size_t kMaxSearch = 4;    // resting caches looked into
constexpr std::size_t kMaxFull = 16;     // uncounted segments found full in a row

// The caches of this thread, one for each heap it used; they rest when it ends.
struct ThreadCaches {
  struct Entry {
    std::shared_ptr<Recoverable> heap;
    Recoverable::Cache* cache;
  };
  std::vector<Entry> entries;
  ~ThreadCaches();
};

thread_local constinit bool t_ended = false;
thread_local ThreadCaches t_caches;

ThreadCaches::~ThreadCaches() {
  t_ended = true;
  for (Entry& entry : entries) entry.heap->rest(*entry.cache);
}

// At most so many of the lowest bits, and at least one.
std::uint64_t lowest(std::uint64_t bits, std::uint64_t most) {
  if (static_cast<unsigned>(std::popcount(bits)) <= most) return bits;
  std::uint64_t rest = bits & (bits - 1);
  for (; most > 1; --most) rest &= rest - 1;
  return bits & ~rest;
}

}  // namespace

thread_local constinit Recoverable::Last Recoverable::t_last{};

Recoverable::Cache& Recoverable::my_cache() {
  if (t_last.heap == this) [[likely]]
    return *t_last.cache;
  // Heaps that are gone and known to this thread alone leave with the next look.
  std::erase_if(t_caches.entries, [](const auto& entry) { return entry.heap.use_count() == 1; });
  Cache* mine = nullptr;
  for (const auto& entry : t_caches.entries) {
    if (entry.heap.get() == this) mine = entry.cache;
  }
  if (mine == nullptr) {
    mine = &take_cache();
    t_caches.entries.push_back({.heap = shared_from_this(), .cache = mine});
  }
  t_last = {this, mine};
  return *mine;
}

Recoverable::Lease::Lease(Recoverable& heap) : heap_(heap), for_the_moment_(t_ended) {
  // Destructors of an ending thread still allocate.
  cache_ = for_the_moment_ ? &heap.take_cache() : &heap.my_cache();
}

Recoverable::Lease::~Lease() {
  if (for_the_moment_) heap_.rest(*cache_);
}

Recoverable::Cache& Recoverable::make_cache() {
  return *caches_.emplace_back(std::make_unique<Cache>(*this));
}

Recoverable::Cache& Recoverable::take_cache() {
  const std::lock_guard lock(resting_mutex_);
  if (resting_.empty()) return make_cache();
  Cache& cache = *resting_.back();
  resting_.pop_back();
  return cache;
}

void Recoverable::rest(Cache& cache) {
  const std::lock_guard lock(resting_mutex_);
  if (t_last.cache == &cache) t_last = {};
  if (attached_) resting_.push_back(&cache);
}

void Recoverable::forget_thread() {
  // Kept for good: their locks may be held by threads that are not here.
  static auto* const kept = new std::vector<ThreadCaches::Entry>;
  kept->insert(kept->end(), t_caches.entries.begin(), t_caches.entries.end());
  t_caches.entries.clear();
  t_last = {};
}

void Recoverable::detach() {
  const std::lock_guard lock(resting_mutex_);
  attached_ = false;
}

template <class Visit>
void Recoverable::for_bins(Cache& cache, Visit&& visit) {
  for (std::size_t i = 0; i < kClasses; ++i) visit(cache.bins[i]);
  for (const auto& bins : cache.typed) {
    if (bins == nullptr) continue;
    for (Bin& bin : *bins) visit(bin);
  }
}

Recoverable::Bin& Recoverable::bin_for(Cache& cache, std::uint8_t size_class, std::uint8_t type) {
  if (type == 0) return cache.bins[size_class];
  if (cache.typed[type] == nullptr) cache.typed[type] = std::make_unique<Bins>();
  return (*cache.typed[type])[size_class];
}

Result<Offset> Recoverable::allocate(std::size_t bytes, std::uint8_t type) {
  if (bytes == 0) return fail(EINVAL, "A block has at least one byte.");
  if (bytes > kMaxSmallBytes) return allocate_large(bytes, type);
  const Lease lease(*this);
  Cache& cache = *lease;
  const std::uint8_t size_class = size_class_of(bytes);
  Bin& bin = bin_for(cache, size_class, type);
  if (const Offset block = bin.take(); block != 0) return block;
  return refill(cache, bin, size_class, type);
}

Result<Offset> Recoverable::refill(Cache& cache, Bin& bin, std::uint8_t size_class,
                                   std::uint8_t type) {
  SegmentWord word{.kind = SegmentKind::kSmall,
                   .contract = Contract::kRecoverable,
                   .size_class = size_class,
                   .span = kSizeClasses[size_class].span,
                   .type = type};
  for (;;) {
    if (claim_word(cache, bin)) return bin.take_claimed();
    if (cache.pending.load(std::memory_order_relaxed) != nullptr) {
      drain_pending(cache);
      if (claim_word(cache, bin)) return bin.take_claimed();
    }
    if (heap_.others_freed()) {
      BTD_TRY(heap_.return_freed());
      if (cache.pending.load(std::memory_order_relaxed) != nullptr) continue;
    }
    if (take_from_resting(cache, bin, size_class, type)) continue;
    std::uint32_t got = 0;
    BTD_TRY(grow(cache, bin, word, got));
    if (got > 0) continue;
    BTD_TRY(shed(cache, 0));
    if (Status room = heap_.make_room(word.span); !room) {
      if (word.span == 1) return std::unexpected(std::move(room).error());
      word.span = 1;  // fewer slots to a header, but any hole will do
    }
  }
}

// Claims the free slots of one word for `bin`, which has none left.
bool Recoverable::claim_word(Cache& cache, Bin& bin) {
  while (bin.current == nullptr || bin.current->free_slots == 0) {
    bin.current = nullptr;
    if (bin.partial.empty()) return false;
    Segment& next = *bin.partial.back();
    unlist(cache, bin, next);
    if (next.uncounted) {
      // What a record writes into may not be counted free before that is home.
      if (waits(next)) static_cast<void>(heap_.checkpoint());
      if (waits(next)) return false;
      count(next);
      open_fast_path(next, &cache);
    }
    bin.current = &next;
  }
  Segment& segment = *bin.current;
  for (;;) {
    bin.mask = ~segment.load_live(segment.hint) & segment.existing(segment.hint);
    if (bin.mask != 0) break;
    segment.hint = segment.hint + 1 == segment.words ? 0 : segment.hint + 1;
  }
  bin.mask = lowest(bin.mask, Bin::kMaxClaimedBytes / segment.slot_bytes);
  segment.store_live(segment.hint, segment.load_live(segment.hint) | bin.mask);
  segment.free_slots -= static_cast<std::uint32_t>(std::popcount(bin.mask));
  bin.states = segment.state + std::size_t{segment.hint} * 64;
  bin.slot_bytes = segment.slot_bytes;
  bin.word_start = segment.slot_offset(segment.hint * 64);
  return true;
}

// What is claimed and was not handed out goes back to its segment.
void Recoverable::unclaim(Bin& bin) {
  if (bin.current == nullptr) return;
  Segment& segment = *bin.current;
  segment.store_live(segment.hint, segment.load_live(segment.hint) & ~bin.mask);
  segment.free_slots += static_cast<std::uint32_t>(std::popcount(std::exchange(bin.mask, 0)));
}

// The slots that were freed here go back to their segments.
void Recoverable::return_freed(Cache& cache, Bin& bin) {
  while (bin.freed_count != 0) {
    const Offset block = bin.freed[--bin.freed_count].block;
    Segment& segment = *table_.segment_of(block);
    return_slot(cache, bin, segment, segment.slot_of(block));
  }
}

void Recoverable::list(Cache& cache, Bin& bin, Segment& segment) {
  segment.list_index = static_cast<std::uint32_t>(bin.partial.size());
  bin.partial.push_back(&segment);
  if (segment.free_slots == segment.slots) ++cache.empty;
}

void Recoverable::unlist(Cache& cache, Bin& bin, Segment& segment) {
  if (segment.free_slots == segment.slots) --cache.empty;
  Segment* const last = bin.partial.back();
  bin.partial[segment.list_index] = last;
  last->list_index = segment.list_index;
  bin.partial.pop_back();
  segment.list_index = Segment::kNotListed;
}

// A slot became free: the segment's first, or its last.
void Recoverable::note_free(Cache& cache, Bin& bin, Segment& segment) {
  if (bin.current == &segment) return;
  if (segment.list_index == Segment::kNotListed) {
    list(cache, bin, segment);
  } else if (segment.free_slots == segment.slots) {
    ++cache.empty;
  }
  // What the medium refuses here it refuses at the next fence too, which reports it.
  if (cache.empty > kMaxEmpty) static_cast<void>(shed(cache, kMaxEmpty / 2));
}

// Makes the states of a segment whose bits are right, and takes in what others freed in it.
void Recoverable::count(Segment& segment) {
  segment.free_slots = 0;
  segment.states = std::make_unique<std::uint8_t[]>(segment.slots);
  for (std::uint32_t i = 0; i < segment.words; ++i) {
    const std::uint64_t freed = __atomic_exchange_n(segment.freed_at(i), 0, __ATOMIC_SEQ_CST);
    // Bits of slots that do not exist are damage: kept for who checks.
    const std::uint64_t live = segment.load_live(i) & ~freed;
    segment.store_live(i, live);
    segment.free_slots += static_cast<std::uint32_t>(std::popcount(~live & segment.existing(i)));
    for (std::uint64_t bits = live & segment.existing(i); bits != 0; bits &= bits - 1) {
      segment.states[i * 64 + static_cast<unsigned>(std::countr_zero(bits))] = Segment::kAllocated;
    }
  }
  segment.state = segment.states.get();
  segment.uncounted = false;
}

// `cache` owns the segment from now on.
void Recoverable::give_to(Segment& segment, const Cache* cache) {
  segment.fast.store(&Segment::kNobody, std::memory_order_release);
  segment.owner.store(cache, std::memory_order_release);
  open_fast_path(segment, cache);
}

Status Recoverable::release(Offset block) {
  const Slot slot = table_.find(block);
  if (slot.segment == nullptr || slot.offset() != block) {
    return fail(EINVAL, "No block starts at " + std::to_string(block) +
                            "; the pointer is not from this heap, or points inside a block.");
  }
  Segment& segment = *slot.segment;
  if (!segment.recoverable()) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is transactional; free it in a transaction or with free_from().");
  }
  if (segment.dirty) {
    return fail(EBUSY, "The block at " + std::to_string(block) +
                           " is from before an unclean stop; free it when recovery is done.");
  }
  if (!segment.claim(slot.index)) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is not allocated; it was released twice, or never allocated.");
  }
  return give_back(segment, slot.index);
}

// A claimed slot: it is this thread's to give back.
Status Recoverable::give_back(Segment& segment, std::uint32_t index) {
  if (segment.foreign) {
    table_.flag(segment);
    return {};
  }
  const Slot slot{.segment = &segment, .index = index};
  // A record that may yet be replayed would write into what the slot's next owner stores.
  if (waits(segment)) [[unlikely]]
    return heap_.park(slot);
  return take_back(slot);
}

// Whether a record that may yet be replayed writes into the segment: it would write into what the
// next owner of a slot stores.
bool Recoverable::waits(const Segment& segment) const {
  return segment.logged_seq.load() > heap_.journal_->watermark();
}

void Recoverable::freed_by_others(Segment& segment, std::vector<Segment*>& empty) {
  if (!segment.large()) return push_pending(segment);
  // One that is being adopted is looked at there.
  if (segment.state == nullptr || segment.load_freed(0) == 0 || segment.load_live(0) == 0) return;
  if (waits(segment)) {
    static_cast<void>(heap_.journal_->park({.segment = &segment, .index = 0}));
    return;
  }
  segment.store_state(0, Segment::kFree);
  segment.store_live(0, 0);
  empty.push_back(&segment);
}

Status Recoverable::take_back(const Slot& slot) {
  if (!slot.segment->large()) {
    push_pending(*slot.segment);
    return {};
  }
  slot.segment->store_live(0, 0);
  Segment* const large[] = {slot.segment};
  return table_.retire(large);
}

// The segment is linked at most once: whoever sets `pending` links it, and only who unlinked it
// clears that, before looking at the bits. So a bit that was set before is seen, or linked again.
void Recoverable::push_pending(Segment& segment) {
  if (segment.pending.load() || segment.pending.exchange(true)) return;
  auto* const owner =
      static_cast<Cache*>(const_cast<void*>(segment.owner.load(std::memory_order_acquire)));
  if (owner == nullptr) {
    segment.pending.store(false);
    return;
  }
  link_pending(*owner, segment);
}

void Recoverable::link_pending(Cache& cache, Segment& segment) {
  Segment* head = cache.pending.load(std::memory_order_relaxed);
  do {
    segment.next_pending = head;
  } while (!cache.pending.compare_exchange_weak(head, &segment, std::memory_order_release,
                                                std::memory_order_relaxed));
}

void Recoverable::drain_pending(Cache& cache) {
  Segment* next = cache.pending.exchange(nullptr, std::memory_order_acquire);
  Segment* waiting = nullptr;  // for the watermark: linked again for the next drain
  while (next != nullptr) {
    Segment& segment = *next;
    next = segment.next_pending;
    const bool mine = segment.owner.load(std::memory_order_acquire) == &cache;
    if (mine && waits(segment)) {
      segment.next_pending = std::exchange(waiting, &segment);
      continue;
    }
    segment.pending.exchange(false);
    if (mine) {
      collect_remote(cache, segment);
    } else {
      push_pending(segment);  // it changed hands, or is no segment any more
    }
  }
  while (waiting != nullptr) {
    Segment& segment = *std::exchange(waiting, waiting->next_pending);
    link_pending(cache, segment);
  }
}

void Recoverable::collect_remote(Cache& cache, Segment& segment) {
  Bin& bin = bin_for(cache, segment.word.size_class, segment.word.type);
  if (segment.list_index != Segment::kNotListed) unlist(cache, bin, segment);
  if (segment.uncounted) {
    count(segment);
  } else {
    for (std::uint32_t i = 0; i < segment.words; ++i) {
      if (segment.load_freed(i) != 0) collect_word(bin, segment, i);
    }
  }
  // Nothing that may be replayed writes into it any more, unless somebody just logged again.
  std::uint64_t logged = segment.logged_seq.load();
  if (logged <= heap_.journal_->watermark()) segment.logged_seq.compare_exchange_strong(logged, 0);
  open_fast_path(segment, &cache);
  if (segment.free_slots > 0 && &segment != bin.current) list(cache, bin, segment);
  if (cache.empty > kMaxEmpty) static_cast<void>(shed(cache, kMaxEmpty / 2));
}

void Recoverable::collect_word(Bin& bin, Segment& segment, std::uint32_t i) {
  std::uint64_t freed = __atomic_exchange_n(segment.freed_at(i), 0, __ATOMIC_SEQ_CST);
  for (std::uint64_t bits = freed; bits != 0; bits &= bits - 1) {
    const auto bit = static_cast<unsigned>(std::countr_zero(bits));
    const std::uint32_t slot = i * 64 + bit;
    // Of two threads that freed a slot at once, one was the owner: then it is free already.
    if (slot >= segment.slots || segment.load_state(slot) == Segment::kFree)
      freed &= ~(std::uint64_t{1} << bit);
    else
      segment.store_state(slot, Segment::kFree);
  }
  if (bin.current == &segment && segment.hint == i) {
    bin.mask |= freed;
    return;
  }
  segment.store_live(i, segment.load_live(i) & ~freed);
  segment.free_slots += static_cast<std::uint32_t>(std::popcount(freed));
}

// Takes one segment with free slots from a cache of an ended thread.
bool Recoverable::take_from_resting(Cache& cache, Bin& bin, std::uint8_t size_class,
                                    std::uint8_t type) {
  const std::lock_guard lock(resting_mutex_);
  for (std::size_t n = 0; n < std::min(kMaxSearch, resting_.size()); ++n) {
    Cache& other = *resting_[n];
    if (other.pending.load(std::memory_order_relaxed) != nullptr) drain_pending(other);
    Bin& from = bin_for(other, size_class, type);
    return_freed(other, from);
    if (from.current != nullptr) {
      unclaim(from);
      Segment& segment = *std::exchange(from.current, nullptr);
      if (segment.free_slots > 0) list(other, from, segment);
    }
    for (std::size_t full = 0; !from.partial.empty() && full < kMaxFull; ++full) {
      Segment& segment = *from.partial.back();
      if (segment.uncounted && waits(segment)) break;
      unlist(other, from, segment);
      if (segment.uncounted) count(segment);
      give_to(segment, &cache);
      if (segment.free_slots == 0) continue;  // its first free lists it
      list(cache, bin, segment);
      return true;
    }
  }
  return false;
}

Status Recoverable::grow(Cache& cache, Bin& bin, SegmentWord word, std::uint32_t& got) {
  std::array<Segment*, kMaxGrowth> fresh{};
  while (got < bin.growth) {
    BTD_ASSIGN(fresh.at(got), table_.take(word));
    if (fresh.at(got) == nullptr) break;
    ++got;
  }
  const std::span<Segment* const> made(fresh.data(), got);
  if (made.empty()) return {};
  used_.store(true, std::memory_order_relaxed);
  BTD_TRY(table_.create(made));
  for (Segment* segment : made) give_to(*segment, &cache);
  // The lowest addresses are used first.
  for (std::size_t i = made.size(); i-- > 0;) list(cache, bin, *made[i]);
  bin.growth = std::min(bin.growth * 2, kMaxGrowth);
  return {};
}

// Gives listed empty segments back to the heap until `keep` are left, in one fence.
Status Recoverable::shed(Cache& cache, std::uint32_t keep) {
  std::vector<Segment*> empty;
  for_bins(cache, [&](Bin& bin) {
    if (keep == 0) return_freed(cache, bin);
    for (std::size_t i = bin.partial.size(); i-- > 0 && cache.empty > keep;) {
      Segment& segment = *bin.partial[i];
      if (segment.free_slots != segment.slots) continue;
      unlist(cache, bin, segment);
      empty.push_back(&segment);
    }
  });
  return table_.retire(empty);
}

Status Recoverable::trim() {
  const std::lock_guard lock(resting_mutex_);
  for (Cache* cache : resting_) {
    drain_pending(*cache);
    BTD_TRY(shed(*cache, 0));
  }
  return {};
}

Result<Offset> Recoverable::allocate_large(std::size_t bytes, std::uint8_t type) {
  const std::uint64_t span = (bytes + kSegmentBytes - 1) / kSegmentBytes;
  if (heap_.others_freed()) BTD_TRY(heap_.return_freed());
  for (;;) {
    Segment* segment = nullptr;
    if (span < (std::uint64_t{1} << 32)) {
      BTD_ASSIGN(segment, table_.take({.kind = SegmentKind::kLarge,
                                       .contract = Contract::kRecoverable,
                                       .size_class = 0,
                                       .span = static_cast<std::uint32_t>(span),
                                       .type = type}));
    }
    if (segment != nullptr) {
      used_.store(true, std::memory_order_relaxed);
      Segment* const made[] = {segment};
      BTD_TRY(table_.create(made));
      segment->free_slots = 0;
      segment->store_state(0, Segment::kAllocated);
      segment->store_live(0, 1);
      return segment->data;
    }
    BTD_TRY(heap_.make_room(span));
  }
}

void Recoverable::adopt(Segment& segment) {
  used_.store(true, std::memory_order_relaxed);
  const std::lock_guard lock(resting_mutex_);
  if (segment.dirty) {
    dirty_.store(true);
    dirty_segments_.push_back(&segment);
    return;
  }
  if (segment.large()) {
    count(segment);
    if (segment.free_slots == 0) return;
    Segment* const freed[] = {&segment};  // by others, while nobody had it
    static_cast<void>(table_.retire(freed));
    return;
  }
  if (resting_.empty()) resting_.push_back(&make_cache());
  Cache& cache = *resting_.front();
  give_to(segment, &cache);
  list(cache, bin_for(cache, segment.word.size_class, segment.word.type), segment);
}

void Recoverable::soil() {
  const std::lock_guard lock(resting_mutex_);
  for (const auto& cache : caches_) {
    for (Segment* next = cache->pending.exchange(nullptr); next != nullptr;) {
      next->pending.store(false);
      next = next->next_pending;
    }
    for_bins(*cache, [](Bin& bin) {
      const std::uint32_t bound = bin.most_freed;
      bin = Bin{};
      bin.most_freed = bound;
    });
    cache->empty = 0;
  }
  dirty_segments_.clear();
  table_.for_each([this](Segment& segment) {
    if (!segment.recoverable()) return;
    for (std::uint32_t i = 0; i < segment.words; ++i)
      segment.store_live(i, segment.allocated_word(i));
    give_to(segment, nullptr);
    segment.state = nullptr;
    segment.states.reset();
    segment.uncounted = true;
    segment.list_index = Segment::kNotListed;
    segment.dirty = true;
    dirty_segments_.push_back(&segment);
  });
  dirty_.store(true);
}

void Recoverable::begin_marking() {
  dirty_bytes_ = 0;
  for (Segment* segment : dirty_segments_) {
    for (std::uint32_t i = 0; i < segment->words; ++i) {
      const std::uint64_t live = segment->allocated_word(i) & segment->existing(i);
      dirty_bytes_ += static_cast<unsigned>(std::popcount(live)) * segment->slot_bytes;
      segment->store_live(i, 0);
      __atomic_store_n(segment->freed_at(i), 0, __ATOMIC_RELAXED);
    }
  }
}

Result<std::uint64_t> Recoverable::sweep() {
  std::vector<Segment*> empty;
  std::uint64_t kept = 0;
  {
    const std::lock_guard lock(resting_mutex_);
    Cache& cache = make_cache();
    for (Segment* segment : dirty_segments_) {
      segment->dirty = false;
      count(*segment);
      kept += (segment->slots - segment->free_slots) * segment->slot_bytes;
      if (segment->free_slots == segment->slots) {
        empty.push_back(segment);
        continue;
      }
      if (segment->large()) continue;
      give_to(*segment, &cache);
      if (segment->free_slots > 0)
        list(cache, bin_for(cache, segment->word.size_class, segment->word.type), *segment);
    }
    dirty_segments_.clear();
    resting_.push_back(&cache);
  }
  BTD_TRY(table_.retire(empty));
  dirty_.store(false);
  return dirty_bytes_ - std::min(kept, dirty_bytes_);
}

std::uint64_t Recoverable::live_bytes() const {
  if (!used_.load(std::memory_order_relaxed)) return 0;
  std::uint64_t bytes = 0;
  table_.for_each([&](const Segment& segment) {
    if (segment.recoverable()) bytes += segment.used_bytes();
  });
  return bytes;
}

Status Recoverable::write_bitmaps() {
  if (!used_.load(std::memory_order_relaxed)) return {};
  table_.for_each([&](Segment& segment) {
    if (!segment.recoverable()) return;
    for (std::uint32_t i = 0; i < segment.words; ++i) {
      // Others may be freeing in it.
      const std::uint64_t freed = __atomic_exchange_n(segment.freed_at(i), 0, __ATOMIC_SEQ_CST);
      const std::uint64_t live =
          segment.state != nullptr ? segment.pack_state(i) : segment.load_live(i);
      // Memory that nobody recovered is kept as it is: all of it counts as live.
      segment.store_live(i, segment.dirty ? segment.existing(i) : live & ~freed);
    }
    heap_.persist_.flush(segment.live, segment.words * kWordBytes);
  });
  return heap_.persist_.drain() ? Status{} : heap_.persist_.health();
}

}  // namespace btd
