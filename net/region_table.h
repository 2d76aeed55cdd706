// RegionTable: the memory that peers may reach, and how what they write becomes durable.
//
// Ownership: the memory and its Persist are the registering side's, and must outlive the region.
// A key has an index of 16 bits and 48 random ones, so that it can't be guessed or outlive its
// region.
// Thread-safety: the engine's thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "alloc/persist.h"
#include "alloc/result.h"
#include "net/random.h"
#include "net/types.h"

namespace btd::net {

class RegionTable {
 public:
  // An index has 16 bits of a key.
  static constexpr std::size_t kMaxRegions = 1 << 16;

  explicit RegionTable(Random random);

  // Bits that a key must have, above the index: a device's own key.
  struct Fixed {
    std::uint64_t bits = 0, mask = 0;
  };
  // `persist` may be null: memory that dies with its node. Errors: EINVAL, ENOSPC.
  Result<RegionDescriptor> add(std::span<std::byte> memory, std::uint32_t access, Persist* persist,
                               Fixed fixed);
  Result<RegionDescriptor> add(std::span<std::byte> memory, std::uint32_t access,
                               Persist* persist) {
    return add(memory, access, persist, {});
  }
  // No new operation finds it. EBUSY: an operation still uses the memory; call again after the
  // engine's next poll(). ENOENT: there is none.
  Status remove(std::uint64_t key);

  struct Region {
    std::uint64_t key = 0;  // 0: a free place
    std::span<std::byte> memory;
    std::uint32_t access = 0;
    Persist* persist = nullptr;
    std::uint32_t users = 0;  // frames that refer to its memory
    bool is_closing = false;
    bool is_flushed = false;  // has writes that no drain followed
  };

  struct Found {
    Region* region = nullptr;
    std::byte* at = nullptr;
    int error = 0;  // EACCES, ERANGE
  };
  [[nodiscard]] Found find(std::uint64_t key, std::uint64_t offset, std::uint64_t length,
                           std::uint32_t access);

  // Starts to make durable what a peer wrote; true after the next drain().
  void flush(Region& region, const std::byte* at, std::size_t length);
  // Whether all that was flushed is durable now. False: never again for these regions.
  [[nodiscard]] bool drain();

 private:
  std::deque<Region> regions_;  // their places do not move
  std::vector<std::uint32_t> free_;
  std::vector<Region*> flushed_;
  Random random_;
};

}  // namespace btd::net
