#include "alloc/persist.h"

#include <libpmem.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace btd {

Persist::Persist(Domain domain, PersistBackend* backend) : domain_(domain), backend_(backend) {}

void Persist::sync_pages(const void* from, std::size_t len) {
  const auto begin = reinterpret_cast<std::uintptr_t>(from) & ~(kPageBytes - 1);
  const auto end = reinterpret_cast<std::uintptr_t>(from) + len;
  if (msync(reinterpret_cast<void*>(begin), end - begin, MS_SYNC) != 0) {
    int none = 0;
    error_.compare_exchange_strong(none, errno);
  }
}

void Persist::flush(const void* from, std::size_t len) {
  if (len == 0 || domain_ == Domain::kProcess) return;
  count(from, len);
  switch (domain_) {
    case Domain::kCacheLine:
      pmem_flush(from, len);
      break;
    case Domain::kMsync:
      sync_pages(from, len);
      break;
    case Domain::kProcess:
      break;
    case Domain::kEmulated:
      backend_->flush(static_cast<const std::byte*>(from), len);
      break;
  }
}

bool Persist::drain_slowly() {
  if (domain_ == Domain::kProcess) {
    // What a process stored is there when it dies; only the compiler may not reorder it.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return true;
  }
  if (domain_ == Domain::kEmulated) backend_->fence();
  return error_.load(std::memory_order_relaxed) == 0;
}

void Persist::copy_nodrain(void* to, const void* from, std::size_t len) {
  if (len == 0) return;
  if (domain_ == Domain::kCacheLine) {
    count(to, len);
    pmem_memcpy(to, from, len, PMEM_F_MEM_NODRAIN | PMEM_F_MEM_NONTEMPORAL);
    return;
  }
  std::memcpy(to, from, len);
  flush(to, len);
}

Persist::Counters Persist::counters() const {
  Counters sum;
  for (const Shard& each : shards_) {
    sum.lines += each.lines.load(std::memory_order_relaxed);
    sum.fences += each.fences.load(std::memory_order_relaxed);
    sum.bytes += each.bytes.load(std::memory_order_relaxed);
  }
  return sum;
}

Status Persist::health() const {
  const int error = error_.load(std::memory_order_relaxed);
  if (error == 0) return {};
  return fail(EIO, "The medium refused to make data durable (" +
                       std::string(strerrordesc_np(error)) +
                       "); stop, check the device, and open the heap again.");
}

}  // namespace btd
