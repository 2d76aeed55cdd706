// HeapModel: random transactions on a heap, and a judge that says whether a recovered heap is one
// that the acknowledged ones allow: contents, allocation, nothing lost, nothing leaked, nothing
// given out twice.
//
// The heap holds a table block in root 0: for each of kEntries things {offset, size, seed}. A
// thing's contents follow from its seed.
#pragma once

#include <array>
#include <cstring>
#include <random>
#include <vector>

#include "alloc/heap.h"

namespace btd::test {

class HeapModel {
 public:
  static constexpr std::size_t kEntries = 24;
  struct Entry {
    Offset off = 0;
    std::uint64_t size = 0;
    std::uint64_t seed = 0;
    bool operator==(const Entry&) const = default;
  };
  using Table = std::array<Entry, kEntries>;

  explicit HeapModel(std::uint64_t seed, std::size_t max_bytes = 6000, unsigned large_every = 0)
      : random_(seed), max_bytes_(max_bytes), large_every_(large_every) {}

  // Creates the table.
  Status begin(Heap& heap) {
    Tx tx = heap.begin();
    BTD_ASSIGN(table_at_, tx.alloc(sizeof(Table)));
    BTD_TRY(tx.edit(table_at_, sizeof(Table)));
    BTD_TRY(tx.set_root(0, table_at_));
    return tx.commit();
  }

  // One transaction of one to three changes; some are aborted.
  Status step(Heap& heap) {
    next_ = now_;
    Tx tx = heap.begin();
    for (std::uint64_t changes = random_() % 3 + 1; changes > 0; --changes) {
      BTD_TRY(change(tx, next_.at(random_() % kEntries)));
    }
    BTD_ASSIGN(std::byte* const table, tx.edit(table_at_, sizeof(Table)));
    std::memcpy(table, next_.data(), sizeof(Table));
    if (random_() % 10 == 0) return {};
    in_flight_ = true;
    const Status status = tx.commit();
    in_flight_ = false;
    if (!status && status.error().code == E2BIG) return {};  // nothing changed
    if (status) now_ = next_;
    return status;
  }

  // Judges a heap that was just opened.
  Status judge(Heap& heap) const {
    if (heap.root(0) != table_at_) return fail(EIO, "the root is wrong");
    Table found;
    std::memcpy(found.data(), heap.at(table_at_), sizeof(found));
    if (found != now_ && !(in_flight_ && found == next_)) {
      return fail(EIO, "the table is neither before nor after the transaction");
    }
    BTD_TRY(contents(heap, found));
    std::uint64_t used = *heap.block_bytes(table_at_);
    for (const Entry& entry : found) {
      if (entry.off != 0) used += *heap.block_bytes(entry.off);
    }
    if (heap.stats().used_bytes != used) {
      return fail(EIO, "leak: " + std::to_string(heap.stats().used_bytes) + " bytes in use, " +
                           std::to_string(used) + " reachable");
    }
    return fresh_is_free(heap, found);
  }

 private:
  // Memory handed out now must not be anybody's.
  Status fresh_is_free(Heap& heap, const Table& table) const {
    Tx tx = heap.begin();
    for (std::size_t bytes = 16; bytes <= max_bytes_; bytes = bytes * 2 + 16) {
      const Result<Offset> block = tx.alloc(bytes);
      if (!block) break;
      for (const Entry& entry : table) {
        if (entry.off == 0 || *block >= entry.off + *heap.block_bytes(entry.off)) continue;
        if (*block + bytes > entry.off) return fail(EIO, "a block in use is handed out again");
      }
    }
    return {};
  }

  static std::uint64_t word(std::uint64_t seed, std::uint64_t index) {
    return (seed + index) * 0x9E3779B97F4A7C15U ^ (seed >> 7);
  }
  static void fill(std::byte* at, const Entry& entry) {
    for (std::uint64_t i = 0; i < entry.size / 8; ++i) {
      const std::uint64_t value = word(entry.seed, i);
      std::memcpy(at + i * 8, &value, 8);
    }
  }

  Status change(Tx& tx, Entry& entry) {
    if (entry.off == 0) {
      std::size_t bytes = 16 + random_() % max_bytes_;
      if (large_every_ != 0 && random_() % large_every_ == 0) bytes += kSegmentBytes;
      entry.size = bytes & ~std::size_t{7};
      const Result<Offset> block = tx.alloc(bytes);
      if (!block && block.error().code == ENOSPC) {
        entry = {};
        return {};
      }
      BTD_TRY(block);
      entry.off = *block;
    } else if (random_() % 2 == 0) {
      BTD_TRY(tx.free(entry.off));
      entry = {};
      return {};
    }
    entry.seed = random_();
    if (entry.size <= 64) {
      for (std::uint64_t i = 0; i < entry.size / 8; ++i) {
        BTD_TRY(tx.set(entry.off + i * 8, word(entry.seed, i)));
      }
      return {};
    }
    BTD_ASSIGN(std::byte* const copy, tx.edit(entry.off, entry.size));
    fill(copy, entry);
    return {};
  }

  static Status contents(const Heap& heap, const Table& table) {
    for (const Entry& entry : table) {
      if (entry.off == 0) continue;
      if (!heap.block_bytes(entry.off)) return fail(EIO, "a reachable block is not allocated");
      std::vector<std::byte> expected(entry.size);
      fill(expected.data(), entry);
      if (std::memcmp(expected.data(), heap.at(entry.off), entry.size) == 0) continue;
      return fail(EIO, "the contents of a block of " + std::to_string(entry.size) + " are wrong");
    }
    return {};
  }

  std::mt19937_64 random_;
  const std::size_t max_bytes_;
  const unsigned large_every_;
  Offset table_at_ = 0;
  Table now_{};
  Table next_{};
  bool in_flight_ = false;
};

}  // namespace btd::test
