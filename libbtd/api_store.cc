// The C calls that store durably: failure-atomic copies, and stores that wait for a drain.
#include <cstring>
#include <memory>

#include "libbtd/cluster.h"

namespace btd {
namespace {

void* store(void* to, const void* from, std::size_t bytes) {
  btd_cluster* const cluster = cluster_holding(to, bytes);
  if (cluster == nullptr) return nullptr;
  if (!may_store(*cluster, cluster->offset_of(to), bytes)) [[unlikely]]
    return no_block(EINVAL, "The range is not inside the bytes that were asked for of a block.");
  const Status done = cluster->heap->copy(cluster->offset_of(to), from, bytes);
  if (!done) return no_block(done.error());
  annotate::copy_state(to, from, bytes);
  return to;
}

int drained(btd_cluster* cluster) {
  return cluster->heap->persist().drain() ? 0 : to_int(cluster->heap->persist().health());
}

}  // namespace
}  // namespace btd

using btd::cluster_holding;
using btd::guarded;

extern "C" {

void* btd_memcpy(void* to, const void* from, size_t bytes) {
  btd::annotate::needs(from, bytes);
  return guarded(static_cast<void*>(nullptr), [&] { return btd::store(to, from, bytes); });
}

// The record, or the shadow, holds all of the source before the target is touched.
void* btd_memmove(void* to, const void* from, size_t bytes) { return btd_memcpy(to, from, bytes); }

void* btd_memset(void* to, int byte, size_t bytes) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    // The range first: nobody may ask for memory by a wrong length.
    if (cluster_holding(to, bytes) == nullptr) return nullptr;
    const auto pattern = std::make_unique_for_overwrite<std::byte[]>(bytes);
    std::memset(pattern.get(), byte, bytes);
    return btd::store(to, pattern.get(), bytes);
  });
}

void* btd_memcpy_nodrain(void* to, const void* from, size_t bytes) {
  btd_cluster* const cluster = cluster_holding(to, bytes);
  if (cluster == nullptr) return nullptr;
  cluster->heap->persist().copy_nodrain(to, from, bytes);
  return to;
}

void* btd_memmove_nodrain(void* to, const void* from, size_t bytes) {
  btd_cluster* const cluster = cluster_holding(to, bytes);
  if (cluster == nullptr) return nullptr;
  std::memmove(to, from, bytes);
  cluster->heap->persist().flush(to, bytes);
  return to;
}

void* btd_memset_nodrain(void* to, int byte, size_t bytes) {
  btd_cluster* const cluster = cluster_holding(to, bytes);
  if (cluster == nullptr) return nullptr;
  std::memset(to, byte, bytes);
  cluster->heap->persist().flush(to, bytes);
  return to;
}

int btd_persist(const void* at, size_t bytes) {
  btd_cluster* const cluster = cluster_holding(at, bytes);
  if (cluster == nullptr) return -1;
  cluster->heap->persist().flush(at, bytes);
  return btd::drained(cluster);
}

int btd_flush(const void* at, size_t bytes) {
  btd_cluster* const cluster = cluster_holding(at, bytes);
  if (cluster == nullptr) return -1;
  cluster->heap->persist().flush(at, bytes);
  return 0;
}

int btd_drain(struct btd_cluster* cluster) {
  return btd::usable(cluster) ? btd::drained(cluster) : -1;
}

}  // extern "C"
