#include "net/verbs/device.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "net/verbs/flush.h"

namespace btd::net::verbs {

namespace {

constexpr std::size_t kFirstCompletions = 1024;
// Small writes and messages go into the request itself, so that the device need not fetch them.
constexpr std::uint32_t kWantedInline = 256;
// Free buffers that are kept for the next peer.
constexpr std::size_t kKeptBuffers = 64;

std::string lock_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return "there is no limit of locked memory, so the device itself has too little";
  return "at most " + std::to_string(limit.rlim_cur >> 10) +
         " KiB may be locked (RLIMIT_MEMLOCK); raise it with `ulimit -l unlimited` or with "
         "LimitMEMLOCK=infinity in the service's unit";
}

Error device_error(const std::string& what, int code) {
  return {code, what + ": " + std::strerror(code) + "."};
}

}  // namespace

void Buffer::Free::operator()(std::byte* taken) const { std::free(taken); }

Lease::Lease(Lease&& other) noexcept { *this = std::move(other); }

Lease& Lease::operator=(Lease&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(bounce_, other.bounce_);
  std::swap(own_, other.own_);
  std::swap(regions_, other.regions_);
  std::swap(region_count_, other.region_count_);
  return *this;
}

Lease::~Lease() { end(); }

void Lease::end() {
  for (; region_count_ > 0; --region_count_) --regions_[region_count_ - 1]->users;
  if (!own_.empty()) own_.clear();
  if (bounce_ == nullptr) return;
  --device_->bounces_;
  device_->give_buffer(std::move(bounce_));
}

Result<std::unique_ptr<Device>> Device::open(const std::string& name, bool with_flush) {
  int count = 0;
  const std::unique_ptr<ibv_context*, Deleter<rdma_free_devices>> all(rdma_get_devices(&count));
  std::unique_ptr<Device> device(new Device);
  std::string there;
  for (int i = 0; all && i < count; ++i) {
    ibv_context* context = all.get()[i];
    const std::string its = ibv_get_device_name(context->device);
    there += (there.empty() ? "" : ", ") + its;
    if (device->context_ == nullptr && (name.empty() || name == its)) device->context_ = context;
  }
  if (device->context_ == nullptr)
    return fail(ENODEV, name.empty() || there.empty()
                            ? "There is no RDMA device on this machine; `rdma link` lists them. "
                              "Use a tcp:// address instead."
                            : "There is no RDMA device named " + name + "; there are: " + there);
  BTD_TRY(device->look());
  BTD_TRY(device->set_up());
  if (with_flush) {
    device->try_flush();
  } else {
    device->flush_ = {};
  }
  return device;
}

Status Device::look() {
  ibv_device_attr_ex attributes{};
  if (const int code = ibv_query_device_ex(context_, nullptr, &attributes); code != 0)
    return std::unexpected(
        device_error("The device " + name() + " does not say what it can", code));
  const ibv_device_attr& basic = attributes.orig_attr;
  ibv_port_attr port{};
  if (const int code = ibv_query_port(context_, 1, &port); code != 0)
    return std::unexpected(device_error("The device " + name() + " has no port", code));
  constexpr int kMostReads = 16;  // of one queue pair; more gain nothing
  max_segments_ = std::clamp<std::uint32_t>(static_cast<std::uint32_t>(basic.max_sge), 1,
                                            static_cast<std::uint32_t>(kMaxSegments));
  max_shared_ = static_cast<std::uint32_t>(basic.max_srq_wr);
  max_completions_ = static_cast<std::uint32_t>(basic.max_cqe);
  max_bytes_ = std::min<std::uint64_t>(port.max_msg_sz, UINT32_MAX);
  reads_out_ = static_cast<std::uint8_t>(std::clamp(basic.max_qp_init_rd_atom, 1, kMostReads));
  reads_in_ = static_cast<std::uint8_t>(std::clamp(basic.max_qp_rd_atom, 1, kMostReads));
  constexpr std::uint32_t kPaged =
      IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_READ | IBV_ODP_SUPPORT_WRITE;
  has_paging_ = (attributes.odp_caps.general_caps & IBV_ODP_SUPPORT) != 0 &&
                (attributes.odp_caps.per_transport_caps.rc_odp_caps & kPaged) == kPaged;
  flush_ = flush_ability(attributes.device_cap_flags_ex);
  return {};
}

Status Device::set_up() {
  domain_.reset(ibv_alloc_pd(context_));
  if (!domain_) return std::unexpected(device_error("No protection domain on " + name(), errno));
  channel_.reset(ibv_create_comp_channel(context_));
  if (!channel_) return std::unexpected(device_error("No completion channel on " + name(), errno));
  completions_.reset(ibv_create_cq(context_, kFirstCompletions, nullptr, channel_.get(), 0));
  if (!completions_)
    return std::unexpected(device_error("No completion queue on " + name(), errno));
  ibv_srq_init_attr shared{};
  // All that may ever be: growing it is not for every device, and it is cheap without buffers.
  max_shared_ = std::min<std::uint32_t>(max_shared_, 1 << 15);
  shared.attr.max_wr = max_shared_;
  shared.attr.max_sge = 1;
  shared_.reset(ibv_create_srq(domain_.get(), &shared));
  if (!shared_) return std::unexpected(device_error("No shared receive queue on " + name(), errno));
  return {};
}

