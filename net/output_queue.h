// OutputQueue: the bytes that one connection has to send, in order. Short ones are copied together,
// so that many frames are one send; long ones stay where they are, and their owner is told when
// they are sent.
//
// Bytes that were gathered stay where they are until sent() has counted them, whatever is added
// meanwhile: a send may run while the queue grows. Not thread-safe.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>

#include "net/region_table.h"

namespace btd::net {

class OutputQueue {
 public:
  // Longer payloads are referred to: about where a copy costs more than another segment.
  static constexpr std::size_t kCopiedBytes = 1024;

  // What keeps referred bytes alive: a region, or an operation of the requester.
  struct Owner {
    RegionTable::Region* region = nullptr;
    std::uint64_t seq = 0;
    bool is_operation = false;
  };

  void copy(std::span<const std::byte> bytes);
  void refer(std::span<const std::byte> bytes, const Owner& owner);

  // The next bytes that were not gathered yet, `most` at most: how many segments of `into` they
  // took.
  std::size_t gather(std::span<iovec> into, std::size_t most);
  // The first `count` of the gathered bytes were sent. Calls release(owner) for what is free now.
  template <class Release>
  void sent(std::size_t count, Release&& release) {
    gathered_ -= count;
    bytes_ -= count;
    while (count > 0) {
      Segment& first = segments_.front();
      const std::size_t n = std::min(count, first.bytes.size());
      first.bytes = first.bytes.subspan(n);
      count -= n;
      if (first.is_copied) free_copied(n);
      if (first.bytes.empty()) {
        const Owner owner = first.owner;
        segments_.pop_front();
        release(owner);
      }
    }
  }
  // Forgets all; calls release(owner) for each.
  template <class Release>
  void clear(Release&& release) {
    for (const Segment& segment : segments_) release(segment.owner);
    segments_.clear();
    slabs_.clear();
    bytes_ = gathered_ = 0;
  }

  template <class Is>
  [[nodiscard]] bool any_owner(Is&& is) const {
    return std::ranges::any_of(segments_, is, &Segment::owner);
  }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t waiting() const { return bytes_ - gathered_; }

 private:
  static constexpr std::size_t kSlabBytes = 16 << 10;
  struct Slab {
    std::size_t used = 0, sent = 0;
    std::array<std::byte, kSlabBytes> bytes;
  };
  struct Segment {
    std::span<const std::byte> bytes;
    Owner owner;
    bool is_copied = false;
  };

  void free_copied(std::size_t count);

  std::deque<Segment> segments_;
  std::deque<std::unique_ptr<Slab>> slabs_;  // of the copied segments, in their order
  std::size_t bytes_ = 0;
  std::size_t gathered_ = 0;
};

}  // namespace btd::net
