#include "libbtd/preload/flush.h"

#include <dlfcn.h>
#include <libpmem.h>

#include <cstddef>

namespace {

struct {
  decltype(&pmem_flush) flush = nullptr;
  decltype(&pmem_drain) drain = nullptr;
  decltype(&pmem_memcpy) memcpy = nullptr;
} g_pmem;

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

namespace btd::preload {

Status load_flush() {
  void* const library = dlopen("libpmem.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr && find(library, "pmem_flush", g_pmem.flush) &&
      find(library, "pmem_drain", g_pmem.drain) && find(library, "pmem_memcpy", g_pmem.memcpy))
    return {};
  return fail(ENOENT, "BTD_MALLOC_DURABLE needs libpmem.so.1; install libpmem1.");
}

}  // namespace btd::preload

// What alloc/persist.cc calls. Without load_flush() its domain flushes nothing.
extern "C" {
void pmem_flush(const void* from, size_t len) { g_pmem.flush(from, len); }
void pmem_drain(void) { g_pmem.drain(); }
void* pmem_memcpy(void* to, const void* from, size_t len, unsigned flags) {
  return g_pmem.memcpy(to, from, len, flags);
}
}
