#include "alloc/recoverable.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <utility>

namespace btd {
namespace {

constexpr std::uint32_t kMaxGrowth = 8;  // headers to a fence
constexpr std::uint32_t kSearch = 8;     // segments looked at for remote frees before growing

// The caches of this thread, one for each heap it used. Ends with the thread.
struct ThreadCaches {
  struct Entry {
    std::shared_ptr<Recoverable> heap;
    std::unique_ptr<Recoverable::Cache> cache;
  };
  std::vector<Entry> entries;
  const Recoverable* last = nullptr;  // the heap used last, and its cache
  Recoverable::Cache* last_cache = nullptr;

  ~ThreadCaches() {
    for (Entry& entry : entries) entry.heap->abandon(*entry.cache);
  }
};
thread_local ThreadCaches t_caches;

}  // namespace

Recoverable::Cache& Recoverable::my_cache() {
  ThreadCaches& mine = t_caches;
  if (mine.last == this) [[likely]]
    return *mine.last_cache;
  mine.last_cache = nullptr;
  // Heaps that are gone and known to this thread alone leave with the next look.
  std::erase_if(mine.entries, [](const auto& entry) { return entry.heap.use_count() == 1; });
  for (auto& entry : mine.entries) {
    if (entry.heap.get() == this) mine.last_cache = entry.cache.get();
  }
  if (mine.last_cache == nullptr) {
    mine.entries.push_back({.heap = shared_from_this(), .cache = std::make_unique<Cache>()});
    mine.last_cache = mine.entries.back().cache.get();
  }
  mine.last = this;
  return *mine.last_cache;
}

Result<Offset> Recoverable::allocate(std::size_t bytes) {
  if (bytes == 0) return fail(EINVAL, "A block has at least one byte.");
  if (bytes > kMaxSmallBytes) return allocate_large(bytes);
  Cache& cache = my_cache();
  const std::uint8_t size_class = size_class_of(bytes);
  Cache::PerClass& mine = cache.classes[size_class];
  if (mine.stacked > 0) [[likely]] {
    const Slot slot = mine.stack[--mine.stacked];
    slot.segment->set_live(slot.index);
    return slot.offset();
  }
  BTD_ASSIGN(const Slot slot, refill(cache, size_class));
  slot.segment->set_live(slot.index);
  return slot.offset();
}

Result<Slot> Recoverable::refill(Cache& cache, std::uint8_t size_class) {
  Cache::PerClass& mine = cache.classes[size_class];
  for (;;) {
    if (fill_stack(mine)) return mine.stack[--mine.stacked];
    if (find_remote(mine) || adopt_orphan(cache, size_class)) continue;
    std::uint32_t got = 0;
    BTD_TRY(grow(cache, size_class, got));
    if (got > 0) continue;
    BTD_TRY(heap_.make_room(1));
  }
}

bool Recoverable::fill_stack(Cache::PerClass& mine) {
  while (mine.stacked < Cache::kStack / 2 && !mine.partial.empty()) {
    Segment* segment = mine.partial.back();
    if (segment->free_slots == segment->slots) --mine.empty;
    while (mine.stacked < Cache::kStack / 2 && segment->free_slots > 0) {
      mine.stack[mine.stacked++] = {.segment = segment, .index = segment->take_slot()};
    }
    if (segment->free_slots > 0) break;
    mine.partial.pop_back();
    segment->list_index = Segment::kNotListed;
  }
  // Popped from the back: the lowest addresses first.
  std::reverse(mine.stack.begin(), mine.stack.begin() + mine.stacked);
  return mine.stacked > 0;
}

bool Recoverable::find_remote(Cache::PerClass& mine) {
  const auto count = static_cast<std::uint32_t>(mine.owned.size());
  for (std::uint32_t i = 0; i < std::min(kSearch, count); ++i) {
    mine.cursor = mine.cursor + 1 < count ? mine.cursor + 1 : 0;
    Segment* segment = mine.owned[mine.cursor];
    segment->adopt_remote();
    if (segment->free_slots == 0) continue;
    if (segment->free_slots == segment->slots) ++mine.empty;
    segment->list_index = 0;
    mine.partial.push_back(segment);
    return true;
  }
  return false;
}

bool Recoverable::adopt_orphan(Cache& cache, std::uint8_t size_class) {
  const std::lock_guard lock(orphans_mutex_);
  std::vector<Segment*>& orphans = orphans_[size_class];
  for (std::size_t i = 0; i < std::min<std::size_t>(kSearch, orphans.size()); ++i) {
    Segment* segment = orphans.back();
    segment->adopt_remote();
    if (segment->free_slots == 0) {
      // To the front's place, so that the next search sees others.
      std::swap(orphans.back(), orphans[i]);
      continue;
    }
    orphans.pop_back();
    Cache::PerClass& mine = cache.classes[size_class];
    segment->owner.store(&cache, std::memory_order_release);
    segment->list_index = 0;
    if (segment->free_slots == segment->slots) ++mine.empty;
    mine.owned.push_back(segment);
    mine.partial.push_back(segment);
    return true;
  }
  return false;
}

Status Recoverable::grow(Cache& cache, std::uint8_t size_class, std::uint32_t& got) {
  Cache::PerClass& mine = cache.classes[size_class];
  std::array<Segment*, kMaxGrowth> fresh{};
  while (got < mine.growth) {
    fresh.at(got) = table_.take({.kind = SegmentKind::kSmall,
                                 .contract = Contract::kRecoverable,
                                 .size_class = size_class,
                                 .span = 1});
    if (fresh.at(got) == nullptr) break;
    ++got;
  }
  const std::span<Segment* const> made(fresh.data(), got);
  if (made.empty()) return {};
  used_.store(true, std::memory_order_relaxed);
  BTD_TRY(table_.create(made));
  for (Segment* segment : made) {
    segment->owner.store(&cache, std::memory_order_release);
    segment->list_index = 0;
    mine.owned.push_back(segment);
    mine.partial.push_back(segment);
    ++mine.empty;
  }
  mine.growth = std::min(mine.growth * 2, kMaxGrowth);
  return {};
}

Status Recoverable::release(Offset block) {
  const Slot slot = table_.find(block);
  if (slot.segment == nullptr || slot.offset() != block) {
    return fail(EINVAL, "No block starts at " + std::to_string(block) +
                            "; the pointer is not from this heap, or points inside a block.");
  }
  Segment& segment = *slot.segment;
  if (segment.word.contract != Contract::kRecoverable) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is transactional; free it in a transaction or with free_from().");
  }
  if (!segment.clear_live(slot.index)) {
    return fail(EINVAL, "The block at " + std::to_string(block) +
                            " is not allocated; it was released twice, or never allocated.");
  }
  // A record that may yet be replayed would write into what the slot's next owner stores.
  const std::uint64_t logged = segment.logged_seq.load(std::memory_order_relaxed);
  if (logged > heap_.journal_->watermark()) [[unlikely]] {
    heap_.wait_for_watermark({&slot, 1}, logged, slot.bytes());
    return {};
  }
  if (segment.word.kind == SegmentKind::kLarge) return take_back(slot);
  Cache& cache = my_cache();
  if (segment.owner.load(std::memory_order_acquire) != &cache) {
    segment.free_remotely(slot.index);
    return {};
  }
  Cache::PerClass& mine = cache.classes[segment.word.size_class];
  if (mine.stacked < Cache::kStack) [[likely]] {
    mine.stack[mine.stacked++] = slot;
    return {};
  }
  // The colder half goes back, so that neither a run of frees nor one of allocations pays each
  // time.
  for (std::uint32_t i = 0; i < Cache::kStack / 2; ++i) give_back(mine, mine.stack[i]);
  std::copy(mine.stack.begin() + Cache::kStack / 2, mine.stack.end(), mine.stack.begin());
  mine.stacked = Cache::kStack / 2;
  mine.stack[mine.stacked++] = slot;
  return mine.empty > Cache::kMaxEmpty ? shed(mine) : Status{};
}

