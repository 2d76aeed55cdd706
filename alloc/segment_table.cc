#include "alloc/segment_table.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "alloc/crc.h"

namespace btd {
namespace {

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

SegmentTable::SegmentTable(ArenaSource& source)
    : base_(source.base()),
      arena_bytes_(source.arena_bytes()),
      stride_(source.arena_bytes() / kSegmentBytes + 1),
      persist_(source.persist()) {}

Status SegmentTable::attach(std::uint32_t index, const Geometry& geometry, bool clean,
                            std::vector<Segment*>& found) {
  auto arena = std::make_unique<Arena>();
  arena->geometry = geometry;
  arena->base = index * arena_bytes_;
  arena->index = index;
  arena->segments = std::make_unique<std::atomic<Segment*>[]>(geometry.segment_count);
  Arena& own = *arena;
  arenas_[index] = std::move(arena);
  arena_count_.store(index + 1, std::memory_order_release);
  const std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < geometry.segment_count;) {
    std::uint32_t used = 0;
    BTD_TRY(read_segment(own, i, clean, found, used));
    if (used == 0) extents_.put(id_of(index, i), 1);
    i += std::max(used, 1U);
  }
  return {};
}

Status SegmentTable::damaged(const Arena& arena, std::uint32_t index, const char* what) const {
  return fail(EUCLEAN, "The header of segment " + std::to_string(index) + " of arena " +
                           std::to_string(arena.index) + " is damaged (" + what +
                           "); run `btd check`, or restore the heap from a backup.");
}

// Sets `used` to the segments that the one at `index` takes; 0 when it is free.
Status SegmentTable::read_segment(Arena& arena, std::uint32_t index, bool clean,
                                  std::vector<Segment*>& found, std::uint32_t& used) {
  const Offset at = arena.base + arena.geometry.table_offset + index * sizeof(SegmentHeader);
  const auto* header = reinterpret_cast<const SegmentHeader*>(base_ + at);
  if (header->word == 0) return {};
  const std::optional<std::uint64_t> bits = checked_value(header->word);
  if (!bits) return damaged(arena, index, "its checksum does not hold");
  const SegmentWord word = SegmentWord::unpack(*bits);
  const bool small = word.kind == SegmentKind::kSmall;
  if ((!small && word.kind != SegmentKind::kLarge) || word.contract > Contract::kRecoverable) {
    return damaged(arena, index, "its kind is unknown");
  }
  if (small ? word.size_class >= kClasses || word.span != 1
            : word.span == 0 || word.span > arena.geometry.segment_count - index) {
    return damaged(arena, index, "its size is out of range");
  }
  // A transactional large extent that was freed keeps its header: with the bit clear it means
  // nothing.
  const bool recoverable = word.contract == Contract::kRecoverable;
  if (!small && !recoverable && (header->bitmap[0] & 1U) == 0) return {};
  Segment* segment = make(word, id_of(arena.index, index));
  if (!load_bitmap(*segment, clean)) {
    return damaged(arena, index, "its bitmap has slots that do not exist");
  }
  found.push_back(segment);
  used = word.span;
  return {};
}

Status SegmentTable::load_bitmap(Segment& segment, bool clean) const {
  const auto* words = reinterpret_cast<const std::uint64_t*>(base_ + segment.bitmap);
  const bool trusted = clean || segment.word.contract == Contract::kTransactional;
  segment.free_slots = 0;
  for (std::uint32_t i = 0; i < segment.words; ++i) {
    const std::uint32_t in_word = std::min(segment.slots - i * 64, 64U);
    const std::uint64_t exist =
        in_word == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
    const std::uint64_t bits = trusted ? words[i] : exist;
    if ((bits & ~exist) != 0) return fail(EUCLEAN);
    segment.live[i].store(bits, std::memory_order_relaxed);
    segment.avail[i] = ~bits & exist;
    segment.free_slots += static_cast<std::uint32_t>(std::popcount(segment.avail[i]));
  }
  return {};
}

Segment* SegmentTable::make(SegmentWord word, std::uint64_t id) {
  Segment* segment = nullptr;
  if (spare_.empty()) {
    segment = &pool_.emplace_back();
  } else {
    segment = spare_.back();
    spare_.pop_back();
  }
  const Arena& arena = *arenas_[id / stride_];
  const std::uint64_t index = id % stride_;
  const Offset start = arena.base + arena.geometry.segments_offset + index * kSegmentBytes;
  segment->id = id;
  segment->word = word;
  segment->header = arena.base + arena.geometry.table_offset + index * sizeof(SegmentHeader);
  segment->hint = 0;
  segment->list_index = Segment::kNotListed;
  const Offset inline_bitmap = segment->header + offsetof(SegmentHeader, bitmap);
  if (word.kind == SegmentKind::kLarge) {
    segment->data = start;
    segment->slots = segment->words = 1;
    segment->slot_bytes = word.span * kSegmentBytes;
    segment->bitmap = inline_bitmap;
  } else {
    const SizeClass& size = kSizeClasses[word.size_class];
    segment->data = start + size.data_offset;
    segment->slots = size.slots;
    segment->words = size.bitmap_words;
    segment->slot_bytes = size.bytes;
    segment->bitmap = size.inline_bitmap ? inline_bitmap : start;
  }
  segment->avail = std::make_unique<std::uint64_t[]>(segment->words);
  segment->live = std::make_unique<std::atomic<std::uint64_t>[]>(segment->words);
  segment->owner.store(nullptr, std::memory_order_relaxed);
  segment->remote_count.store(0, std::memory_order_relaxed);
  segment->logged_seq.store(0, std::memory_order_relaxed);
  segment->remote.reset();
  if (word.contract == Contract::kRecoverable) {
    segment->remote = std::make_unique<std::atomic<std::uint64_t>[]>(segment->words);
  }
  segment->free_slots = segment->slots;
  for (std::uint32_t i = 0; i < segment->words; ++i) {
    const std::uint32_t in_word = std::min(segment->slots - i * 64, 64U);
    segment->avail[i] = in_word == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << in_word) - 1;
  }
  set_pointers(*segment, segment);
  return segment;
}

