// Device: one RDMA device as one engine uses it: a protection domain, one completion queue, one
// shared receive queue, and memory that the device may reach. Bounded: buffers grow with the number
// of peers only.
//
// Ownership: it outlives the links. Thread-safety: the engine's thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "net/types.h"
#include "net/verbs/handle.h"
#include "net/verbs/rules.h"

namespace btd::net::verbs {

// Memory of the engine's own, which the device may reach.
struct Buffer {
  // A payload without a registration is copied through one, if it fits.
  static constexpr std::size_t kBytes = 64 << 10;
  struct Free {
    void operator()(std::byte* bytes) const;
  };
  std::unique_ptr<std::byte, Free> bytes;
  Memory memory;  // before `bytes` in the order of destruction
};

// A region that peers may reach, or that local operations use without a copy.
struct LocalRegion {
  std::span<std::byte> bytes;
  Memory memory;
  std::uint64_t device_address = 0;  // of its first byte
  bool is_writable = false;
  Flush flush = Flush::kNone;
  std::uint32_t users = 0;  // requests that refer to it
};

class Device;

// What the buffers of one operation need, until the device has left them alone.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  // Where the payload is copied through; null if it is not.
  [[nodiscard]] std::byte* bounce() const { return bounce_ ? bounce_->bytes.get() : nullptr; }
  // The bytes belong to the caller, so the operation must not complete before this ends.
  [[nodiscard]] bool is_callers() const { return region_count_ > 0 || !own_.empty(); }
  // The device has left them alone.
  void end();

 private:
  friend class Device;
  Device* device_ = nullptr;
  std::unique_ptr<Buffer> bounce_;
  std::vector<Memory> own_;  // registered for this operation
  std::array<LocalRegion*, kMaxSegments> regions_{};
  std::size_t region_count_ = 0;
};

class Device {
 public:
  // Messages are cut into these.
  static constexpr std::size_t kSlotBytes = 4096;
  static constexpr std::size_t kSlots = Buffer::kBytes / kSlotBytes;
  static constexpr std::uint32_t kSendDepth = 128;  // requests of one queue pair
  static constexpr std::size_t kMaxBounces = 64;    // buffers under way: 4 MiB of locked memory

  // Errors: ENODEV, ENOMEM.
  // `with_flush`: the NICs' own flush is used where it is there.
  static Result<std::unique_ptr<Device>> open(const std::string& name, bool with_flush);

  [[nodiscard]] ibv_context* context() const { return context_; }
  [[nodiscard]] ibv_pd* domain() const { return domain_.get(); }
  [[nodiscard]] ibv_cq* completions() const { return completions_.get(); }
  [[nodiscard]] ibv_comp_channel* channel() const { return channel_.get(); }
  [[nodiscard]] std::string name() const { return ibv_get_device_name(context_->device); }

  [[nodiscard]] std::uint32_t max_segments() const { return max_segments_; }
  [[nodiscard]] std::uint64_t max_bytes() const { return max_bytes_; }
  [[nodiscard]] std::uint8_t reads_out() const { return reads_out_; }
  [[nodiscard]] std::uint8_t reads_in() const { return reads_in_; }
  // By which the NICs' own flush can be served and posted; none where the library or the driver
  // can't, whatever the device can.
  [[nodiscard]] FlushAbility flush() const { return flush_; }

  // A queue pair on the shared queues. `max_inline`: what the device grants. Errors: ENOMEM.
  Result<QueuePair> make_queue_pair(std::uint32_t& max_inline);
  // Room in both queues for one peer more; given back when it has gone. Errors: ENOMEM, ENOSPC.
  Status add_peer();
  void remove_peer() { --peers_; }
  // Message `index` of the shared queue, and its return there.
  [[nodiscard]] std::span<const std::byte> message(std::uint64_t index, std::size_t length) const;
  void repost(std::uint64_t index);

  Result<std::unique_ptr<Buffer>> take_buffer();
  void give_buffer(std::unique_ptr<Buffer> buffer);

  // Regions, by their address. `readable`: peers may read what they may write. `flush`: wanted;
  // LocalRegion::flush is what the device took.
  Result<LocalRegion*> add_region(std::span<std::byte> bytes, std::uint32_t access, bool readable,
                                  Flush flush);
  // Errors: EBUSY local operations use it.
  Status remove_region(LocalRegion* region);
  // What the device needs for these bytes: registered regions as they are; few others through a
  // buffer; many by a registration of their own, which takes less than a copy. Registrations of
  // callers' memory are not kept: it may be unmapped and mapped anew behind them. `lease` has
  // nothing before; `local` becomes the bytes as the device knows them. False: it can't have them.
  bool lend(std::span<const iovec> segments, bool is_written, Lease& lease, LocalList& local);

 private:
  friend class Lease;
  Device() = default;
  Status set_up();
  Status look();
  void try_flush();
  QueuePair make_pair(ibv_qp_init_attr& attributes);
  Result<Memory> lock(void* at, std::size_t length, std::uint64_t device_address, int access);
  Result<Memory> lock_region(const LocalRegion& region, int access);
  Status post_buffer(std::size_t buffer);
  Status grow_completions(std::size_t entries);
  LocalRegion* find(const iovec& segment, bool is_written);
  bool bounce(std::size_t total, Lease& lease, LocalList& local);

  ibv_context* context_ = nullptr;  // librdmacm's
  Domain domain_;
  CompletionChannel channel_;
  CompletionQueue completions_;
  SharedQueue shared_;
  std::uint32_t max_segments_ = 1;
  std::uint32_t max_shared_ = 0, max_completions_ = 0;
  std::uint64_t max_bytes_ = 0;
  std::uint8_t reads_out_ = 1, reads_in_ = 1;
  FlushAbility flush_;
  bool has_paging_ = false;  // on demand
  std::size_t peers_ = 0;
  std::size_t bounces_ = 0;
  std::vector<Buffer> received_;
  std::vector<std::unique_ptr<Buffer>> free_;
  std::multimap<const std::byte*, std::unique_ptr<LocalRegion>> regions_;
};

}  // namespace btd::net::verbs