Status Recoverable::take_back(const Slot& slot) {
  if (slot.segment->word.kind == SegmentKind::kSmall) {
    slot.segment->free_remotely(slot.index);
    return {};
  }
  Segment* const large[] = {slot.segment};
  return table_.retire(large);
}

void Recoverable::give_back(Cache::PerClass& mine, const Slot& slot) {
  Segment* segment = slot.segment;
  segment->return_slot(slot.index);
  if (segment->free_slots == segment->slots) ++mine.empty;
  if (segment->list_index == Segment::kNotListed) {
    segment->list_index = 0;  // only listed or not counts here
    mine.partial.push_back(segment);
  }
}

// Gives half of the empty segments back to the heap, in one fence.
Status Recoverable::shed(Cache::PerClass& mine) {
  std::vector<Segment*> empty;
  const auto is_empty = [&](Segment* segment) {
    return segment->free_slots == segment->slots && empty.size() < Cache::kMaxEmpty / 2;
  };
  std::erase_if(mine.partial, [&](Segment* segment) {
    if (!is_empty(segment)) return false;
    empty.push_back(segment);
    return true;
  });
  std::sort(empty.begin(), empty.end());
  std::erase_if(mine.owned, [&](Segment* segment) {
    return std::binary_search(empty.begin(), empty.end(), segment);
  });
  mine.empty -= static_cast<std::uint32_t>(empty.size());
  mine.cursor = 0;
  return table_.retire(empty);
}

