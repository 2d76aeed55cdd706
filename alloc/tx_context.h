// TxContext: the DRAM scratch of one open transaction, pooled by the heap.
//
// Nothing here allocates in steady state: vectors, index and buffers keep their memory between
// transactions, up to kKeptBytes of buffers. Used by one thread at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "alloc/journal.h"
#include "alloc/layout.h"
#include "alloc/segment.h"

namespace btd {

// Offset -> small number, for the few to few hundred things that one transaction touches.
class OffsetIndex {
 public:
  static constexpr std::uint32_t kNone = ~0U;

  void clear() {
    if (used_ == 0) return;
    used_ = 0;
    std::fill(cells_.begin(), cells_.end(), Cell{});
  }
  void put(Offset key, std::uint32_t value) {
    if ((used_ + 1) * 2 > cells_.size()) grow();
    Cell& cell = cell_of(key);
    if (cell.key == 0) ++used_;
    cell = {.key = key, .value = value};
  }
  // Keys are never taken out, only set to kNone.
  [[nodiscard]] std::uint32_t get(Offset key) const {
    if (used_ == 0) return kNone;
    const Cell& cell = const_cast<OffsetIndex*>(this)->cell_of(key);
    return cell.key == key ? cell.value : kNone;
  }

 private:
  struct Cell {
    Offset key = 0;  // 0: empty; no block lies at 0
    std::uint32_t value = kNone;
  };
  Cell& cell_of(Offset key) {
    const std::size_t mask = cells_.size() - 1;
    std::size_t at = (key * 0x9E3779B97F4A7C15U >> 32) & mask;
    while (cells_[at].key != 0 && cells_[at].key != key) at = (at + 1) & mask;
    return cells_[at];
  }
  void grow() {
    std::vector<Cell> old(cells_.empty() ? 32 : cells_.size() * 2);
    old.swap(cells_);
    for (const Cell& cell : old) {
      if (cell.key != 0) cell_of(cell.key) = cell;
    }
  }

  std::vector<Cell> cells_;
  std::size_t used_ = 0;
};

// Line-aligned buffers that live until clear().
class BufferPool {
 public:
  static constexpr std::size_t kChunkBytes = 64 * 1024;
  static constexpr std::size_t kKeptBytes = 1024 * 1024;

  std::byte* take(std::size_t len) {
    len = (len + kLineBytes - 1) & ~(kLineBytes - 1);
    while (chunk_ < chunks_.size() && used_ + len > chunks_[chunk_].bytes) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) {
      const std::size_t bytes = len > kChunkBytes ? len : kChunkBytes;
      chunks_.push_back(
          {.memory = Memory(new (std::align_val_t{kLineBytes}) std::byte[bytes]), .bytes = bytes});
      used_ = 0;
    }
    std::byte* at = chunks_[chunk_].memory.get() + used_;
    used_ += len;
    return at;
  }
  void clear() {
    std::size_t kept = 0;
    std::size_t keep = 0;
    while (keep < chunks_.size() && kept + chunks_[keep].bytes <= kKeptBytes) {
      kept += chunks_[keep++].bytes;
    }
    chunks_.resize(keep);
    chunk_ = used_ = 0;
  }

 private:
  struct Free {
    void operator()(std::byte* at) const { ::operator delete[](at, std::align_val_t{kLineBytes}); }
  };
  using Memory = std::unique_ptr<std::byte[], Free>;
  struct Chunk {
    Memory memory;
    std::size_t bytes = 0;
  };
  std::vector<Chunk> chunks_;
  std::size_t chunk_ = 0;
  std::size_t used_ = 0;  // of chunks_[chunk_]
};

struct TxContext {
  struct Edit {
    Offset off = 0;
    std::size_t len = 0;  // a multiple of 8; 0: dropped, its block was freed
    std::byte* copy = nullptr;
    bool fresh = false;              // in a block that this transaction allocated
    Segment* recoverable = nullptr;  // its segment, where that is recoverable
  };
  struct Alloc {
    Slot slot;
    bool dropped = false;  // freed again by the same transaction
  };
  struct Set {
    Offset word = 0;
    std::uint64_t value = 0;
    Segment* recoverable = nullptr;
  };

  std::vector<Edit> edits;
  std::vector<Alloc> allocs;
  std::vector<Slot> frees;
  std::vector<Set> sets;
  OffsetIndex edit_at;           // start of the edit -> index
  OffsetIndex alloc_at;          // start of the block -> index
  OffsetIndex free_at;           // start of the block -> index
  std::vector<Segment*> logged;  // of contract R, that the record writes into
  BufferPool buffers;
  Record record;

  [[nodiscard]] bool frees_block(const Slot& slot) const {
    return free_at.get(slot.offset()) != OffsetIndex::kNone;
  }
  void clear() {
    edits.clear();
    allocs.clear();
    frees.clear();
    sets.clear();
    edit_at.clear();
    alloc_at.clear();
    free_at.clear();
    logged.clear();
    buffers.clear();
    record.clear();
  }
};

}  // namespace btd
