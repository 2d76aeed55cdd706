#include "libbtd/reaching.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "libbtd/cluster.h"

namespace btd {
namespace {

// Faults of one thread at one address, one after the other: another thread may have mapped the
// arena in between, but once is enough.
constexpr unsigned kRetries = 8;

struct sigaction g_before{};  // what the program had; written once, before the handler is there

// In the handler of a signal: no allocation, no lock.
void tell(const void* at, int error) {
  std::array<char, 160> line{};
  const int length = std::snprintf(
      line.data(), line.size(), "libbtd: the arena at %p, of another node, cannot be mapped: %s.\n",
      at, strerrordesc_np(error));
  [[maybe_unused]] const ssize_t put =
      write(STDERR_FILENO, line.data(), static_cast<std::size_t>(std::max(length, 0)));
}

// Whether a load or store at `at` may be tried again.
bool map_touched(const void* at) {
  static thread_local const void* last = nullptr;
  static thread_local unsigned times = 0;
  btd_cluster* const cluster = cluster_of(at);
  if (cluster == nullptr || cluster->heap == nullptr) return false;
  HeapFiles& files = *cluster->files;
  const auto arena =
      static_cast<std::uint32_t>(cluster->offset_of(at) / cluster->heap->arena_bytes());
  if (!files.by_pages_of_nodes() || arena >= cluster->heap->arenas()) return false;
  if (!files.is_reached(arena)) {
    const int error = files.map_made(arena);
    if (error != 0) tell(at, error);
    return error == 0;
  }
  times = last == at ? times + 1 : 0;
  last = at;
  return times < kRetries;
}

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((g_before.sa_flags & SA_SIGINFO) != 0) return g_before.sa_sigaction(signal, info, context);
  if (g_before.sa_handler != SIG_DFL && g_before.sa_handler != SIG_IGN)
    return g_before.sa_handler(signal);
  // The instruction faults again, and nobody is there; what was sent is sent again.
  std::signal(signal, SIG_DFL);
  if (info->si_code <= 0) raise(signal);
}

void on_fault(int signal, siginfo_t* info, void* context) {
  const int before = errno;
  const bool mapped = info->si_code > 0 && map_touched(info->si_addr);
  errno = before;
  if (!mapped) pass_on(signal, info, context);
}

}  // namespace

Status reach(btd_cluster& cluster, const void* at, std::size_t bytes) {
  if (cluster.files->all_reached() || at < cluster.base) return {};
  const std::uint64_t arena_bytes = cluster.heap->arena_bytes();
  const std::uint64_t end = cluster.heap->arenas() * arena_bytes;
  const Offset from = cluster.offset_of(at);
  if (from >= end) return {};
  return cluster.heap->reach(from, std::min<std::uint64_t>(bytes, end - from));
}

Status map_on_touch() {
  static std::mutex mutex;
  static bool installed = false;
  const std::lock_guard lock(mutex);
  if (installed) return {};
  struct sigaction ours{};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  if (sigaction(SIGSEGV, nullptr, &g_before) != 0 || sigaction(SIGSEGV, &ours, nullptr) != 0) {
    return fail(
        errno, std::string("The handler of faults cannot be set: ") + strerrordesc_np(errno) + ".");
  }
  installed = true;
  return {};
}

}  // namespace btd