Result<Offset> Recoverable::allocate_large(std::size_t bytes) {
  const std::uint64_t span = (bytes + kSegmentBytes - 1) / kSegmentBytes;
  for (;;) {
    Segment* segment = nullptr;
    if (span < (std::uint64_t{1} << 32)) {
      segment = table_.take({.kind = SegmentKind::kLarge,
                             .contract = Contract::kRecoverable,
                             .size_class = 0,
                             .span = static_cast<std::uint32_t>(span)});
    }
    if (segment != nullptr) {
      used_.store(true, std::memory_order_relaxed);
      Segment* const made[] = {segment};
      BTD_TRY(table_.create(made));
      segment->set_live(segment->take_slot());
      return segment->data;
    }
    BTD_TRY(heap_.make_room(span));
  }
}

void Recoverable::detach() {
  const std::lock_guard lock(orphans_mutex_);
  attached_ = false;
}

void Recoverable::abandon(Cache& cache) {
  const std::lock_guard lock(orphans_mutex_);
  if (!attached_) return;
  for (std::size_t size_class = 0; size_class < kClasses; ++size_class) {
    Cache::PerClass& mine = cache.classes.at(size_class);
    for (std::uint32_t i = 0; i < mine.stacked; ++i) {
      mine.stack.at(i).segment->return_slot(mine.stack.at(i).index);
    }
    for (Segment* segment : mine.owned) {
      segment->list_index = Segment::kNotListed;
      segment->owner.store(nullptr, std::memory_order_release);
      orphans_.at(size_class).push_back(segment);
    }
  }
}

void Recoverable::adopt(Segment& segment, bool clean) {
  used_.store(true, std::memory_order_relaxed);
  if (!clean) dirty_.store(true);
  if (segment.word.kind == SegmentKind::kLarge) return;
  const std::lock_guard lock(orphans_mutex_);
  orphans_.at(segment.word.size_class).push_back(&segment);
}

std::uint64_t Recoverable::live_bytes() const {
  if (!used_.load(std::memory_order_relaxed)) return 0;
  std::uint64_t bytes = 0;
  table_.for_each([&](const Segment& segment) {
    if (segment.word.contract != Contract::kRecoverable) return;
    for (std::uint32_t i = 0; i < segment.words; ++i) {
      const auto live = segment.live[i].load(std::memory_order_relaxed);
      bytes += static_cast<std::uint64_t>(std::popcount(live)) * segment.slot_bytes;
    }
  });
  return bytes;
}

Status Recoverable::write_bitmaps() {
  if (!used_.load(std::memory_order_relaxed)) return {};
  // Memory that nobody recovered is kept as it is: all of it counts as live.
  table_.for_each([&](const Segment& segment) {
    if (segment.word.contract != Contract::kRecoverable) return;
    std::byte* const to = heap_.base_ + segment.bitmap;
    for (std::uint32_t i = 0; i < segment.words; ++i) {
      const std::uint64_t live = segment.live[i].load(std::memory_order_acquire);
      std::memcpy(to + i * kWordBytes, &live, kWordBytes);
    }
    heap_.persist_.flush(to, segment.words * kWordBytes);
  });
  return heap_.persist_.drain() ? Status{} : heap_.persist_.health();
}

