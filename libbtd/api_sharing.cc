// The C calls for programs on several nodes: arenas of others, and mutexes.
#include <chrono>

#include "libbtd/cluster.h"
#include "libbtd/mutex.h"
#include "libbtd/reaching.h"

using btd::guarded;
using btd::Mutex;

namespace {

// Calls visit(mutex) where `mutex` lies in a heap of this process.
template <class Visit>
int with_mutex(struct btd_mutex* mutex, Visit&& visit) {
  return guarded(-1, [&]() -> int {
    if (reinterpret_cast<std::uintptr_t>(mutex) % alignof(btd_mutex) != 0)
      return btd::failed(EINVAL, "A mutex is aligned to 8 bytes.");
    btd_cluster* const cluster = btd::cluster_holding(mutex, sizeof(*mutex));
    if (cluster == nullptr) return -1;
    return visit(Mutex(&mutex->word, cluster->files->processes()));
  });
}

int answer(const btd::Result<Mutex::Taken>& taken) {
  if (!taken) return btd::failed(taken.error());
  return *taken == Mutex::Taken::kDead ? BTD_MUTEX_OWNER_DIED : 0;
}

}  // namespace

extern "C" {

int btd_map(const void* at, size_t bytes) {
  if (btd::reader_of(at, bytes) != nullptr) return 0;
  return guarded(-1, [&] { return btd::cluster_holding(at, bytes) == nullptr ? -1 : 0; });
}

int btd_acquire(const void* at, size_t bytes) {
  return guarded(-1, [&] {
    btd_cluster* cluster = btd::reader_of(at, bytes);
    if (cluster == nullptr) cluster = btd::cluster_holding(at, bytes);
    if (cluster == nullptr) return -1;
    return btd::to_int(cluster->files->acquire(cluster->offset_of(at), bytes));
  });
}

int btd_release(const void* at, size_t bytes) {
  return guarded(-1, [&] {
    btd_cluster* const cluster = btd::cluster_holding(at, bytes);
    if (cluster == nullptr) return -1;
    return btd::to_int(cluster->files->release(cluster->offset_of(at), bytes));
  });
}

int btd_mutex_lock(struct btd_mutex* mutex) {
  return with_mutex(mutex, [](Mutex lock) { return answer(lock.lock(std::nullopt)); });
}

int btd_mutex_trylock(struct btd_mutex* mutex) {
  return with_mutex(mutex, [](Mutex lock) { return answer(lock.try_lock()); });
}

int btd_mutex_timedlock(struct btd_mutex* mutex, unsigned milliseconds) {
  const auto until = Mutex::Clock::now() + std::chrono::milliseconds(milliseconds);
  return with_mutex(mutex, [&](Mutex lock) { return answer(lock.lock(until)); });
}

int btd_mutex_unlock(struct btd_mutex* mutex) {
  return with_mutex(mutex, [](Mutex lock) { return btd::to_int(lock.unlock()); });
}

}  // extern "C"
