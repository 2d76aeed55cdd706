// The part of Heap that looks for contradictions in an open heap.
#include <string>

#include "alloc/crc.h"
#include "alloc/heap.h"

namespace btd {
namespace {

// Why a segment that DRAM says is in use contradicts NVRAM; empty if it does not.
std::string contradiction(const Segment& segment, const SegmentHeader& header) {
  const bool in_record_only =
      segment.large() && !segment.recoverable() && !segment.is_allocated(0);  // not committed
  if (in_record_only) return {};
  if (checked_value(header.word) != segment.word.pack()) {
    return "is in use, but its header does not say so";
  }
  for (std::uint32_t i = 0; i < segment.words; ++i) {
    const std::uint64_t live = segment.load_live(i);
    if ((live & ~segment.existing(i)) != 0) return "has bits of slots that do not exist";
    if (segment.recoverable()) {
      // A cache may keep more than is allocated, never less.
      if (segment.state != nullptr && (segment.pack_state(i) & ~live) != 0)
        return "has blocks whose bits say that they are free";
    } else if ((segment.avail[i] & live) != 0) {
      return "has blocks that could be allocated a second time";
    }
  }
  return {};
}

// Why the header of a segment that is free, or inside a large extent, contradicts that.
std::string remnant(const SegmentHeader& header) {
  if (header.word == 0) return {};
  const std::optional<std::uint64_t> bits = checked_value(header.word);
  if (!bits) return "has a damaged header";
  const SegmentWord word = SegmentWord::unpack(*bits);
  const bool freed = word.kind == SegmentKind::kLarge &&
                     word.contract == Contract::kTransactional && (header.live[0] & 1U) == 0;
  return freed ? "" : "is free, but its header says that it is in use";
}

}  // namespace

void Heap::check(const std::function<void(const std::string&)>& report) const {
  const std::optional<std::uint64_t> arenas = checked_value(header()->arena_count);
  if (!arenas) report("The heap's number of arenas is damaged.");
  if (!checked_value(header()->state)) report("The heap's state word is damaged.");
  for (const std::uint32_t arena : table_.own_arenas()) check_arena(arena, report);
}

void Heap::check_arena(std::uint32_t index,
                       const std::function<void(const std::string&)>& report) const {
  const ArenaIdentity& identity = header(index)->identity;
  if (Status sound = check_identity(source_, identity, index); !sound) {
    report(sound.error().message);
    return;  // nothing in it can be found
  }
  const Offset start = index * source_.arena_bytes();
  if (checked_value(header(index)->grown) != table_.grown(index))
    report("The size of arena " + std::to_string(index) + " is damaged.");
  for (std::uint32_t i = 0; i < table_.grown(index); ++i) {
    const Offset at = start + identity.segments_offset + i * kSegmentBytes;
    const Segment* const segment = table_.segment_of(at);
    const auto& media = *reinterpret_cast<const SegmentHeader*>(
        base_ + start + identity.table_offset + i * sizeof(SegmentHeader));
    const bool inside = segment != nullptr && segment->id != at / kSegmentBytes;
    const std::string wrong =
        segment == nullptr || inside ? remnant(media) : contradiction(*segment, media);
    if (!wrong.empty()) {
      report("Segment " + std::to_string(i) + " of arena " + std::to_string(index) + " " + wrong +
             "; close the heap and restore it from a backup.");
    }
  }
}

}  // namespace btd
