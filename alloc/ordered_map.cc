#include "alloc/ordered_map.h"

#include <cstring>
#include <utility>

#include "alloc/crc.h"
#include "alloc/ordered_map_parts.h"

namespace btd {

namespace map_parts {

std::unexpected<Error> damaged(Offset at, std::string_view what) {
  return fail(EIO, "the map is damaged at offset " + std::to_string(at) + ": " + std::string(what) +
                       "; run btd check on the pool");
}

MapOverflowRef load_ref(std::string_view ref) {
  MapOverflowRef r{};
  std::memcpy(&r, ref.data(), sizeof r);
  return r;
}

Result<std::string_view> overflow_value(const Heap& heap, const Tx* tx, std::string_view ref,
                                        bool verify) {
  const MapOverflowRef r = load_ref(ref);
  if (r.size > kMaxValueBytes || !readable(heap, r.block, sizeof(MapOverflowHeader) + r.size))
    return damaged(r.block, "an entry names a value outside the heap");
  const std::byte* const block = tx != nullptr ? tx->view(r.block) : heap.at(r.block);
  MapOverflowHeader h;
  std::memcpy(&h, block, sizeof h);
  if (h.magic != kMapOverflowMagic || h.size != r.size || h.check != r.check)
    return damaged(r.block, "this is not the value that an entry names");
  const auto* bytes = reinterpret_cast<const char*>(block) + sizeof h;
  if (verify && crc32c(bytes, h.size) != h.check)
    return damaged(r.block, "the checksum of a value is wrong");
  return std::string_view(bytes, h.size);
}

}  // namespace map_parts

using map_parts::damaged;
using map_parts::readable;

Result<OrderedMap> OrderedMap::create(Heap& heap, unsigned slot) {
  if (heap.root(slot) != 0)
    return fail(EEXIST, "the heap's root " + std::to_string(slot) + " is taken: open it instead");
  Tx tx = heap.begin();
  BTD_ASSIGN(const Offset at, tx.alloc(sizeof(MapHeader)));
  BTD_ASSIGN(std::byte* const bytes, tx.edit(at, sizeof(MapHeader)));
  MapHeader h{};
  h.magic = kMapMagic;
  h.version = kMapVersion;
  std::memcpy(bytes, &h, sizeof h);
  BTD_TRY(tx.set_root(slot, at));
  BTD_TRY(tx.commit());
  return OrderedMap(heap, at);
}

Result<OrderedMap> OrderedMap::open(Heap& heap, unsigned slot) {
  const Offset at = heap.root(slot);
  if (at == 0) return fail(ENOENT, "the heap's root " + std::to_string(slot) + " holds no map");
  if (!readable(heap, at, sizeof(MapHeader))) return damaged(at, "the header is outside the heap");
  OrderedMap map(heap, at);
  const MapHeader h = map.header();
  if (h.magic != kMapMagic) return damaged(at, "this is not a map's header");
  if (h.version != kMapVersion)
    return fail(EPROTO, "the map has format " + std::to_string(h.version) +
                            " and this program reads " + std::to_string(kMapVersion) +
                            ": use the program that wrote it");
  if (h.height > kMapMaxHeight || (h.height == 0) != (h.root == 0) ||
      (h.height == 0) != (h.entries == 0))
    return damaged(at, "the header's height, root and count contradict each other");
  return map;
}

MapHeader OrderedMap::header() const {
  MapHeader h;
  std::memcpy(&h, heap_->at(header_at_), sizeof h);
  return h;
}

Result<MapPageView> OrderedMap::page(Offset at, unsigned level) const {
  if (!readable(*heap_, at, kMapPageBytes)) [[unlikely]]
    return damaged(at, "a page is outside the heap");
  const MapPageView view(heap_->at(at));
  if (!view.sound(level)) [[unlikely]]
    return damaged(at, "this is not a page of level " + std::to_string(level));
  if (level != 0 && view.count() == 0) [[unlikely]]
    return damaged(at, "an inner page is empty");
  return view;
}

Result<std::string_view> OrderedMap::value_of(const MapPageView::Entry& entry) const {
  if (!entry.overflow) [[likely]]
    return entry.value;
  return map_parts::overflow_value(*heap_, nullptr, entry.value, false);
}

Result<std::optional<std::string_view>> OrderedMap::find(std::string_view key) const {
  const MapHeader* const h = reinterpret_cast<const MapHeader*>(heap_->at(header_at_));
  Offset at = h->root;
  if (at == 0) return std::nullopt;
  if (h->height == 0 || h->height > kMapMaxHeight)
    return damaged(header_at_, "the height in the header is impossible");
  for (unsigned level = h->height - 1; level > 0; --level) {
    BTD_ASSIGN(const MapPageView inner, page(at, level));
    const auto p = inner.child_slot(key);
    if (p.damaged) return damaged(at, "an entry is outside its page");
    at = inner.child(p.slot);
  }
  BTD_ASSIGN(const MapPageView leaf, page(at, 0));
  const auto p = leaf.lower_bound(key);
  if (p.damaged) return damaged(at, "an entry is outside its page");
  if (!p.found) return std::nullopt;
  MapPageView::Entry e;
  if (!leaf.entry(p.slot, e)) return damaged(at, "an entry is outside its page");
  BTD_ASSIGN(const std::string_view value, value_of(e));
  return std::optional<std::string_view>(value);
}

namespace {

// A key put together from a page's prefix and an entry's suffix.
class KeyBuffer {
 public:
  [[nodiscard]] std::string_view join(std::string_view prefix, std::string_view suffix) {
    size_ = prefix.size() + suffix.size();  // entry() bounds it
    std::memcpy(bytes_.data(), prefix.data(), prefix.size());
    std::memcpy(bytes_.data() + prefix.size(), suffix.data(), suffix.size());
    return view();
  }
  [[nodiscard]] std::string_view view() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, kMaxKeyBytes> bytes_;
  std::size_t size_ = 0;
};

}  // namespace

Status OrderedMap::scan(std::string_view from, std::string_view to, const Visitor& visit) const {
  struct Step {
    Offset at = 0;
    unsigned slot = 0;
  };
  std::array<Step, kMapMaxHeight> path;
  const MapHeader h = header();
  if (h.root == 0) return {};
  if (h.height == 0 || h.height > kMapMaxHeight)
    return damaged(header_at_, "the height in the header is impossible");
  std::array<KeyBuffer, 2> keys;  // the entry's and the one before
  unsigned turn = 0;
  bool first = true;
  unsigned depth = 0;
  path[0] = {h.root, 0};
  bool seek = true;  // on the way to `from`
  while (true) {
    Step& step = path[depth];
    const unsigned level = h.height - 1 - depth;
    BTD_ASSIGN(const MapPageView view, page(step.at, level));
    if (seek) {
      const auto p = level == 0 ? view.lower_bound(from) : view.child_slot(from);
      if (p.damaged) return damaged(step.at, "an entry is outside its page");
      step.slot = p.slot;
    }
    if (level != 0) {
      if (step.slot < view.count()) {
        path[depth + 1] = {view.child(step.slot++), 0};
        ++depth;
        continue;
      }
    } else {
      const std::string_view prefix = view.prefix();
      for (const unsigned n = view.count(); step.slot < n; ++step.slot) {
        MapPageView::Entry e;
        if (!view.entry(step.slot, e)) return damaged(step.at, "an entry is outside its page");
        const std::string_view key = keys[turn].join(prefix, e.suffix);
        if (!to.empty() && key >= to) return {};
        if (!first && key <= keys[1 - turn].view())
          return damaged(step.at, "an entry is not above the one before it");
        BTD_ASSIGN(const std::string_view value, value_of(e));
        if (!visit(key, value)) return {};
        first = false;
        turn = 1 - turn;
      }
      seek = false;
    }
    if (depth == 0) return {};
    --depth;
  }
}

}  // namespace btd
