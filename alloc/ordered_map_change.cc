// How the map changes: inserts that split pages, erases that merge them.
//
// Split policy. A page that is full is rebuilt in place if that frees kWorthRebuilding bytes; else
// it splits: after ascending inserts at the insertion point, which leaves the left page full,
// otherwise into halves of equal bytes. Merge policy: a page under kMergeBelow joins a neighbour of
// the same parent if both fit kMergeUpTo, so that a merged page has room; an empty page goes at
// once. Erasing allocates nothing: a merge writes the left page and frees the right one, and only
// removes from the parent.
#include <algorithm>
#include <cstring>
#include <utility>

#include "alloc/crc.h"
#include "alloc/ordered_map.h"
#include "alloc/ordered_map_parts.h"

namespace btd {

using map_parts::damaged;

namespace {

constexpr std::size_t kWorthRebuilding = kMapRoom / 16;  // a rebuild then pays for some inserts
constexpr std::size_t kMergeBelow = kMapRoom / 3;
constexpr std::size_t kMergeUpTo = kMapRoom * 3 / 4;
constexpr unsigned kAscending = 4;  // so many inserts side by side are no accident

std::string_view bytes_of(const std::uint64_t& child) {
  return {reinterpret_cast<const char*>(&child), sizeof child};
}

bool fits(unsigned level, std::span<const MapCell> cells) {
  return map_cells_bytes(level, cells) <= kMapRoom;
}

// Where to cut the cells so that the fuller half is as small as it can be. Both halves have a cell.
std::size_t middle(unsigned level, std::span<const MapCell> cells) {
  auto left = [&](std::size_t s) { return map_cells_bytes(level, cells.first(s)); };
  auto right = [&](std::size_t s) { return map_cells_bytes(level, cells.subspan(s)); };
  std::size_t lo = 1;
  std::size_t hi = cells.size() - 1;
  while (lo < hi) {  // the left half only grows with s, the right one only shrinks
    const std::size_t mid = (lo + hi) / 2;
    if (left(mid) >= right(mid)) {
      hi = mid;
    } else {
      lo = mid + 1;
    }
  }
  if (lo > 1 && right(lo - 1) < left(lo)) --lo;
  return lo;
}

// Where to cut after ascending inserts, the last of them at `slot`: before it, which leaves the
// left page full; but what lies above it goes away first, so that it does not travel from page to
// page.
std::size_t ascending_cut(unsigned level, std::span<const MapCell> cells, std::size_t slot,
                          std::size_t otherwise) {
  const std::size_t after = slot + 1;
  if (after < cells.size() && fits(level, cells.first(after))) return after;
  return slot > 0 && fits(level, cells.subspan(slot)) ? slot : otherwise;
}

// The shortest key that is above `low` and not above `high`.
std::string_view separate(std::string_view low, std::string_view high) {
  return high.substr(0, common_prefix(low, high) + 1);
}

}  // namespace

// Pages taken apart: copies of them, so that they can be built anew, and their entries.
struct OrderedMap::Change::Cells {
  struct Source {
    std::array<std::byte, kMapPageBytes> copy;
    std::vector<char> keys;
  };
  std::array<Source, 2> sources;
  std::vector<MapCell> list;

