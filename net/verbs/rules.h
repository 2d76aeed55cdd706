// The decisions of the verbs engine, apart from their effects: how an operation leaves, what makes
// a write durable, how many messages may be under way, how a transfer is cut into requests. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "net/region_table.h"
#include "net/requester.h"
#include "net/types.h"

namespace btd::net::verbs {

// A region's key: the device's rkey above, then where in its page the region begins (addresses of
// the device have that offset, since its translations are of pages), then by which flush of the
// NIC's own its bytes become durable, then the table's bits.
enum class Flush : std::uint8_t {
  kNone,        // by none
  kGlobal,      // what is visible to the whole node is as durable as it needs to be
  kPersistent,  // by the one that makes durable
};
struct DeviceKey {
  std::uint32_t rkey = 0;
  std::uint32_t page_offset = 0;  // below kPageBytes
  Flush flush = Flush::kNone;
};
inline constexpr std::uint64_t kPageBytes = 4096;
[[nodiscard]] RegionTable::Fixed fixed_bits(const DeviceKey& key);
[[nodiscard]] DeviceKey device_key(std::uint64_t key);

// Which a region that may be written is registered for, of those that the device can. `domain`: of
// its Persist, or none; `is_direct`: the platform makes durable what is visible (kDirectWrite).
struct FlushAbility {
  bool global = false;
  bool persistent = false;
  [[nodiscard]] bool any() const { return global || persistent; }
};
[[nodiscard]] Flush choose_flush(FlushAbility device, std::optional<btd::Domain> domain,
                                 bool is_direct);

// What makes a write durable at the peer; of a connection and a region.
enum class Durability : std::uint8_t {
  kNativeFlush,  // the NICs' own request
  kReadBehind,   // a read behind the write, where the peer says that is enough
  kAcknowledge,  // a frame; the peer's processor flushes, and answers
};
// `mine`, `peers`: capabilities. `flush`: of the region's key, which means nothing without the
// peer's kNativeFlush.
[[nodiscard]] Durability choose_durability(std::uint32_t mine, std::uint32_t peers, Flush flush);

// Messages that may be under way to one peer: each has a buffer there, so that its shared receive
// queue never runs dry. The last credit is kept for a message that gives credits back: two sides
// that both wait for credits would wait for ever.
class Credits {
 public:
  static constexpr std::uint32_t kEach = 16;  // buffers for each peer

  [[nodiscard]] bool can_send() const { return left_ > 1; }
  // Whether the peer is to be told now, if nothing else goes its way.
  [[nodiscard]] bool must_return() const { return owed_ >= kEach / 2 && left_ > 0; }
  // One leaves; what it gives back.
  std::uint32_t send();
  // False: the peer gives what it never had.
  [[nodiscard]] bool received(std::uint32_t returned);
  // The buffer of one that came is free.
  void freed() { ++owed_; }

 private:
  std::uint32_t left_ = kEach;
  std::uint32_t owed_ = 0;
};

// How the next operation leaves.
enum class Route : std::uint8_t { kWait, kStream, kOneSided };
// Whether it can go without the peer's processor, if the NIC can reach its buffers here.
[[nodiscard]] bool can_be_one_sided(const Requester::Next& next);
// An operation must not overtake one of the other kind: a NIC does not wait for a processor. So
// they wait for each other, and a write that runs again after a broken connection never undoes a
// swap or message behind it: that was not sent before the write was answered.
[[nodiscard]] Route route(bool wants_one_sided, std::uint64_t unanswered, std::uint64_t one_sided);

// Bytes here as the NIC knows them, and one request of a transfer.
struct LocalBytes {
  std::uint64_t address = 0;
  std::uint32_t length = 0;
  std::uint32_t lkey = 0;
};
// As many as an operation or a request has, in place: no operation is to allocate.
class LocalList {
 public:
  void push_back(const LocalBytes& bytes) { bytes_[size_++] = bytes; }
  void clear() { size_ = 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const LocalBytes* begin() const { return bytes_.data(); }
  [[nodiscard]] const LocalBytes* end() const { return bytes_.data() + size_; }

 private:
  std::array<LocalBytes, kMaxSegments> bytes_;
  std::size_t size_ = 0;
};
struct Request {
  std::uint64_t remote = 0;
  std::uint32_t length = 0;
  LocalList local;
};
// Cuts it so that no request has more than `max_bytes` or `max_segments`. `into` loses what it had.
void cut(std::span<const LocalBytes> local, std::uint64_t remote, std::uint64_t max_bytes,
         std::size_t max_segments, std::vector<Request>& into);

}  // namespace btd::net::verbs
