// Table: a hash table of byte strings that survives a crash at any instant.
//
// Every change is one published step (contract P): the new entry, the link to it, the freeing of
// the old one and the count go together, behind one fence. It grows by linear hashing (Litwin, VLDB
// 1980), one bucket at a time, each split one published step too: so no change waits for a rehash.
// It does not shrink. Thread-safety: one thread. Throws btd::error and std::bad_alloc (the heap is
// full); then nothing changed.
#pragma once

#include <bartender.hpp>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace kv {

class Table {
 public:
  static constexpr std::size_t kMaxKeyBytes = 64 * 1024;
  static constexpr std::size_t kMaxValueBytes = 1024 * 1024;

  // The table that the root `name` of the heap names; made if there is none.
  Table(btd_cluster* heap, const char* name);

  // Valid until the next change.
  [[nodiscard]] std::optional<std::string_view> get(std::string_view key) const;
  // Durable on return.
  void set(std::string_view key, std::string_view value);
  // False: there was none. Durable on return.
  bool remove(std::string_view key);
  [[nodiscard]] std::uint64_t size() const;

  // Appends the keys of some buckets from `cursor` on, at least `count` if there are so many;
  // returns where to go on, 0 at the end. Keys move to later buckets only, so a scan from 0 to 0
  // finds every key that is there all the time, perhaps more than once. The keys are valid until
  // the next change.
  std::uint64_t scan(std::uint64_t cursor, std::size_t count,
                     std::vector<std::string_view>& keys) const;

 private:
  struct Entry;
  struct Header;

  [[nodiscard]] std::uint64_t hash_of(std::string_view key) const;
  [[nodiscard]] Entry** bucket(std::uint64_t index) const;
  [[nodiscard]] Entry** link_to(std::string_view key, std::uint64_t hash) const;
  Entry* make_entry(std::string_view key, std::string_view value, std::uint64_t hash, Entry* next);
  void publish(const std::vector<btd_action>& actions);
  void grow();
  bool add_segment(std::uint64_t index);
  void split();

  btd_cluster* heap_;
  Header* header_;
  std::vector<btd_action> actions_;  // of the step under way; keeps its memory
};

}  // namespace kv
