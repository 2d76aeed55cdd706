// Reads the whole map and says what is wrong with it. Changes nothing.
#include <algorithm>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "alloc/ordered_map.h"
#include "alloc/ordered_map_parts.h"

namespace btd {

class OrderedMap::Checker {
 public:
  Checker(const OrderedMap& map, const BlockVisitor& block) : map_(map), block_(block) {}

  Report run() {
    const MapHeader h = map_.header();
    claim(map_.header_at_, sizeof(MapHeader), "the header");
    if (h.magic != kMapMagic || h.version != kMapVersion) {
      complain(map_.header_at_, "this is not a map's header");
      return std::move(report_);
    }
    for (const Offset page : h.reserve) {
      if (page != 0) claim(page, kMapPageBytes, "a page of the reserve");
    }
    if (h.height > kMapMaxHeight || (h.height == 0) != (h.root == 0)) {
      complain(map_.header_at_, "its height and root contradict each other");
    } else if (h.root != 0) {
      visit(h.root, h.height - 1, {}, {});
    }
    compare("entries", h.entries, report_.entries);
    compare("leaf pages", h.leaves, report_.leaves);
    compare("inner pages", h.inners, report_.inners);
    compare("overflow blocks", h.overflow_blocks, report_.overflow_blocks);
    compare("bytes of overflow blocks", h.overflow_bytes, overflow_bytes_);
    return std::move(report_);
  }

 private:
  void complain(Offset at, const std::string& what) {
    if (report_.damage.size() < kMaxDamage)
      report_.damage.push_back("at offset " + std::to_string(at) + ": " + what);
  }

  void compare(const char* what, std::uint64_t header, std::uint64_t counted) {
    if (header != counted)
      complain(map_.header_at_, "the header counts " + std::to_string(header) + " " + what +
                                    ", the tree has " + std::to_string(counted));
  }

  // Takes a block for the map; false if it cannot be one or has another owner.
  bool claim(Offset at, std::size_t bytes, const std::string& what) {
    if (!map_parts::readable(*map_.heap_, at, bytes)) {
      complain(at, what + " lies outside the heap");
      return false;
    }
    if (!claimed_.insert(at).second) {
      complain(at, what + " is used twice");
      return false;
    }
    if (block_) block_(at, bytes);
    return true;
  }

  void visit(Offset at, unsigned level, const std::string& low, const std::string& high) {
    if (!claim(at, kMapPageBytes, "a page of level " + std::to_string(level))) return;
    const MapPageView page(map_.heap_->at(at));
    if (!page.sound(level)) {
      complain(at, "this is not a page of level " + std::to_string(level));
      return;
    }
    ++(level == 0 ? report_.leaves : report_.inners);
    report_.used_bytes += page.used();
    if (page.count() == 0) complain(at, "the page is empty and should not exist");
    if (!check_space(at, page)) return;
    std::vector<MapCell> cells;
    std::vector<char> keys;
    if (!page.collect(cells, keys)) {
      complain(at, "the page's entries do not lie side by side");
      return;
    }
    check_order(at, level, cells, low, high);
    if (level == 0) {
      check_values(at, cells);
      return;
    }
    for (unsigned i = 0; i < cells.size(); ++i) {
      const Offset child = page.child(i);
      if (child == 0) {
        complain(at, "entry " + std::to_string(i) + " names no child");
        continue;
      }
      visit(child, level - 1, i == 0 ? low : std::string(cells[i].key),
            i + 1 < cells.size() ? std::string(cells[i + 1].key) : high);
    }
  }

  // Cells must not overlap, and together with the dead bytes fill what the header says.
  bool check_space(Offset at, const MapPageView& page) {
    std::vector<std::pair<std::size_t, std::size_t>> extents;
    std::size_t live = 0;
    for (unsigned i = 0; i < page.count(); ++i) {
      MapPageView::Entry e;
      if (!page.entry(i, e)) {
        complain(at, "entry " + std::to_string(i) + " lies outside the page");
        return false;
      }
      extents.emplace_back(e.offset, e.offset + e.cell_bytes());
      live += e.cell_bytes();
    }
    std::sort(extents.begin(), extents.end());
    for (std::size_t i = 1; i < extents.size(); ++i) {
      if (extents[i].first < extents[i - 1].second) {
        complain(at, "two entries overlap");
        return false;
      }
    }
    const MapPageHeader h = page.header();
    if (h.cell_begin + h.dead + live + h.prefix_len != kMapPageBytes)
      complain(at, "the page's free bytes are miscounted");
    return true;
  }

  void check_order(Offset at, unsigned level, const std::vector<MapCell>& cells,
                   const std::string& low, const std::string& high) {
    const std::size_t first = level == 0 ? 0 : 1;
    for (std::size_t i = first; i < cells.size(); ++i) {
      const std::string which = "entry " + std::to_string(i);
      if (cells[i].key.empty()) complain(at, which + " has an empty key");
      if (i > first && cells[i].key <= cells[i - 1].key)
        complain(at, which + " is not above the one before it");
      if (cells[i].key < low) complain(at, which + " is below what the page may hold");
      if (!high.empty() && cells[i].key >= high)
        complain(at, which + " is above what the page may hold");
    }
  }

  void check_values(Offset at, const std::vector<MapCell>& cells) {
    for (const MapCell& c : cells) {
      ++report_.entries;
      if (!c.overflow) continue;
      const MapOverflowRef ref = map_parts::load_ref(c.value);
      const auto value = map_parts::overflow_value(*map_.heap_, nullptr, c.value, true);
      if (!value) {
        complain(at, value.error().message);
        continue;
      }
      if (!claim(ref.block, sizeof(MapOverflowHeader) + ref.size, "a value's block")) continue;
      ++report_.overflow_blocks;
      overflow_bytes_ += sizeof(MapOverflowHeader) + ref.size;
    }
  }

  const OrderedMap& map_;
  const BlockVisitor& block_;
  Report report_;
  std::uint64_t overflow_bytes_ = 0;
  std::unordered_set<Offset> claimed_;
};

OrderedMap::Report OrderedMap::check(const BlockVisitor& block) const {
  return Checker(*this, block).run();
}

}  // namespace btd
