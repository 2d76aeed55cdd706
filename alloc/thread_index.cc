#include "alloc/thread_index.h"

#include <atomic>
#include <bit>
#include <cstdint>

namespace btd {

thread_local constinit unsigned ThreadIndex::t_index = ThreadIndex::kUnset;

namespace {

constinit std::atomic<std::uint64_t> g_taken{0};
static_assert(ThreadIndex::kMax == 64);

}  // namespace

// Gives the number back when its thread ends; what runs after that shares.
struct ThreadIndex::Holder {
  Holder() = default;
  ~Holder() {
    g_taken.fetch_and(~(std::uint64_t{1} << t_index), std::memory_order_release);
    t_index = kMax;
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  void touch() const {}
};

void ThreadIndex::claim() {
  std::uint64_t taken = g_taken.load(std::memory_order_relaxed);
  while (taken != ~std::uint64_t{0}) {
    const auto free = static_cast<unsigned>(std::countr_one(taken));
    if (!g_taken.compare_exchange_weak(taken, taken | std::uint64_t{1} << free,
                                       std::memory_order_acquire))
      continue;
    t_index = free;
    thread_local const Holder holder;
    holder.touch();
    return;
  }
  t_index = kMax;
}

}  // namespace btd