Status Recoverable::recover(const std::function<void(Heap::Marker&)>& visit) {
  table_.for_each([](Segment& segment) {
    if (segment.word.contract != Contract::kRecoverable) return;
    for (std::uint32_t i = 0; i < segment.words; ++i) segment.live[i].store(0);
  });
  Heap::Marker marker(table_);
  visit(marker);
  return sweep();
}

// Everything not marked becomes available; empty segments return to the heap.
Status Recoverable::sweep() {
  std::vector<Segment*> empty;
  {
    // What this thread's own cache held is recovered like the rest.
    Cache& mine = my_cache();
    for (Cache::PerClass& each : mine.classes) each = Cache::PerClass{};
    const std::lock_guard lock(orphans_mutex_);
    for (auto& orphans : orphans_) orphans.clear();
    table_.for_each([&](Segment& segment) {
      if (segment.word.contract != Contract::kRecoverable) return;
      segment.owner.store(nullptr);
      segment.list_index = Segment::kNotListed;
      segment.free_slots = 0;
      segment.remote_count.store(0);
      for (std::uint32_t i = 0; i < segment.words; ++i) {
        const std::uint32_t in_word = std::min(segment.slots - i * 64, 64U);
        const std::uint64_t exist =
            in_word == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
        segment.remote[i].store(0);
        segment.avail[i] = ~segment.live[i].load() & exist;
        segment.free_slots += static_cast<std::uint32_t>(std::popcount(segment.avail[i]));
      }
      if (segment.free_slots == segment.slots) {
        empty.push_back(&segment);
      } else if (segment.word.kind == SegmentKind::kSmall) {
        orphans_.at(segment.word.size_class).push_back(&segment);
      }
    });
  }
  BTD_TRY(table_.retire(empty));
  dirty_.store(false);
  return {};
}

bool Heap::Marker::mark(Offset at) {
  const Slot slot = table_.find(at);
  if (slot.segment == nullptr || slot.segment->word.contract != Contract::kRecoverable)
    return false;
  const std::uint64_t bit = Segment::mask_of(slot.index);
  return (slot.segment->live[slot.index / 64].fetch_or(bit, std::memory_order_acq_rel) & bit) == 0;
}

Status Recoverable::recover_conservatively() {
  return recover([this](Heap::Marker& marker) {
    std::vector<Slot> todo;
    const auto base = reinterpret_cast<std::uintptr_t>(heap_.base_);
    const auto try_word = [&](std::uint64_t word) {
      for (const std::uint64_t at : {word, word - base}) {
        if (marker.mark(at)) todo.push_back(table_.find(at));
      }
    };
    const auto scan = [&](const std::byte* from, std::uint64_t len) {
      for (std::uint64_t i = 0; i + kWordBytes <= len; i += kWordBytes) {
        std::uint64_t word = 0;
        std::memcpy(&word, from + i, kWordBytes);
        try_word(word);
      }
    };
    for (unsigned slot = 0; slot < kRootSlots; ++slot) try_word(heap_.root(slot));
    table_.for_each([&](const Segment& segment) {
      if (segment.word.contract != Contract::kTransactional) return;
      for (std::uint32_t i = 0; i < segment.slots; ++i) {
        if (segment.is_live(i)) scan(heap_.at(segment.slot_offset(i)), segment.slot_bytes);
      }
    });
    while (!todo.empty()) {
      const Slot slot = todo.back();
      todo.pop_back();
      scan(heap_.at(slot.offset()), slot.bytes());
    }
  });
}

Result<Offset> Heap::allocate(std::size_t bytes) { return recoverable_->allocate(bytes); }
Status Heap::release(Offset block) { return recoverable_->release(block); }
Status Heap::recover(const std::function<void(Marker&)>& visit) {
  return recoverable_->recover(visit);
}
Status Heap::recover_conservatively() { return recoverable_->recover_conservatively(); }
bool Heap::needs_recovery() const { return recoverable_->needs_recovery(); }

}  // namespace btd