// The device may be able to what its driver, older, is not: peers are told of what works.
void Device::try_flush() {
  std::uint32_t max_inline = 0;
  if (flush_.any() && !make_queue_pair(max_inline)) flush_ = {};
}

QueuePair Device::make_pair(ibv_qp_init_attr& attributes) {
  if (flush_.any()) return make_flushing_pair(domain_.get(), attributes);
  return QueuePair(ibv_create_qp(domain_.get(), &attributes));
}

Result<QueuePair> Device::make_queue_pair(std::uint32_t& max_inline) {
  for (const std::uint32_t bytes : {kWantedInline, 0U}) {
    ibv_qp_init_attr attributes{};
    attributes.send_cq = attributes.recv_cq = completions_.get();
    attributes.srq = shared_.get();
    attributes.qp_type = IBV_QPT_RC;
    attributes.cap.max_send_wr = kSendDepth;
    attributes.cap.max_send_sge = max_segments_;
    attributes.cap.max_inline_data = bytes;
    QueuePair pair = make_pair(attributes);
    if (!pair) continue;
    max_inline = attributes.cap.max_inline_data;
    return pair;
  }
  return std::unexpected(
      device_error("The device " + name() + " makes no more queue pairs", errno));
}

Status Device::add_peer() {
  // A queue pair that breaks completes all its requests at once, also the unsignalled ones.
  BTD_TRY(grow_completions((peers_ + 1) * (kSendDepth + Credits::kEach) + Credits::kEach));
  if (received_.size() <= peers_) {
    if ((received_.size() + 1) * Credits::kEach > max_shared_)
      return fail(ENOSPC, "The shared receive queue of " + name() + " is full; it serves " +
                              std::to_string(peers_) + " peers.");
    BTD_ASSIGN(auto buffer, take_buffer());
    received_.push_back(std::move(*buffer));
    if (auto posted = post_buffer(received_.size() - 1); !posted) return posted;
  }
  ++peers_;
  return {};
}

Status Device::grow_completions(std::size_t entries) {
  if (entries <= static_cast<std::size_t>(completions_->cqe)) return {};
  const std::size_t wanted = std::min<std::size_t>(2 * entries, max_completions_);
  if (wanted < entries || ibv_resize_cq(completions_.get(), static_cast<int>(wanted)) != 0)
    return fail(ENOSPC, "The completion queue of " + name() + " does not grow to " +
                            std::to_string(entries) + " entries; it serves " +
                            std::to_string(peers_) + " peers.");
  return {};
}

Status Device::post_buffer(std::size_t buffer) {
  static_assert(kSlots == Credits::kEach);
  for (std::size_t slot = 0; slot < kSlots; ++slot) repost(buffer * kSlots + slot);
  return {};
}

std::span<const std::byte> Device::message(std::uint64_t index, std::size_t length) const {
  const std::byte* at = received_[index / kSlots].bytes.get() + index % kSlots * kSlotBytes;
  return {at, std::min(length, kSlotBytes)};
}

void Device::repost(std::uint64_t index) {
  const Buffer& buffer = received_[index / kSlots];
  ibv_sge segment{
      .addr = reinterpret_cast<std::uintptr_t>(buffer.bytes.get()) + index % kSlots * kSlotBytes,
      .length = kSlotBytes,
      .lkey = buffer.memory->lkey};
  ibv_recv_wr request{};
  request.wr_id = index;
  request.sg_list = &segment;
  request.num_sge = 1;
  ibv_recv_wr* bad = nullptr;
  // It has a place: no more are posted than the queue was made for.
  static_cast<void>(ibv_post_srq_recv(shared_.get(), &request, &bad));
}

Result<Memory> Device::lock(void* at, std::size_t length, std::uint64_t device_address,
                            int access) {
  Memory memory(ibv_reg_mr_iova(domain_.get(), at, length, device_address, access));
  if (memory) return memory;
  const int code = errno;
  const std::string what =
      "The device " + name() + " does not take " + std::to_string(length >> 10) + " KiB of memory";
  if (code == ENOMEM || code == EAGAIN || code == EPERM)
    return fail(ENOMEM, what + ": " + lock_limit() + ".");
  return std::unexpected(device_error(what, code));
}

Result<std::unique_ptr<Buffer>> Device::take_buffer() {
  if (!free_.empty()) {
    auto buffer = std::move(free_.back());
    free_.pop_back();
    return buffer;
  }
  auto buffer = std::make_unique<Buffer>();
  buffer->bytes.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, Buffer::kBytes)));
  if (!buffer->bytes) return fail(ENOMEM, "There is no memory for a buffer of the network.");
  std::memset(buffer->bytes.get(), 0, Buffer::kBytes);
  const auto address = reinterpret_cast<std::uintptr_t>(buffer->bytes.get());
  BTD_ASSIGN(buffer->memory,
             lock(buffer->bytes.get(), Buffer::kBytes, address, IBV_ACCESS_LOCAL_WRITE));
  return buffer;
}

