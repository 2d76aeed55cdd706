#include "alloc/record.h"

#include <algorithm>
#include <cstring>

#include "alloc/crc.h"

namespace btd {

void Record::grow(std::size_t words) {
  const std::size_t capacity =
      std::max(2 * capacity_, count_ + words + 2 * kLineBytes / kWordBytes);
  std::unique_ptr<std::uint64_t[], FreeAligned> larger(new (std::align_val_t{kLineBytes})
                                                           std::uint64_t[capacity]);
  std::memcpy(larger.get(), words_, count_ * kWordBytes);
  more_ = std::move(larger);
  words_ = more_.get();
  capacity_ = capacity;
}

void Record::bytes(Offset home, const void* data, std::size_t len) {
  const auto* from = static_cast<const std::byte*>(data);
  while (len > 0) {
    const std::size_t part = std::min<std::size_t>(len, EntryTag::kMaxLen);
    const EntryTag tag{.home = home, .len = static_cast<std::uint32_t>(part)};
    const std::size_t words = tag.data_bytes() / kWordBytes;
    std::uint64_t* const at = room(1 + words);
    at[0] = tag.pack();
    at[words] = 0;  // what of the last word is not data
    std::memcpy(at + 1, from, part);
    ++entries_;
    home += part;
    from += part;
    len -= part;
  }
}

std::span<const std::byte> Record::seal(std::uint64_t seq) {
  RecordHeader header{.seq = seq,
                      .length = static_cast<std::uint32_t>(count_ * kWordBytes),
                      .entries = entries_,
                      .flags = 0,
                      .crc = 0};
  std::memcpy(words_, &header, sizeof(header));
  header.crc = crc32c(words_, header.length);
  std::memcpy(words_, &header, sizeof(header));
  const std::size_t padded = lane_bytes();
  std::fill(words_ + count_, words_ + padded / kWordBytes, 0);
  return {reinterpret_cast<const std::byte*>(words_), padded};
}

}  // namespace btd
