// OrderedMap: a B+tree of byte strings in the pages of a heap, changed inside the heap's
// transactions.
//
// What the pages look like is in alloc/map_page.h, when they split and merge in
// ordered_map_change.cc. Damage is met with EIO and a sentence, never with a crash or an endless
// loop: a page is checked when it is entered, a child must be one level lower than its parent, an
// entry must be above the one before it. Thread-safety: none of its own. Reads see what is
// committed, so the caller keeps commits of the transactions away from reads, and runs one changing
// transaction at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/heap.h"
#include "alloc/map_page.h"
#include "alloc/metastore.h"
#include "alloc/result.h"

namespace btd {

inline constexpr std::uint64_t kMapMagic = 0x50414d4f44544200;  // "\0BTDOMAP"
inline constexpr std::uint32_t kMapVersion = 1;
inline constexpr unsigned kMapReservePages = 8;
inline constexpr unsigned kMapMaxHeight = 16;
// A longer value lies in a block of its own; two of the largest cells fit a page with room to
// spare, so a page can always be split.
inline constexpr std::size_t kMapInlineValue = 1024;

// On media, in a block that a root slot of the heap names. Changed by every commit that changes
// what it counts, in the same transaction.
struct MapHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t height;  // pages from the root to a leaf; 0: the map is empty
  std::uint64_t root;
  std::uint64_t entries;
  std::uint64_t leaves;
  std::uint64_t inners;
  std::uint64_t overflow_blocks;
  std::uint64_t overflow_bytes;                         // with their headers
  std::array<std::uint64_t, kMapReservePages> reserve;  // pages for erasing in a full heap; 0: none
};
static_assert(sizeof(MapHeader) == 128);
static_assert(offsetof(MapHeader, root) == 16 && offsetof(MapHeader, reserve) == 64);

class OrderedMap {
 public:
  using Visitor = MetaStore::Visitor;

  // Makes an empty map and names it in the root slot, in a transaction of its own. Errors: EEXIST
  // the slot is taken; ENOSPC.
  static Result<OrderedMap> create(Heap& heap, unsigned slot);
  // Errors: ENOENT the slot is empty; EIO no map is there, or a damaged one; EPROTO a newer
  // version.
  static Result<OrderedMap> open(Heap& heap, unsigned slot);

  // The value where it lies, valid until the next commit; nullopt if there is none. Errors: EIO.
  [[nodiscard]] Result<std::optional<std::string_view>> find(std::string_view key) const;
  Status scan(std::string_view from, std::string_view to, const Visitor& visit) const;

  // The header as it is committed.
  [[nodiscard]] MapHeader header() const;

  // Makes changes in one transaction of the heap; they see each other. After an error the
  // transaction must be aborted.
  class Change {
   public:
    // `shrinking`: the reserve may be used, because the batch gives back space.
    Change(OrderedMap& map, Tx& tx, bool shrinking);
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

    // Keys and values are within the limits of MetaStore. Errors: ENOSPC, EIO.
    Status put(std::string_view key, std::string_view value);
    // Whether the key was there. Needs no space. Errors: EIO.
    Result<bool> erase(std::string_view key);
    // Refills the reserve and stores the header. The last call before the transaction's commit.
    Status finish();

   private:
    struct Step {
      Offset page = 0;
      unsigned slot = 0;
    };
    struct New {  // of the cells of a page that splits
      unsigned slot = 0;
      unsigned streak = 0;
    };
    struct Cells;  // entries of pages, taken apart

    [[nodiscard]] unsigned level_of(unsigned depth) const { return header_.height - 1 - depth; }
    Result<MapPageView> view(Offset page, unsigned level) const;
    Result<MapPageEdit> edit(Offset page, unsigned level);
    Result<MapPageEdit> edit_fresh(Offset page);
    Result<Offset> new_page(unsigned level);
    Status free_block(Offset block);
    Status free_page(Offset page, unsigned level);
    Result<Offset> write_overflow(std::string_view value, std::uint32_t check);
    Status free_overflow(std::string_view ref);

    Status descend(std::string_view key, MapPageView::Position& at);
    Status start_tree(const MapCell& cell);
    Status insert(unsigned depth, const MapCell& cell, unsigned slot, bool replace);
    Status split(unsigned depth, const New& news, Cells& cells, Offset right);
    Status grow_root(Offset right, std::string_view separator);
    Status shrink(unsigned depth);
    Status shrink_root();
    Status remove_from_parent(unsigned depth);
    Result<bool> merge(unsigned depth, unsigned left_slot);

    OrderedMap& map_;
    Tx& tx_;
    const bool shrinking_;
    bool used_reserve_ = false;
    MapHeader header_;
    std::array<Step, kMapMaxHeight> path_;  // from the root; the last one is the leaf
  };

  // What check() found. A clean map has no damage.
  struct Report {
    std::vector<std::string> damage;  // sentences; at most kMaxDamage of them
    std::uint64_t entries = 0;
    std::uint64_t leaves = 0;
    std::uint64_t inners = 0;
    std::uint64_t overflow_blocks = 0;
    std::uint64_t used_bytes = 0;  // of leaves and inner pages: slots, cells, prefixes
  };
  static constexpr std::size_t kMaxDamage = 100;
  // Called once for every block of the heap that the map uses.
  using BlockVisitor = std::function<void(Offset block, std::size_t bytes)>;
  // Reads the whole map. No commit may run meanwhile.
  [[nodiscard]] Report check(const BlockVisitor& block = {}) const;

 private:
  class Checker;

  OrderedMap(Heap& heap, Offset header) : heap_(&heap), header_at_(header) {}

  Result<MapPageView> page(Offset at, unsigned level) const;
  Result<std::string_view> value_of(const MapPageView::Entry& entry) const;

  Heap* heap_;
  Offset header_at_;
};

}  // namespace btd
