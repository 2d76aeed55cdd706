#include "net/verbs/rules.h"

#include <algorithm>
#include <utility>

namespace btd::net::verbs {

namespace {

constexpr unsigned kKeyShift = 32, kPageShift = 20, kFlushShift = 18;
constexpr std::uint64_t kFlushMask = 3;
// No region ends there. Sums of addresses below it do not wrap, which not every device checks.
constexpr std::uint64_t kMaxOffset = std::uint64_t{1} << 56;

}  // namespace

RegionTable::Fixed fixed_bits(const DeviceKey& key) {
  const std::uint64_t bits = std::uint64_t{key.rkey} << kKeyShift |
                             std::uint64_t{key.page_offset & (kPageBytes - 1)} << kPageShift |
                             static_cast<std::uint64_t>(key.flush) << kFlushShift;
  return {.bits = bits, .mask = ~std::uint64_t{0} << kFlushShift};
}

DeviceKey device_key(std::uint64_t key) {
  return {.rkey = static_cast<std::uint32_t>(key >> kKeyShift),
          .page_offset = static_cast<std::uint32_t>(key >> kPageShift & (kPageBytes - 1)),
          .flush = static_cast<Flush>(key >> kFlushShift & kFlushMask)};
}

Flush choose_flush(FlushAbility device, std::optional<btd::Domain> domain, bool is_direct) {
  // Memory that dies with its node, or with its machine, only has to be reached.
  const bool is_volatile = !domain || *domain == btd::Domain::kProcess;
  const bool is_lines = domain == btd::Domain::kCacheLine;
  if (device.global && (is_volatile || (is_lines && is_direct))) return Flush::kGlobal;
  if (device.persistent && is_lines) return Flush::kPersistent;
  return Flush::kNone;
}

Durability choose_durability(std::uint32_t mine, std::uint32_t peers, Flush flush) {
  const bool is_flushed = flush == Flush::kGlobal || flush == Flush::kPersistent;
  if ((mine & peers & kNativeFlush) != 0 && is_flushed) return Durability::kNativeFlush;
  if ((peers & kDirectWrite) != 0) return Durability::kReadBehind;
  return Durability::kAcknowledge;
}

std::uint32_t Credits::send() {
  --left_;
  return std::exchange(owed_, 0);
}

bool Credits::received(std::uint32_t returned) {
  if (returned > kEach - left_) return false;
  left_ += returned;
  return true;
}

bool can_be_one_sided(const Requester::Next& next) {
  // The peer's processor is asked about what no NIC checks: a key that is none, and no bytes.
  return (next.verb == Verb::kRead || next.verb == Verb::kWritePersist) && next.length > 0 &&
         next.remote.offset < kMaxOffset && device_key(next.remote.key).rkey != 0;
}

Route route(bool wants_one_sided, std::uint64_t unanswered, std::uint64_t one_sided) {
  if (wants_one_sided) return unanswered == one_sided ? Route::kOneSided : Route::kWait;
  return one_sided == 0 ? Route::kStream : Route::kWait;
}

void cut(std::span<const LocalBytes> local, std::uint64_t remote, std::uint64_t max_bytes,
         std::size_t max_segments, std::vector<Request>& into) {
  into.clear();
  into.push_back({.remote = remote});
  for (LocalBytes bytes : local) {
    while (bytes.length > 0) {
      Request& last = into.back();
      if (last.length == max_bytes || last.local.size() == max_segments) {
        into.push_back({.remote = last.remote + last.length});
        continue;
      }
      const auto n = static_cast<std::uint32_t>(
          std::min<std::uint64_t>(bytes.length, max_bytes - last.length));
      last.local.push_back({.address = bytes.address, .length = n, .lkey = bytes.lkey});
      last.length += n;
      bytes.address += n;
      bytes.length -= n;
    }
  }
}

}  // namespace btd::net::verbs