void Device::give_buffer(std::unique_ptr<Buffer> buffer) {
  if (buffer && free_.size() < kKeptBuffers) free_.push_back(std::move(buffer));
}

Result<Memory> Device::lock_region(const LocalRegion& region, int access) {
  const auto bytes = region.bytes;
  if (has_paging_) {
    auto paged =
        lock(bytes.data(), bytes.size(), region.device_address, access | IBV_ACCESS_ON_DEMAND);
    if (paged) return paged;
  }
  return lock(bytes.data(), bytes.size(), region.device_address, access);
}

Result<LocalRegion*> Device::add_region(std::span<std::byte> bytes, std::uint32_t access,
                                        bool readable, Flush flush) {
  const bool is_writable = (access & (kRemoteWrite | kRemoteCas)) != 0;
  int flags = is_writable ? IBV_ACCESS_LOCAL_WRITE : 0;
  if ((access & kRemoteWrite) != 0) flags |= IBV_ACCESS_REMOTE_WRITE;
  if ((access & kRemoteRead) != 0 || (readable && (access & kRemoteWrite) != 0))
    flags |= IBV_ACCESS_REMOTE_READ;
  auto region = std::make_unique<LocalRegion>();
  region->bytes = bytes;
  region->is_writable = is_writable;
  region->device_address = reinterpret_cast<std::uintptr_t>(bytes.data()) % kPageBytes;
  // A device may take it of its kind of memory only: Soft-RoCE persistent ones of NVRAM's pages.
  if ((access & kRemoteWrite) != 0 && flush != Flush::kNone) {
    auto flushed = lock_region(*region, flags | flush_access(flush));
    if (flushed) {
      region->memory = *std::move(flushed);
      region->flush = flush;
    }
  }
  if (!region->memory) {
    BTD_ASSIGN(region->memory, lock_region(*region, flags));
  }
  LocalRegion* made = region.get();
  regions_.emplace(bytes.data(), std::move(region));
  return made;
}

Status Device::remove_region(LocalRegion* region) {
  if (region->users > 0)
    return fail(EBUSY, "Operations still use the region; poll the engine and deregister again.");
  std::erase_if(regions_, [region](const auto& entry) { return entry.second.get() == region; });
  return {};
}

LocalRegion* Device::find(const iovec& segment, bool is_written) {
  const auto* from = static_cast<const std::byte*>(segment.iov_base);
  auto at = regions_.upper_bound(from);
  if (at == regions_.begin()) return nullptr;
  LocalRegion& region = *(--at)->second;
  const auto offset = static_cast<std::size_t>(from - region.bytes.data());
  const bool is_inside =
      offset <= region.bytes.size() && segment.iov_len <= region.bytes.size() - offset;
  return is_inside && (region.is_writable || !is_written) ? &region : nullptr;
}

bool Device::bounce(std::size_t total, Lease& lease, LocalList& local) {
  if (bounces_ == kMaxBounces) return false;
  auto buffer = take_buffer();
  if (!buffer) return false;
  ++bounces_;
  lease.bounce_ = *std::move(buffer);
  local.push_back({.address = reinterpret_cast<std::uintptr_t>(lease.bounce()),
                   .length = static_cast<std::uint32_t>(total),
                   .lkey = lease.bounce_->memory->lkey});
  return true;
}

bool Device::lend(std::span<const iovec> segments, bool is_written, Lease& lease,
                  LocalList& local) {
  lease.device_ = this;
  local.clear();
  std::array<LocalRegion*, kMaxSegments> found{};
  std::size_t total = 0;
  bool is_known = true;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    total += segments[i].iov_len;
    if (segments[i].iov_len == 0) continue;
    found[i] = find(segments[i], is_written);
    is_known = is_known && found[i] != nullptr;
  }
  if (!is_known && total <= Buffer::kBytes) return bounce(total, lease, local);
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const iovec& segment = segments[i];
    const auto length = static_cast<std::uint32_t>(segment.iov_len);
    if (length == 0) continue;
    if (LocalRegion* region = found[i]) {
      const auto* from = static_cast<const std::byte*>(segment.iov_base);
      ++region->users;
      lease.regions_[lease.region_count_++] = region;
      local.push_back({.address = region->device_address +
                                  static_cast<std::uint64_t>(from - region->bytes.data()),
                       .length = length,
                       .lkey = region->memory->lkey});
      continue;
    }
    const auto address = reinterpret_cast<std::uintptr_t>(segment.iov_base);
    auto memory =
        lock(segment.iov_base, segment.iov_len, address, is_written ? IBV_ACCESS_LOCAL_WRITE : 0);
    if (!memory) {
      lease.end();
      return false;
    }
    local.push_back({.address = address, .length = length, .lkey = (*memory)->lkey});
    lease.own_.push_back(*std::move(memory));
  }
  return true;
}

}  // namespace btd::net::verbs
