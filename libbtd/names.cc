#include "libbtd/names.h"

#include <cstring>

namespace btd {
namespace {

std::string root_key(std::string_view name) { return kRootKey + std::string(name); }
std::string type_key(unsigned type) { return {kTypeKey, static_cast<char>(type)}; }
std::string after(char kind) { return {static_cast<char>(kind + 1)}; }

Offset offset_in(std::string_view value) {
  Offset cell = 0;
  if (value.size() == sizeof(cell)) std::memcpy(&cell, value.data(), sizeof(cell));
  return cell;
}

std::string_view as_bytes(const Offset& cell) {
  return {reinterpret_cast<const char*>(&cell), sizeof(cell)};
}

std::unexpected<Error> no_cell(std::string_view name) {
  return fail(EIO, "The root " + std::string(name) +
                       " is damaged: it names no cell; restore the heap from a backup.");
}

}  // namespace

Result<std::unique_ptr<Names>> Names::open(Heap& heap) {
  std::unique_ptr<Names> names(new Names(heap));
  BTD_ASSIGN(const SharedHold hold, names->lock());
  return names;
}

// Another user may have made the map, or registered types, since.
Result<SharedHold> Names::lock() const {
  BTD_ASSIGN(SharedHold hold, heap_.lock_names());
  BTD_TRY(heap_.reach_all());  // where others put parts of the map
  if (!map_ && heap_.root(kNamesSlot) != 0) {
    BTD_ASSIGN(OrderedMap map, OrderedMap::open(heap_, kNamesSlot));
    map_.emplace(map);
    BTD_TRY(load_types());
  }
  return hold;
}

Status Names::make_map() {
  if (map_) return {};
  BTD_ASSIGN(OrderedMap map, OrderedMap::create(heap_, kNamesSlot));
  map_.emplace(map);
  return {};
}

Status Names::load_types() const {
  type_count_ = 0;
  return map_->scan(type_key(0), after(kTypeKey), [&](std::string_view key, std::string_view) {
    if (key.size() == 2) types_[static_cast<unsigned char>(key[1])] = true;
    ++type_count_;
    return true;
  });
}

std::uint64_t Names::load(Offset cell) const {
  return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(heap_.at(cell)), __ATOMIC_ACQUIRE);
}

Result<std::optional<Offset>> Names::cell_of(std::string_view key) const {
  if (!map_) return std::nullopt;
  BTD_ASSIGN(const std::optional<std::string_view> value, map_->find(key));
  if (!value) return std::nullopt;
  const Offset cell = offset_in(*value);
  if (cell == 0 || cell % kWordBytes != 0 || !heap_.contains(cell, kCellBytes)) {
    return no_cell(key.substr(1));
  }
  return cell;
}

Status Names::set_root(std::string_view name, std::uint64_t value) {
  BTD_ASSIGN(const SharedHold hold, lock());
  const std::string key = root_key(name);
  BTD_ASSIGN(const std::optional<Offset> cell, cell_of(key));
  if (!cell) return value == 0 ? Status{} : add_root(key, value);
  if (value == 0) return remove_root(key, *cell);
  Tx tx = heap_.begin();
  BTD_TRY(tx.set(*cell, value));
  return tx.commit();
}

Status Names::add_root(const std::string& key, std::uint64_t value) {
  BTD_TRY(make_map());
  if (map_->header().entries >= kMaxRoots) BTD_TRY(load_types());
  if (map_->header().entries - type_count_ >= kMaxRoots) {
    return fail(ENOSPC, "The heap has all 65,536 roots it may have; take one away first.");
  }
  Tx tx = heap_.begin();
  BTD_ASSIGN(const Offset cell, tx.alloc(kCellBytes));
  BTD_TRY(tx.set(cell, value));
  OrderedMap::Change change(*map_, tx, false);
  BTD_TRY(change.put(key, as_bytes(cell)));
  BTD_TRY(change.finish());
  return tx.commit();
}

Status Names::remove_root(const std::string& key, Offset cell) {
  Tx tx = heap_.begin();
  BTD_TRY(tx.free(cell));
  OrderedMap::Change change(*map_, tx, true);
  BTD_ASSIGN([[maybe_unused]] const bool erased, change.erase(key));
  BTD_TRY(change.finish());
  return tx.commit();
}

