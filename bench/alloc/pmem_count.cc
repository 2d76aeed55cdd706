// pmem_count: preloaded before libpmem, counts the lines that libpmemobj flushes and its fences.
// Only for a run that counts: it costs time.
#include <dlfcn.h>
#include <libpmem.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace {

std::atomic<std::uint64_t> lines{0};
std::atomic<std::uint64_t> fences{0};

void count_lines(const void* at, std::size_t n) {
  constexpr std::uintptr_t kLine = 64;
  const auto begin = reinterpret_cast<std::uintptr_t>(at);
  if (n > 0) lines += (begin + n - 1) / kLine - begin / kLine + 1;
}

// The functions that copy flush unless their flags say otherwise; their fence is a call of
// pmem_drain(), which is counted there.
void count_copy(const void* at, std::size_t n, unsigned flags) {
  if ((flags & PMEM_F_MEM_NOFLUSH) == 0) count_lines(at, n);
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

void bench_pmem_counters(std::uint64_t* l, std::uint64_t* f) {
  *l = lines;
  *f = fences;
}

void pmem_flush(const void* at, std::size_t n) {
  static auto* const real = next<decltype(pmem_flush)>("pmem_flush");
  count_lines(at, n);
  real(at, n);
}
void pmem_drain() {
  static auto* const real = next<decltype(pmem_drain)>("pmem_drain");
  ++fences;
  real();
}
void pmem_persist(const void* at, std::size_t n) {
  pmem_flush(at, n);
  pmem_drain();
}
void* pmem_memcpy(void* to, const void* from, std::size_t n, unsigned flags) {
  static auto* const real = next<decltype(pmem_memcpy)>("pmem_memcpy");
  count_copy(to, n, flags);
  return real(to, from, n, flags);
}
void* pmem_memmove(void* to, const void* from, std::size_t n, unsigned flags) {
  static auto* const real = next<decltype(pmem_memmove)>("pmem_memmove");
  count_copy(to, n, flags);
  return real(to, from, n, flags);
}
void* pmem_memset(void* to, int byte, std::size_t n, unsigned flags) {
  static auto* const real = next<decltype(pmem_memset)>("pmem_memset");
  count_copy(to, n, flags);
  return real(to, byte, n, flags);
}
}
