#include "table.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <random>

namespace kv {
namespace {

constexpr std::uint64_t kSegmentBuckets = 1024;
constexpr std::uint64_t kMaxSegments = 8192;
constexpr std::uint64_t kLoad = 2;              // entries a bucket, on average
constexpr std::size_t kMaxSplitActions = 1024;  // a longer chain stays as it is

std::uint64_t highest_bit(std::uint64_t n) { return std::uint64_t{1} << (63 - __builtin_clzll(n)); }

btd_action set_word(void* at, std::uint64_t value) { return {BTD_ACTION_SET, at, value}; }
btd_action set_link(void* at, const void* to) {
  return set_word(at, reinterpret_cast<std::uintptr_t>(to));
}

}  // namespace

// A chain of a bucket is a list of these. The key and then the value follow. Never changed once it
// is published, but for `next`.
struct Table::Entry {
  Entry* next;
  std::uint64_t hash;
  std::uint32_t key_bytes;
  std::uint32_t value_bytes;

  [[nodiscard]] const char* bytes() const { return reinterpret_cast<const char*>(this + 1); }
  [[nodiscard]] std::string_view key() const { return {bytes(), key_bytes}; }
  [[nodiscard]] std::string_view value() const { return {bytes() + key_bytes, value_bytes}; }
};

// The root object.
struct Table::Header {
  std::uint64_t count;
  std::uint64_t buckets;  // in use; those of the last segment beyond it are empty
  std::uint64_t seed;     // of the hash, so that nobody can choose keys that collide
  Entry** segments[kMaxSegments];
};

Table::Table(btd_cluster* heap, const char* name) : heap_(heap) {
  header_ = btd::root<Header>(heap, name);
  if (header_ == nullptr) {
    std::random_device random;
    auto* const made = btd::make_recoverable<Header>(heap);
    made->seed = (std::uint64_t{random()} << 32) | random();
    if (btd_persist(made, sizeof(Header)) != 0 || btd_set_root(heap, name, made) != 0) {
      btd::detail::fail();
    }
    header_ = made;
  }
  // A crash may have come before the first segment.
  if (header_->buckets == 0) {
    if (!add_segment(0)) throw std::bad_alloc();
    publish({set_word(&header_->buckets, kSegmentBuckets)});
  }
}

std::uint64_t Table::hash_of(std::string_view key) const {
  return XXH3_64bits_withSeed(key.data(), key.size(), header_->seed);
}

Table::Entry** Table::bucket(std::uint64_t index) const {
  return &header_->segments[index / kSegmentBuckets][index % kSegmentBuckets];
}

// The pointer to the key's entry, or the null one at its chain's end.
Table::Entry** Table::link_to(std::string_view key, std::uint64_t hash) const {
  const std::uint64_t level = highest_bit(header_->buckets);
  std::uint64_t index = hash & (2 * level - 1);
  if (index >= header_->buckets) index -= level;
  Entry** link = bucket(index);
  while (*link != nullptr && ((*link)->hash != hash || (*link)->key() != key)) {
    link = &(*link)->next;
  }
  return link;
}

std::optional<std::string_view> Table::get(std::string_view key) const {
  const Entry* const entry = *link_to(key, hash_of(key));
  if (entry == nullptr) return {};
  return entry->value();
}

std::uint64_t Table::size() const { return header_->count; }

// Filled and durable, for publishing may take effect before its own fence.
Table::Entry* Table::make_entry(std::string_view key, std::string_view value, std::uint64_t hash,
                                Entry* next) {
  auto* const entry =
      static_cast<Entry*>(btd_reserve(heap_, sizeof(Entry) + key.size() + value.size()));
  if (entry == nullptr) btd::detail::fail();
  const Entry head{next, hash, static_cast<std::uint32_t>(key.size()),
                   static_cast<std::uint32_t>(value.size())};
  auto* const bytes = reinterpret_cast<char*>(entry + 1);
  btd_memcpy_nodrain(entry, &head, sizeof(head));
  btd_memcpy_nodrain(bytes, key.data(), key.size());
  btd_memcpy_nodrain(bytes + key.size(), value.data(), value.size());
  if (btd_drain(heap_) != 0) btd::detail::fail();
  return entry;
}

void Table::publish(const std::vector<btd_action>& actions) {
  if (btd_publish(heap_, actions.data(), actions.size()) == 0) return;
  const btd::error failed(errno, std::generic_category(), btd_strerror());
  for (const btd_action& action : actions) {
    if (action.kind == BTD_ACTION_ALLOCATE) static_cast<void>(btd_cancel(action.at));
  }
  throw failed;
}

void Table::set(std::string_view key, std::string_view value) {
  const std::uint64_t hash = hash_of(key);
  Entry** const link = link_to(key, hash);
  Entry* const old = *link;
  Entry* const entry = make_entry(key, value, hash, old == nullptr ? nullptr : old->next);
  actions_ = {{BTD_ACTION_ALLOCATE, entry, 0}, set_link(link, entry)};
  if (old != nullptr) {
    actions_.push_back({BTD_ACTION_FREE, old, 0});
  } else {
    actions_.push_back(set_word(&header_->count, header_->count + 1));
  }
  publish(actions_);
  if (old == nullptr && header_->count > kLoad * header_->buckets) grow();
}

bool Table::remove(std::string_view key) {
  Entry** const link = link_to(key, hash_of(key));
  Entry* const old = *link;
  if (old == nullptr) return false;
  publish({set_link(link, old->next),
           {BTD_ACTION_FREE, old, 0},
           set_word(&header_->count, header_->count - 1)});
  return true;
}

// One bucket more. Where there is no memory for it the chains just get longer.
void Table::grow() {
  const std::uint64_t segment = header_->buckets / kSegmentBuckets;
  if (segment < kMaxSegments && add_segment(segment)) split();
}

bool Table::add_segment(std::uint64_t index) {
  if (header_->segments[index] != nullptr) return true;
  const std::size_t bytes = kSegmentBuckets * sizeof(Entry*);
  void* const segment = btd_reserve(heap_, bytes);
  if (segment == nullptr) return false;
  btd_memset_nodrain(segment, 0, bytes);
  if (btd_drain(heap_) != 0) btd::detail::fail();
  publish({{BTD_ACTION_ALLOCATE, segment, 0}, set_link(&header_->segments[index], segment)});
  return true;
}

// The bucket whose turn it is gives the new last one the entries that belong there now.
void Table::split() {
  const std::uint64_t fresh = header_->buckets;
  const std::uint64_t level = highest_bit(fresh);
  Entry** stays = bucket(fresh - level);
  Entry** moves = bucket(fresh);
  actions_.clear();
  Entry** home = stays;  // where the entry is linked now
  for (Entry* entry = *stays; entry != nullptr; entry = entry->next) {
    Entry**& tail = (entry->hash & (2 * level - 1)) == fresh ? moves : stays;
    if (tail != home) actions_.push_back(set_link(tail, entry));
    tail = home = &entry->next;
  }
  if (*stays != nullptr) actions_.push_back(set_link(stays, nullptr));
  if (*moves != nullptr) actions_.push_back(set_link(moves, nullptr));
  if (actions_.size() >= kMaxSplitActions) return;
  actions_.push_back(set_word(&header_->buckets, fresh + 1));
  publish(actions_);
}

std::uint64_t Table::scan(std::uint64_t cursor, std::size_t count,
                          std::vector<std::string_view>& keys) const {
  std::uint64_t index = cursor;
  std::size_t left = count * 8 + 64;  // buckets looked at, so that a call over empty ones ends
  for (; index < header_->buckets && keys.size() < count && left > 0; ++index, --left) {
    for (const Entry* entry = *bucket(index); entry != nullptr; entry = entry->next) {
      keys.push_back(entry->key());
    }
  }
  return index < header_->buckets ? index : 0;
}

}  // namespace kv