  Status take(unsigned which, const std::byte* page, Offset at) {
    Source& s = sources[which];
    std::memcpy(s.copy.data(), page, kMapPageBytes);
    if (!MapPageView(s.copy.data()).collect(list, s.keys))
      return damaged(at, "the page's entries do not lie side by side");
    return {};
  }
};

OrderedMap::Change::Change(OrderedMap& map, Tx& tx, bool shrinking)
    : map_(map), tx_(tx), shrinking_(shrinking), header_(map.header()) {}

Result<MapPageView> OrderedMap::Change::view(Offset page, unsigned level) const {
  if (!map_parts::readable(*map_.heap_, page, kMapPageBytes)) [[unlikely]]
    return damaged(page, "a page is outside the heap");
  const MapPageView view(tx_.view(page));
  if (!view.sound(level)) [[unlikely]]
    return damaged(page, "this is not a page of level " + std::to_string(level));
  return view;
}

Result<MapPageEdit> OrderedMap::Change::edit(Offset page, unsigned level) {
  BTD_TRY(view(page, level));
  auto bytes = tx_.edit(page, kMapPageBytes);
  if (!bytes) return damaged(page, "the page is not an allocated block");
  return MapPageEdit(*bytes);
}

Status OrderedMap::Change::free_block(Offset block) {
  Status freed = tx_.free(block);
  if (!freed && freed.error().code == EINVAL)
    return damaged(block, "what the map uses is not an allocated block");
  return freed;
}

Result<MapPageEdit> OrderedMap::Change::edit_fresh(Offset page) {
  BTD_ASSIGN(std::byte* const bytes, tx_.edit(page, kMapPageBytes));
  return MapPageEdit(bytes);
}

Result<Offset> OrderedMap::Change::new_page(unsigned level) {
  auto at = tx_.alloc(kMapPageBytes);
  if (!at) {
    if (at.error().code != ENOSPC || !shrinking_) return at;
    const auto spare = std::find_if(header_.reserve.begin(), header_.reserve.end(),
                                    [](Offset o) { return o != 0; });
    if (spare == header_.reserve.end()) return at;
    if (!map_parts::readable(*map_.heap_, *spare, kMapPageBytes))
      return damaged(map_.header_at_, "a page of the reserve is outside the heap");
    at = std::exchange(*spare, 0);
    used_reserve_ = true;
  }
  BTD_ASSIGN(std::byte* const bytes, tx_.edit(*at, kMapPageBytes));
  std::memset(bytes, 0, kMapPageBytes);
  ++(level == 0 ? header_.leaves : header_.inners);
  return at;
}

Status OrderedMap::Change::free_page(Offset page, unsigned level) {
  --(level == 0 ? header_.leaves : header_.inners);
  return free_block(page);
}

Result<Offset> OrderedMap::Change::write_overflow(std::string_view value, std::uint32_t check) {
  const std::size_t bytes = sizeof(MapOverflowHeader) + value.size();
  BTD_ASSIGN(const Offset at, tx_.alloc(bytes));
  BTD_ASSIGN(std::byte* const block, tx_.edit(at, bytes));
  MapOverflowHeader h{};
  h.magic = kMapOverflowMagic;
  h.size = static_cast<std::uint32_t>(value.size());
  h.check = check;
  std::memcpy(block, &h, sizeof h);
  std::memcpy(block + sizeof h, value.data(), value.size());
  ++header_.overflow_blocks;
  header_.overflow_bytes += bytes;
  return at;
}

Status OrderedMap::Change::free_overflow(std::string_view ref) {
  // Only what surely is the entry's value is freed: a damaged entry must not free another's block.
  BTD_ASSIGN(const std::string_view value,
             map_parts::overflow_value(*map_.heap_, &tx_, ref, false));
  --header_.overflow_blocks;
  header_.overflow_bytes -= sizeof(MapOverflowHeader) + value.size();
  return free_block(map_parts::load_ref(ref).block);
}

// Fills path_ down to the leaf that would hold the key, and finds the key's place in it.
Status OrderedMap::Change::descend(std::string_view key, MapPageView::Position& at) {
  if (header_.height == 0 || header_.height > kMapMaxHeight)
    return damaged(map_.header_at_, "the height in the header is impossible");
  path_[0] = {header_.root, 0};
  for (unsigned depth = 0;; ++depth) {
    const unsigned level = level_of(depth);
    BTD_ASSIGN(const MapPageView page, view(path_[depth].page, level));
    if (level != 0 && page.count() == 0)
      return damaged(path_[depth].page, "an inner page is empty");
    at = level == 0 ? page.lower_bound(key) : page.child_slot(key);
    if (at.damaged) return damaged(path_[depth].page, "an entry is outside its page");
    path_[depth].slot = at.slot;
    if (level == 0) return {};
    path_[depth + 1] = {page.child(at.slot), 0};
  }
}

Status OrderedMap::Change::put(std::string_view key, std::string_view value) {
  MapOverflowRef ref{};
  const bool overflow = value.size() > kMapInlineValue;
  if (overflow) {
    ref.size = static_cast<std::uint32_t>(value.size());
    ref.check = crc32c(value.data(), value.size());
    BTD_ASSIGN(ref.block, write_overflow(value, ref.check));
    value = {reinterpret_cast<const char*>(&ref), sizeof ref};
  }
  const MapCell cell{key, value, overflow};
  if (header_.root == 0) return start_tree(cell);
  MapPageView::Position at;
  BTD_TRY(descend(key, at));
  const unsigned leaf = header_.height - 1;
  if (!at.found) {
    ++header_.entries;
    return insert(leaf, cell, at.slot, false);
  }
  BTD_ASSIGN(const MapPageView page, view(path_[leaf].page, 0));
  MapPageView::Entry old;
  if (!page.entry(at.slot, old)) return damaged(path_[leaf].page, "an entry is outside its page");
  if (old.overflow) BTD_TRY(free_overflow(old.value));
  return insert(leaf, cell, at.slot, true);
}

Status OrderedMap::Change::start_tree(const MapCell& cell) {
  BTD_ASSIGN(const Offset root, new_page(0));
  BTD_ASSIGN(MapPageEdit page, edit_fresh(root));
  page.build(0, std::span(&cell, 1));
  header_.root = root;
  header_.height = 1;
  header_.entries = 1;
  return {};
}

// Puts the cell into the page at `depth` of the path: before `slot`, or in place of it.
Status OrderedMap::Change::insert(unsigned depth, const MapCell& cell, unsigned slot,
                                  bool replace) {
  const unsigned level = level_of(depth);
  const Offset at = path_[depth].page;
  BTD_ASSIGN(MapPageEdit page, edit(at, level));
  const MapPageHeader before = page.header();
  const bool follows = !replace && slot == before.last_slot + 1U;
  if (replace) {
    MapPageView::Entry old;
    if (!page.entry(slot, old)) return damaged(at, "an entry is outside its page");
    if (page.replace(slot, old, cell.value, cell.overflow)) return {};
  } else if (page.insert(slot, cell)) {
    return {};
  }
  Cells cells;
  BTD_TRY(cells.take(0, tx_.view(at), at));
  const auto place = cells.list.begin() + static_cast<std::ptrdiff_t>(slot);
  if (replace) {
    place->value = cell.value;
    place->overflow = cell.overflow;
  } else {
    cells.list.insert(place, cell);
  }
  const std::size_t bytes = map_cells_bytes(level, cells.list);
  const unsigned streak = follows ? before.streak + 1U : 0;
  auto rebuild = [&] {
    page.build(level, cells.list);
    page.set_history(replace ? before.last_slot : slot, replace ? before.streak : streak);
  };
  if (bytes + kWorthRebuilding > kMapRoom) {
    auto right = new_page(level);
    if (right) return split(depth, {slot, streak}, cells, *right);
    if (right.error().code != ENOSPC || bytes > kMapRoom)
      return std::unexpected<Error>(std::move(right).error());
  }
  rebuild();
  return {};
}

// Spreads the cells of the page at `depth`, the new one at `news.slot` among them, over it and
// `right`.
Status OrderedMap::Change::split(unsigned depth, const New& news, Cells& cells, Offset right) {
  const unsigned level = level_of(depth);
  const Offset at = path_[depth].page;
  const std::span<const MapCell> all(cells.list);
  std::size_t cut = middle(level, all);
  if (news.streak >= kAscending) cut = ascending_cut(level, all, news.slot, cut);
  if (!fits(level, all.first(cut)) || !fits(level, all.subspan(cut)))
    return damaged(at, "the page's entries cannot be split");
  const std::string separator(level == 0 ? separate(all[cut - 1].key, all[cut].key) : all[cut].key);
  const bool goes_right = news.slot >= cut;

  BTD_ASSIGN(MapPageEdit right_page, edit_fresh(right));
  right_page.build(level, all.subspan(cut));
  if (goes_right) right_page.set_history(static_cast<unsigned>(news.slot - cut), news.streak);

  BTD_ASSIGN(MapPageEdit page, edit(at, level));
  if (goes_right) {
    std::size_t removed = 0;
    MapPageView::Entry e;
    for (unsigned i = static_cast<unsigned>(cut); i < page.count(); ++i) {
      if (!page.entry(i, e)) return damaged(at, "an entry is outside its page");
      removed += e.cell_bytes();
    }
    page.truncate(static_cast<unsigned>(cut), removed);
  } else {
    page.build(level, all.first(cut));
    page.set_history(static_cast<unsigned>(news.slot), news.streak);
  }
  if (depth == 0) return grow_root(right, separator);
  return insert(depth - 1, {separator, bytes_of(right), false}, path_[depth - 1].slot + 1, false);
}

Status OrderedMap::Change::grow_root(Offset right, std::string_view separator) {
  if (header_.height >= kMapMaxHeight)
    return damaged(map_.header_at_, "the tree is higher than any tree should be");
  const unsigned level = header_.height;
  BTD_ASSIGN(const Offset root, new_page(level));
  BTD_ASSIGN(MapPageEdit page, edit_fresh(root));
  const std::array<MapCell, 2> children = {MapCell{{}, bytes_of(header_.root), false},
                                           MapCell{separator, bytes_of(right), false}};
  page.build(level, children);
  header_.root = root;
  ++header_.height;
  return {};
}

Result<bool> OrderedMap::Change::erase(std::string_view key) {
  if (header_.root == 0) return false;
  MapPageView::Position at;
  BTD_TRY(descend(key, at));
  if (!at.found) return false;
  const unsigned leaf = header_.height - 1;
  BTD_ASSIGN(MapPageEdit page, edit(path_[leaf].page, 0));
  MapPageView::Entry old;
  if (!page.entry(at.slot, old)) return damaged(path_[leaf].page, "an entry is outside its page");
  if (old.overflow) BTD_TRY(free_overflow(old.value));
  page.erase(at.slot, old);
  --header_.entries;
  BTD_TRY(shrink(leaf));
  return true;
}

// After the page at `depth` lost an entry: drops it or joins it to a neighbour.
Status OrderedMap::Change::shrink(unsigned depth) {
  if (depth == 0) return shrink_root();
  const unsigned level = level_of(depth);
  BTD_ASSIGN(const MapPageView page, view(path_[depth].page, level));
  if (page.count() == 0) {
    BTD_TRY(free_page(path_[depth].page, level));
    return remove_from_parent(depth);
  }
  if (page.used() >= kMergeBelow) return {};
  const unsigned slot = path_[depth - 1].slot;
  BTD_ASSIGN(const MapPageView parent, view(path_[depth - 1].page, level + 1));
  bool merged = false;
  if (slot + 1 < parent.count()) {
    BTD_ASSIGN(merged, merge(depth, slot));
  }
  if (!merged && slot > 0) {
    BTD_ASSIGN(merged, merge(depth, slot - 1));
  }
  return merged ? remove_from_parent(depth) : Status{};
}

Status OrderedMap::Change::shrink_root() {
  while (true) {
    const unsigned level = header_.height - 1;
    BTD_ASSIGN(const MapPageView root, view(header_.root, level));
    if (root.count() != 0 && (level == 0 || root.count() > 1)) return {};
    const Offset child = root.count() == 0 ? 0 : root.child(0);
    if (root.count() != 0 && child == 0) return damaged(header_.root, "an inner page has no child");
    BTD_TRY(free_page(header_.root, level));
    header_.root = child;
    header_.height = child == 0 ? 0 : level;
    if (child == 0) return {};
  }
}

Status OrderedMap::Change::remove_from_parent(unsigned depth) {
  const Step& step = path_[depth - 1];
  BTD_ASSIGN(MapPageEdit parent, edit(step.page, level_of(depth - 1)));
  MapPageView::Entry e;
  if (step.slot >= parent.count() || !parent.entry(step.slot, e))
    return damaged(step.page, "an entry is outside its page");
  parent.erase(step.slot, e);
  return shrink(depth - 1);
}

// Moves the right neighbour of the child at `left_slot` into it and frees it, if all fits. Then the
// path points at the entry of the freed page.
Result<bool> OrderedMap::Change::merge(unsigned depth, unsigned left_slot) {
  const unsigned level = level_of(depth);
  const Offset parent_at = path_[depth - 1].page;
  BTD_ASSIGN(const MapPageView parent, view(parent_at, level + 1));
  const Offset left_at = parent.child(left_slot);
  const Offset right_at = parent.child(left_slot + 1);
  BTD_ASSIGN(const MapPageView left, view(left_at, level));
  BTD_ASSIGN(const MapPageView right, view(right_at, level));
  if (left_at == right_at) return damaged(parent_at, "two entries name the same child");
  if (left.used() + right.used() > kMergeUpTo) return false;
  Cells cells;
  BTD_TRY(cells.take(0, tx_.view(left_at), left_at));
  const std::size_t lefts = cells.list.size();
  BTD_TRY(cells.take(1, tx_.view(right_at), right_at));
  MapPageView::Entry e;
  if (!parent.entry(left_slot + 1, e)) return damaged(parent_at, "an entry is outside its page");
  std::string separator(parent.prefix());
  separator += e.suffix;
  // The first key of an inner page is not its own: the parent knows it.
  if (level != 0 && lefts < cells.list.size()) cells.list[lefts].key = separator;
  if (map_cells_bytes(level, cells.list) > kMergeUpTo) return false;
  BTD_ASSIGN(MapPageEdit page, edit(left_at, level));
  page.build(level, cells.list);
  BTD_TRY(free_page(right_at, level));
  path_[depth - 1].slot = left_slot + 1;
  return true;
}

Status OrderedMap::Change::finish() {
  const auto hole = std::find(header_.reserve.begin(), header_.reserve.end(), Offset{0});
  if (hole != header_.reserve.end() && !used_reserve_) {
    if (auto page = tx_.alloc(kMapPageBytes)) {
      *hole = *page;
    } else if (page.error().code != ENOSPC) {
      return std::unexpected<Error>(std::move(page).error());
    }
  }
  BTD_ASSIGN(std::byte* const bytes, tx_.edit(map_.header_at_, sizeof header_));
  std::memcpy(bytes, &header_, sizeof header_);
  return {};
}

}  // namespace btd
