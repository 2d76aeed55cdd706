#include "libbtd/tools/census.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "alloc/segment_table.h"

namespace btd {
namespace {

SegmentUse damaged(SegmentUse use, const char* what) {
  use.kind = SegmentUse::Kind::kDamaged;
  use.span = 1;
  use.damage = what;
  return use;
}

// The bitmaps of a segment. `freed` is null where it means nothing: after the machine stopped.
struct Bitmaps {
  const std::uint64_t* live;
  const std::uint64_t* freed;

  Bitmaps(const HeapImage& image, const void* at, std::uint32_t words)
      : live(static_cast<const std::uint64_t*>(at)),
        freed(image.bits_hold() ? live + words : nullptr) {}

  // The slots in use; unset where there are bits of slots that do not exist.
  [[nodiscard]] std::optional<std::uint32_t> count(std::uint32_t slots) const {
    std::uint32_t used = 0;
    for (std::uint32_t i = 0; i * 64 < slots; ++i) {
      const std::uint64_t word = __atomic_load_n(live + i, __ATOMIC_RELAXED);
      const std::uint32_t left = slots - i * 64;
      if (left < 64 && word >> left != 0) return std::nullopt;
      // Without those that are being freed.
      const std::uint64_t out = freed != nullptr ? __atomic_load_n(freed + i, __ATOMIC_RELAXED) : 0;
      used += static_cast<std::uint32_t>(std::popcount(word & ~out));
    }
    return used;
  }
};

// What the header at `use.index` says; kFree where it says nothing.
SegmentUse read_header(const HeapImage& image, const SegmentTable::Geometry& plan,
                       std::uint32_t grown, SegmentUse use) {
  const std::byte* const arena = image.base() + use.arena * image.arena_bytes();
  const std::byte* const at = arena + plan.table_offset + use.index * sizeof(SegmentHeader);
  const auto& header = *reinterpret_cast<const SegmentHeader*>(at);
  const std::uint64_t raw = header.word;
  if (raw == 0) return use;
  const SegmentTable::Decoded decoded = SegmentTable::decode(raw, grown - use.index);
  use.word = decoded.word;
  if (decoded.damage != nullptr) return damaged(use, decoded.damage);
  const SegmentWord& word = use.word;
  const bool small = word.kind == SegmentKind::kSmall;
  const Bitmaps in_header(image, header.live, kInlineBitmapWords);
  if (!small) {
    const std::optional<std::uint32_t> used = in_header.count(1);
    if (!used) return damaged(use, "its bitmap has slots that do not exist");
    // A transactional extent that was freed keeps its header.
    if (*used == 0 && !use.recoverable()) return use;
    use.kind = SegmentUse::Kind::kLarge;
    use.slots = 1;
    use.used = *used;
    use.slot_bytes = word.span * kSegmentBytes;
  } else {
    const SizeClass& size = kSizeClasses.at(word.size_class);
    const std::uint64_t head = plan.segments_offset + use.index * kSegmentBytes;
    const Bitmaps at_head(image, arena + head, size.bitmap_words);
    use.kind = SegmentUse::Kind::kSmall;
    use.slots = size.slots_in(word.span);
    use.slot_bytes = size.bytes;
    const std::optional<std::uint32_t> used =
        (size.inline_bitmap ? in_header : at_head).count(use.slots);
    if (!used) return damaged(use, "its bitmap has slots that do not exist");
    use.used = *used;
  }
  use.span = word.span;
  return use;
}

void walk_arena(const HeapImage& image, std::uint32_t arena,
                const std::function<void(const SegmentUse&)>& visit) {
  // As computed, not as stored: a damaged arena header must not lead elsewhere.
  const std::uint64_t journal = Journal::media_bytes(
      {.lanes = image.identity().lanes, .lane_bytes = image.identity().lane_bytes});
  const SegmentTable::Geometry plan =
      SegmentTable::plan(image.arena_bytes(), sizeof(ArenaHeader) + (arena == 0 ? journal : 0));
  SegmentUse free{.arena = arena, .span = 0};
  const std::uint32_t grown = image.grown(arena, plan);
  for (std::uint32_t i = 0; i < grown;) {
    const SegmentUse use = read_header(image, plan, grown, {.arena = arena, .index = i});
    if (use.kind == SegmentUse::Kind::kFree) {
      if (free.span == 0) free.index = i;
      ++free.span;
      ++i;
      continue;
    }
    if (free.span != 0) visit(free);
    free.span = 0;
    visit(use);
    i += use.span;
  }
  if (free.span != 0) visit(free);
}

}  // namespace

void for_each_segment(const HeapImage& image, const std::function<void(const SegmentUse&)>& visit) {
  for (std::uint32_t arena = 0; arena < image.arenas(); ++arena) walk_arena(image, arena, visit);
}

void Census::add(const SegmentUse& segment) {
  total_segments += segment.span;
  const std::size_t contract = segment.recoverable() ? 1 : 0;
  switch (segment.kind) {
    case SegmentUse::Kind::kFree:
      free_segments += segment.span;
      ++free_runs;
      longest_run = std::max<std::uint64_t>(longest_run, segment.span);
      return;
    case SegmentUse::Kind::kDamaged:
      ++damaged;
      return;
    case SegmentUse::Kind::kSmall:
      classes.at(contract).at(segment.word.size_class).add(segment);
      break;
    case SegmentUse::Kind::kLarge:
      large.at(contract).add(segment);
      large_bytes += segment.used_bytes();
      break;
  }
  used_bytes += segment.used_bytes();
}

Census take_census(const HeapImage& image) {
  Census census;
  for_each_segment(image, [&](const SegmentUse& segment) { census.add(segment); });
  return census;
}

}  // namespace btd
