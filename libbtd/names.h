// Names: the roots and the registered types of a heap, as libbtd/layout.h lays them out.
//
// A root has a cell, a block of contract T that holds the pointer: so marking finds it like any
// pointer in such a block, and setting a root anew writes one word. All users of the heap share one
// lock for it. Thread-safety: any thread of any process; one at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "alloc/heap.h"
#include "alloc/ordered_map.h"
#include "libbtd/layout.h"

namespace btd {

class Names {
 public:
  static constexpr std::size_t kMaxRoots = 65'536;
  static constexpr std::size_t kMaxRootName = 255;

  // Takes the map of a heap that was recovered or needs no recovery. Errors: EIO it is damaged.
  static Result<std::unique_ptr<Names>> open(Heap& heap);

  // `value` 0 takes the name away. One fence. Errors: ENOSPC; EIO.
  Status set_root(std::string_view name, std::uint64_t value);
  // nullopt: there is none. Errors: EIO.
  Result<std::optional<std::uint64_t>> root(std::string_view name) const;
  using Root = std::pair<std::string, std::uint64_t>;
  Result<std::vector<Root>> roots() const;  // in the order of names

  // Errors: EEXIST another layout is registered; ENOSPC; EIO.
  Status register_type(unsigned type, const TypeRecord& layout);
  [[nodiscard]] bool has_type(unsigned type) const;
  // All registered types, for marking.
  Result<TypeLayouts> layouts() const;

  // Every block that belongs to this, none of which is the user's.
  Result<std::unordered_set<Offset>> own_blocks() const;
  // Calls report with a sentence for each damage.
  Status check(const std::function<void(const std::string&)>& report) const;

 private:
  explicit Names(Heap& heap) : heap_(heap) {}
  Status make_map();
  Status load_types() const;
  [[nodiscard]] Result<SharedHold> lock() const;
  Status add_root(const std::string& key, std::uint64_t value);
  Status remove_root(const std::string& key, Offset cell);
  [[nodiscard]] Result<std::optional<Offset>> cell_of(std::string_view key) const;
  [[nodiscard]] std::uint64_t load(Offset cell) const;

  Heap& heap_;
  // Under the lock, but for types_, which is only ever set.
  mutable std::optional<OrderedMap> map_;  // made by the first change
  mutable std::array<std::atomic<bool>, 256> types_{};
  mutable std::size_t type_count_ = 0;
};

}  // namespace btd
