#include "net/region_table.h"

#include <cerrno>
#include <string>
#include <utility>

namespace btd::net {

namespace {

constexpr unsigned kIndexBits = 16;
constexpr std::uint64_t kIndexMask = (std::uint64_t{1} << kIndexBits) - 1;

}  // namespace

RegionTable::RegionTable(Random random) : random_(std::move(random)) {}

Result<RegionDescriptor> RegionTable::add(std::span<std::byte> memory, std::uint32_t access,
                                          Persist* persist, Fixed fixed) {
  if (memory.empty() || access == 0)
    return fail(EINVAL, "A region needs memory, and something that peers may do with it.");
  std::uint32_t index = 0;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else {
    if (regions_.size() >= kMaxRegions)
      return fail(ENOSPC, "There are " + std::to_string(kMaxRegions) +
                              " regions already; deregister some, or join neighbours to one.");
    index = static_cast<std::uint32_t>(regions_.size());
    regions_.emplace_back();
  }
  Region& region = regions_[index];
  region = Region{.memory = memory, .access = access, .persist = persist};
  do {
    const std::uint64_t drawn = (random_() & ~fixed.mask) | (fixed.bits & fixed.mask);
    region.key = (drawn & ~kIndexMask) | index;
  } while (region.key >> kIndexBits == 0);
  return RegionDescriptor{.key = region.key, .base = 0, .length = memory.size(), .access = access};
}

Status RegionTable::remove(std::uint64_t key) {
  const std::uint64_t index = key & kIndexMask;
  if (key == 0 || index >= regions_.size() || regions_[index].key != key)
    return fail(ENOENT, "There is no region with this key.");
  Region& region = regions_[index];
  region.is_closing = true;
  if (region.users > 0 || region.is_flushed)
    return fail(EBUSY, "Operations still use the region; poll the engine and deregister again.");
  region = {};
  free_.push_back(static_cast<std::uint32_t>(index));
  return {};
}

RegionTable::Found RegionTable::find(std::uint64_t key, std::uint64_t offset, std::uint64_t length,
                                     std::uint32_t access) {
  const std::uint64_t index = key & kIndexMask;
  if (key == 0 || index >= regions_.size()) return {.error = EACCES};
  Region& region = regions_[index];
  if (region.key != key || region.is_closing || (region.access & access) != access)
    return {.error = EACCES};
  if (offset > region.memory.size() || length > region.memory.size() - offset)
    return {.error = ERANGE};
  if (region.persist != nullptr && access != kRemoteRead && !region.persist->healthy())
    return {.error = EIO};
  return {.region = &region, .at = region.memory.data() + offset};
}

void RegionTable::flush(Region& region, const std::byte* at, std::size_t length) {
  if (region.persist == nullptr || length == 0) return;
  region.persist->flush(at, length);
  if (!region.is_flushed) {
    region.is_flushed = true;
    flushed_.push_back(&region);
  }
}

bool RegionTable::drain() {
  bool all = true;
  for (Region* region : flushed_) {
    region->is_flushed = false;
    all = region->persist->drain() && all;
  }
  flushed_.clear();
  return all;
}

}  // namespace btd::net
