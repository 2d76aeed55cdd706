#include "net/output_queue.h"

#include <algorithm>
#include <cstring>

namespace btd::net {

void OutputQueue::copy(std::span<const std::byte> bytes) {
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    if (slabs_.empty() || slabs_.back()->used == kSlabBytes)
      slabs_.push_back(std::make_unique_for_overwrite<Slab>());
    Slab& slab = *slabs_.back();
    const std::size_t n = std::min(bytes.size(), kSlabBytes - slab.used);
    std::byte* to = slab.bytes.data() + slab.used;
    std::memcpy(to, bytes.data(), n);
    slab.used += n;
    bytes = bytes.subspan(n);
    Segment* last = segments_.empty() ? nullptr : &segments_.back();
    if (last != nullptr && last->is_copied && last->bytes.data() + last->bytes.size() == to) {
      last->bytes = {last->bytes.data(), last->bytes.size() + n};
    } else {
      segments_.push_back({.bytes = {to, n}, .owner = {}, .is_copied = true});
    }
  }
}

void OutputQueue::refer(std::span<const std::byte> bytes, const Owner& owner) {
  bytes_ += bytes.size();
  segments_.push_back({.bytes = bytes, .owner = owner});
}

std::size_t OutputQueue::gather(std::span<iovec> into, std::size_t most) {
  std::size_t skip = gathered_, count = 0;
  for (const Segment& segment : segments_) {
    if (skip >= segment.bytes.size()) {
      skip -= segment.bytes.size();
      continue;
    }
    if (count == into.size() || most == 0) break;
    const auto part = segment.bytes.subspan(skip, std::min(segment.bytes.size() - skip, most));
    skip = 0;
    most -= part.size();
    gathered_ += part.size();
    into[count++] = {.iov_base = const_cast<std::byte*>(part.data()), .iov_len = part.size()};
  }
  return count;
}

void OutputQueue::free_copied(std::size_t count) {
  while (count > 0) {
    Slab& slab = *slabs_.front();
    const std::size_t n = std::min(count, slab.used - slab.sent);
    slab.sent += n;
    count -= n;
    if (slab.sent < slab.used) return;
    if (slabs_.size() > 1) {
      slabs_.pop_front();
    } else {
      slab.sent = slab.used = 0;  // kept: the next answer needs one
    }
  }
}

}  // namespace btd::net
