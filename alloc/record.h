// Record: a transaction as it will lie in a lane, assembled in DRAM. Reusable; clear() keeps the
// memory.
//
// Small ones fit the object itself. Aligned so that whole lines are copied from it at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

#include "alloc/layout.h"

namespace btd {

class Record {
 public:
  Record() = default;
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  void clear() {
    count_ = kHeaderWords;
    entries_ = 0;
  }
  void bytes(Offset home, const void* data, std::size_t len);
  void set64(Offset home, std::uint64_t value) { word(EntryKind::kSet64, home, value); }
  void or64(Offset home, std::uint64_t mask) { word(EntryKind::kOr64, home, mask); }
  void and64(Offset home, std::uint64_t mask) { word(EntryKind::kAnd64, home, mask); }

  [[nodiscard]] bool empty() const { return entries_ == 0; }
  // What the record takes in a lane, with its header and padding.
  [[nodiscard]] std::size_t lane_bytes() const {
    return (count_ * kWordBytes + kLineBytes - 1) & ~(kLineBytes - 1);
  }
  // Writes the header and the padding; the whole lines of the record, aligned to a line.
  [[nodiscard]] std::span<const std::byte> seal(std::uint64_t seq);

 private:
  static constexpr std::size_t kHeaderWords = sizeof(RecordHeader) / kWordBytes;
  static constexpr std::size_t kOwnWords = 64;  // 512 bytes
  struct FreeAligned {
    void operator()(std::uint64_t* at) const {
      ::operator delete[](at, std::align_val_t{kLineBytes});
    }
  };

  void word(EntryKind kind, Offset home, std::uint64_t value) {
    std::uint64_t* const at = room(2);
    at[0] = EntryTag{.home = home, .len = kWordBytes, .kind = kind}.pack();
    at[1] = value;
    ++entries_;
  }
  // So many words more; a line is kept for the padding.
  std::uint64_t* room(std::size_t words) {
    if (count_ + words + kLineBytes / kWordBytes > capacity_) [[unlikely]]
      grow(words);
    std::uint64_t* const at = words_ + count_;
    count_ += words;
    return at;
  }
  void grow(std::size_t words);

  alignas(kLineBytes) std::uint64_t own_[kOwnWords];
  std::unique_ptr<std::uint64_t[], FreeAligned> more_;
  std::uint64_t* words_ = own_;
  std::size_t capacity_ = kOwnWords;
  std::size_t count_ = kHeaderWords;
  std::uint32_t entries_ = 0;
};

}  // namespace btd
