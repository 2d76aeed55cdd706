#include "alloc/map_page.h"

#include <algorithm>
#include <cassert>

#include "alloc/metastore.h"

namespace btd {

bool MapPageView::sound(unsigned level) const {
  const auto h = header();
  const auto type = level == 0 ? MapPageType::kLeaf : MapPageType::kInner;
  if (h.magic != kMapPageMagic || h.version != kMapPageVersion || h.type != type ||
      h.level != level)
    return false;
  if (h.prefix_len > kMaxKeyBytes || h.cell_begin > kMapPageBytes - h.prefix_len) return false;
  return sizeof(MapPageHeader) + h.count * kMapSlotBytes <= h.cell_begin &&
         h.dead <= kMapPageBytes - h.prefix_len - h.cell_begin;
}

std::size_t MapPageView::used() const {
  const auto h = header();
  return h.count * kMapSlotBytes + (kMapPageBytes - h.cell_begin) - h.dead;
}

bool MapPageView::entry(unsigned slot, Entry& out) const {
  const unsigned at = slot_offset(slot);
  const unsigned limit = end();
  if (at < load<std::uint16_t>(10) || at + sizeof(MapCellHeader) > limit) [[unlikely]]
    return false;
  const auto h = load<MapCellHeader>(at);
  const unsigned value_len = h.value_len & static_cast<std::uint16_t>(~kMapOverflowBit);
  const unsigned key_at = at + static_cast<unsigned>(sizeof(MapCellHeader));
  if (key_at + h.key_len + value_len > limit || prefix_len() + h.key_len > kMaxKeyBytes)
      [[unlikely]]
    return false;
  out.suffix = text(key_at, h.key_len);
  out.value = text(key_at + h.key_len, value_len);
  out.overflow = (h.value_len & kMapOverflowBit) != 0;
  out.offset = at;
  return !out.overflow || value_len == sizeof(MapOverflowRef);
}

namespace {

// The first 8 bytes as a number that orders as they do.
std::uint64_t head_of(const char* bytes) {
  std::uint64_t v = 0;
  std::memcpy(&v, bytes, sizeof v);
  return std::byteswap(v);
}

}  // namespace

// The hot loop of every call: checks only what it reads of a cell, and mostly decides on one load.
MapPageView::Position MapPageView::search(std::string_view key, unsigned lo,
                                          bool past_equal) const {
  const auto h = header();
  const std::string_view shared = prefix();
  const int order = key.substr(0, shared.size()).compare(shared);
  if (order != 0) return {order < 0 ? lo : h.count, false, false};
  key.remove_prefix(shared.size());
  const bool long_key = key.size() >= sizeof(std::uint64_t);
  const std::uint64_t head = long_key ? head_of(key.data()) : 0;
  const unsigned limit = static_cast<unsigned>(kMapPageBytes) - h.prefix_len;
  unsigned hi = h.count;
  bool found = false;
  while (lo < hi) {
    const unsigned mid = (lo + hi) / 2;
    const unsigned at = slot_offset(mid);
    if (at < h.cell_begin || at + sizeof(MapCellHeader) > limit) [[unlikely]]
      return {0, false, true};
    const unsigned len = load<std::uint16_t>(at);
    if (at + sizeof(MapCellHeader) + len > limit) [[unlikely]]
      return {0, false, true};
    const std::string_view suffix = text(at + sizeof(MapCellHeader), len);
    bool above = false;  // the key is above the cell's
    if (const std::uint64_t other = long_key && len >= sizeof head ? head_of(suffix.data()) : head;
        other != head) {
      above = head > other;
    } else {
      const int c = key.compare(suffix);
      found |= c == 0;
      above = c > 0 || (past_equal && c == 0);
    }
    (above ? lo : hi) = above ? mid + 1 : mid;
  }
  return {lo, found, false};
}

MapPageView::Position MapPageView::lower_bound(std::string_view key) const {
  return search(key, 0, false);
}

MapPageView::Position MapPageView::child_slot(std::string_view key) const {
  Position p = search(key, 1, true);
  if (!p.damaged) --p.slot;  // at least 1: the first child takes what is below all keys
  return p;
}

std::uint64_t MapPageView::child(unsigned slot) const {
  Entry e;
  if (slot >= count() || !entry(slot, e) || e.value.size() != sizeof(std::uint64_t) || e.overflow)
    return 0;
  std::uint64_t v = 0;
  std::memcpy(&v, e.value.data(), sizeof v);
  return v;
}

bool MapPageView::collect(std::vector<MapCell>& out, std::vector<char>& arena) const {
  const unsigned n = count();
  const std::string_view shared = prefix();
  std::size_t cells = 0;
  std::size_t keys = 0;
  Entry e;
  for (unsigned i = 0; i < n; ++i) {
    if (!entry(i, e)) return false;
    cells += e.cell_bytes();
    keys += shared.size() + e.suffix.size();
  }
  if (cells > end() - header().cell_begin) return false;
  assert(arena.empty());
  arena.reserve(keys);  // no view into it moves
  for (unsigned i = 0; i < n; ++i) {
    if (!entry(i, e)) return false;
    const std::size_t begin = arena.size();
    arena.insert(arena.end(), shared.begin(), shared.end());
    arena.insert(arena.end(), e.suffix.begin(), e.suffix.end());
    out.push_back({{arena.data() + begin, arena.size() - begin}, e.value, e.overflow});
  }
  return true;
}

void MapPageEdit::write_cell(unsigned at, std::string_view suffix, std::string_view value,
                             bool overflow) {
  MapCellHeader h{};
  h.key_len = static_cast<std::uint16_t>(suffix.size());
  h.value_len = static_cast<std::uint16_t>(value.size() | (overflow ? kMapOverflowBit : 0U));
  store(at, h);
  char* const to = reinterpret_cast<char*>(bytes_) + at + sizeof h;
  suffix.copy(to, suffix.size());  // either may be empty and point nowhere
  value.copy(to + suffix.size(), value.size());
}

namespace {

// The keys that count: an inner page's first key stands for the lowest of all and is not stored.
std::span<const MapCell> keyed(unsigned level, std::span<const MapCell> cells) {
  return level == 0 || cells.empty() ? cells : cells.subspan(1);
}

std::size_t shared_prefix(std::span<const MapCell> sorted) {
  return sorted.empty() ? 0 : common_prefix(sorted.front().key, sorted.back().key);
}

}  // namespace

void MapPageEdit::build(unsigned level, std::span<const MapCell> cells) {
  const auto counted = keyed(level, cells);
  const std::size_t prefix = shared_prefix(counted);
  MapPageHeader h{};
  h.magic = kMapPageMagic;
  h.version = kMapPageVersion;
  h.type = level == 0 ? MapPageType::kLeaf : MapPageType::kInner;
  h.level = static_cast<std::uint8_t>(level);
  h.count = static_cast<std::uint16_t>(cells.size());
  h.prefix_len = static_cast<std::uint16_t>(prefix);
  unsigned at = static_cast<unsigned>(kMapPageBytes - prefix);
  if (prefix != 0) std::memcpy(bytes_ + at, counted.front().key.data(), prefix);
  for (unsigned i = 0; i < cells.size(); ++i) {
    const bool bare = level != 0 && i == 0;
    const std::string_view suffix = bare ? std::string_view{} : cells[i].key.substr(prefix);
    at -= static_cast<unsigned>(sizeof(MapCellHeader) + suffix.size() + cells[i].value.size());
    write_cell(at, suffix, cells[i].value, cells[i].overflow);
    set_slot(i, at);
  }
  h.cell_begin = static_cast<std::uint16_t>(at);
  h.last_slot = h.count;
  put_header(h);
}

bool MapPageEdit::insert(unsigned slot, const MapCell& cell) {
  auto h = header();
  const std::string_view shared = prefix();
  if (!cell.key.starts_with(shared)) return false;
  const std::string_view suffix = cell.key.substr(shared.size());
  const std::size_t need = sizeof(MapCellHeader) + suffix.size() + cell.value.size();
  const std::size_t slots_end = sizeof(MapPageHeader) + h.count * kMapSlotBytes;
  if (h.cell_begin < slots_end + kMapSlotBytes + need) return false;
  const unsigned at = h.cell_begin - static_cast<unsigned>(need);
  write_cell(at, suffix, cell.value, cell.overflow);
  std::byte* const place = bytes_ + sizeof(MapPageHeader) + slot * kMapSlotBytes;
  std::memmove(place + kMapSlotBytes, place, (h.count - slot) * kMapSlotBytes);
  set_slot(slot, at);
  h.cell_begin = static_cast<std::uint16_t>(at);
  ++h.count;
  const bool follows = slot == h.last_slot + 1U;
  h.streak = static_cast<std::uint16_t>(follows ? std::min(h.streak + 1, 0xffff) : 0);
  h.last_slot = static_cast<std::uint16_t>(slot);
  put_header(h);
  return true;
}

bool MapPageEdit::replace(unsigned slot, const Entry& old, std::string_view value, bool overflow) {
  auto h = header();
  const std::size_t before = old.cell_bytes();
  const std::size_t after = before - old.value.size() + value.size();
  if (after <= before) {
    write_cell(old.offset, old.suffix, value, overflow);
    h.dead = static_cast<std::uint16_t>(h.dead + (before - after));
    put_header(h);
    return true;
  }
  const std::size_t slots_end = sizeof(MapPageHeader) + h.count * kMapSlotBytes;
  if (h.cell_begin < slots_end + after) return false;
  const unsigned at = h.cell_begin - static_cast<unsigned>(after);
  write_cell(at, old.suffix, value, overflow);
  set_slot(slot, at);
  h.cell_begin = static_cast<std::uint16_t>(at);
  h.dead = static_cast<std::uint16_t>(h.dead + before);
  put_header(h);
  return true;
}

void MapPageEdit::erase(unsigned slot, const Entry& old) {
  auto h = header();
  std::byte* const place = bytes_ + sizeof(MapPageHeader) + slot * kMapSlotBytes;
  std::memmove(place, place + kMapSlotBytes, (h.count - slot - 1U) * kMapSlotBytes);
  --h.count;
  const auto freed = static_cast<unsigned>(old.cell_bytes());
  if (old.offset == h.cell_begin) {
    h.cell_begin = static_cast<std::uint16_t>(h.cell_begin + freed);
  } else {
    h.dead = static_cast<std::uint16_t>(h.dead + freed);
  }
  if (h.count == 0) {
    h.cell_begin = static_cast<std::uint16_t>(kMapPageBytes - h.prefix_len);
    h.dead = 0;
  }
  h.streak = 0;
  put_header(h);
}

void MapPageEdit::truncate(unsigned count, std::size_t bytes) {
  auto h = header();
  h.count = static_cast<std::uint16_t>(count);
  h.dead = static_cast<std::uint16_t>(h.dead + bytes);
  h.streak = 0;
  put_header(h);
}

void MapPageEdit::set_history(unsigned last_slot, unsigned streak) {
  store(offsetof(MapPageHeader, last_slot), static_cast<std::uint16_t>(last_slot));
  store(offsetof(MapPageHeader, streak), static_cast<std::uint16_t>(streak));
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first -
      a.begin());
}

std::size_t map_cells_bytes(unsigned level, std::span<const MapCell> cells) {
  const auto counted = keyed(level, cells);
  const std::size_t prefix = shared_prefix(counted);
  std::size_t bytes = prefix + cells.size() * kMapCellOverhead;
  for (const auto& c : cells) bytes += c.value.size();
  for (const auto& c : counted) bytes += c.key.size() - prefix;
  return bytes;
}

}  // namespace btd