void SegmentTable::set_pointers(const Segment& segment, Segment* to) {
  Arena& arena = *arenas_[segment.id / stride_];
  const std::uint64_t first = segment.id % stride_;
  for (std::uint64_t i = first; i < first + segment.word.span; ++i) {
    arena.segments[i].store(to, std::memory_order_release);
  }
}

Segment* SegmentTable::take(SegmentWord word) {
  const std::lock_guard lock(mutex_);
  const std::optional<std::uint64_t> id = extents_.take(word.span);
  return id ? make(word, *id) : nullptr;
}

Status SegmentTable::create(std::span<Segment* const> fresh) {
  bool cleared = false;
  for (const Segment* segment : fresh) {
    // A recoverable segment's bitmap means nothing before a clean close writes it.
    if (segment->word.contract == Contract::kRecoverable) continue;
    // At the head lies old data, whose zeros need not be durable. An inline bitmap that reads as
    // zero is zero on NVRAM too: retire() and the journal fenced it.
    auto* words = reinterpret_cast<std::uint64_t*>(base_ + segment->bitmap);
    const bool zero = std::all_of(words, words + segment->words, [](auto w) { return w == 0; });
    if (zero && kSizeClasses[segment->word.size_class].inline_bitmap) continue;
    std::fill(words, words + segment->words, 0);
    persist_.flush(words, segment->words * kWordBytes);
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
    for (auto& word : header->bitmap) {
      if (word != 0) persist_.store(word, std::uint64_t{0});
    }
    persist_.store(header->word, std::uint64_t{0});
  }
  if (!persist_.drain()) return persist_.health();
  for (Segment* segment : empty) put_back(segment);
  return {};
}

void SegmentTable::put_back(Segment* segment) {
  set_pointers(*segment, nullptr);
  const std::lock_guard lock(mutex_);
  extents_.put(segment->id, segment->word.span);
  spare_.push_back(segment);
}

Slot SegmentTable::find(Offset at) const {
  const std::uint64_t arena_index = at / arena_bytes_;
  if (arena_index >= arenas()) return {};
  const Arena& arena = *arenas_[arena_index];
  const Offset first = arena.base + arena.geometry.segments_offset;
  if (at < first) return {};
  const std::uint64_t index = (at - first) / kSegmentBytes;
  if (index >= arena.geometry.segment_count) return {};
  Segment* segment = arena.segments[index].load(std::memory_order_acquire);
  if (segment == nullptr || at < segment->data) return {};
  const std::uint64_t slot = (at - segment->data) / segment->slot_bytes;
  if (slot >= segment->slots) return {};
  return {.segment = segment, .index = static_cast<std::uint32_t>(slot)};
}

std::uint64_t SegmentTable::free_segments() const {
  const std::lock_guard lock(mutex_);
  return extents_.free_segments();
}

std::uint64_t SegmentTable::total_segments() const {
  std::uint64_t total = 0;
  for (std::uint32_t i = 0; i < arenas(); ++i) total += arenas_[i]->geometry.segment_count;
  return total;
}

std::uint64_t SegmentTable::longest_run() const {
  const std::lock_guard lock(mutex_);
  return extents_.longest();
}

}  // namespace btd