Result<std::optional<std::uint64_t>> Names::root(std::string_view name) const {
  BTD_ASSIGN(const SharedHold hold, lock());
  BTD_ASSIGN(const std::optional<Offset> cell, cell_of(root_key(name)));
  if (!cell) return std::nullopt;
  return load(*cell);
}

Result<std::vector<Names::Root>> Names::roots() const {
  std::vector<Root> found;
  bool sound = true;
  BTD_ASSIGN(const SharedHold hold, lock());
  if (!map_) return found;
  BTD_TRY(map_->scan(std::string{kRootKey}, after(kRootKey),
                     [&](std::string_view key, std::string_view value) {
                       const Offset cell = offset_in(value);
                       sound = cell != 0 && heap_.contains(cell, kCellBytes);
                       if (sound) found.emplace_back(key.substr(1), load(cell));
                       return sound;
                     }));
  if (!sound) return fail(EIO, "A root is damaged: it names no cell; restore the heap.");
  return found;
}

Status Names::register_type(unsigned type, const TypeRecord& layout) {
  BTD_ASSIGN(const SharedHold hold, lock());
  const std::string key = type_key(type);
  const std::string_view value(reinterpret_cast<const char*>(&layout), sizeof(layout));
  BTD_TRY(make_map());
  BTD_ASSIGN(const std::optional<std::string_view> known, map_->find(key));
  if (known) {
    if (*known == value) return {};
    return fail(EEXIST, "Type " + std::to_string(type) +
                            " is registered with another layout; take another number.");
  }
  Tx tx = heap_.begin();
  OrderedMap::Change change(*map_, tx, false);
  BTD_TRY(change.put(key, value));
  BTD_TRY(change.finish());
  {
    BTD_TRY(tx.commit());
  }
  ++type_count_;
  types_[type] = true;
  return {};
}

Result<TypeLayouts> Names::layouts() const {
  TypeLayouts all;
  bool sound = true;
  BTD_ASSIGN(const SharedHold hold, lock());
  if (!map_) return all;
  BTD_TRY(
      map_->scan(type_key(0), after(kTypeKey), [&](std::string_view key, std::string_view value) {
        TypeRecord record;
        sound = key.size() == 2 && value.size() == sizeof(record);
        if (!sound) return false;
        std::memcpy(&record, value.data(), sizeof(record));
        sound = record.bytes >= kWordBytes && record.bytes <= kMaxTypeBytes;
        all.at(static_cast<unsigned char>(key[1])) = std::make_unique<TypeLayout>(
            TypeLayout{.words = static_cast<std::uint32_t>(record.bytes / kWordBytes),
                       .pointers = {record.pointers.begin(), record.pointers.end()}});
        return sound;
      }));
  if (!sound) return fail(EIO, "A registered type is damaged; restore the heap from a backup.");
  return all;
}

bool Names::has_type(unsigned type) const {
  if (type >= types_.size()) return false;
  if (types_[type].load()) return true;
  const auto hold = lock();
  return hold && map_ && load_types() && types_[type].load();
}

Result<std::unordered_set<Offset>> Names::own_blocks() const {
  std::unordered_set<Offset> own;
  BTD_ASSIGN(const SharedHold hold, lock());
  if (!map_) return own;
  static_cast<void>(map_->check([&](Offset block, std::size_t) { own.insert(block); }));
  BTD_TRY(map_->scan(std::string{kRootKey}, after(kRootKey),
                     [&](std::string_view, std::string_view value) {
                       own.insert(offset_in(value));
                       return true;
                     }));
  return own;
}

Status Names::check(const std::function<void(const std::string&)>& report) const {
  BTD_ASSIGN(const SharedHold hold, lock());
  if (!map_) return {};
  for (const std::string& damage : map_->check().damage) report("The heap's names: " + damage);
  return map_->scan(std::string{kRootKey}, after(kRootKey),
                    [&](std::string_view key, std::string_view value) {
                      const Slot cell = heap_.block_of(offset_in(value));
                      if (cell.segment == nullptr || cell.offset() != offset_in(value) ||
                          cell.segment->recoverable()) {
                        report(no_cell(key.substr(1)).error().message);
                      }
                      return true;
                    });
}

}  // namespace btd
