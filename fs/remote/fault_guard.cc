#include "fs/remote/fault_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

namespace btd::remote {

namespace {

// `begin` is 0 in a free slot, and stored last: who reads it sees the rest. `readers` keeps `told`
// alive for a handler that is about to post it.
struct Slot {
  std::atomic<std::uintptr_t> begin{0}, end{0};
  std::atomic<sem_t*> told{nullptr};
  std::atomic<bool> is_broken{false};
  std::atomic<unsigned> readers{0};
};

std::array<Slot, FaultGuard::kMost> slots;
std::atomic<std::size_t> slots_end{0};  // no slot from here on was ever used
std::mutex slots_mutex;                 // of those who take slots; the handler takes none
struct sigaction earlier;
std::uintptr_t page_bytes = 0;

bool put_zeros_under(std::uintptr_t address) {
  void* const page = reinterpret_cast<void*>(address & ~(page_bytes - 1));
  return ::mmap(page, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                -1, 0) != MAP_FAILED;
}

bool take_fault(std::uintptr_t address) {
  const std::size_t end = slots_end.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < end; ++i) {
    Slot& slot = slots[i];
    slot.readers.fetch_add(1);
    const std::uintptr_t begin = slot.begin.load();
    const bool is_mine = begin != 0 && address >= begin && address < slot.end.load();
    const bool is_taken = is_mine && put_zeros_under(address);
    if (is_taken && !slot.is_broken.exchange(true)) ::sem_post(slot.told.load());
    slot.readers.fetch_sub(1);
    if (is_mine) return is_taken;
  }
  return false;
}

void handle(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool is_taken =
      info->si_code > 0 && take_fault(reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = saved;
  if (is_taken) return;
  if ((earlier.sa_flags & SA_SIGINFO) != 0) return earlier.sa_sigaction(signal, info, context);
  if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN)
    return earlier.sa_handler(signal);
  // The instruction runs again, and dies of it as it would have.
  ::signal(SIGBUS, SIG_DFL);
  if (info->si_code <= 0) ::raise(SIGBUS);  // somebody sent it
}

void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    struct sigaction mine{};
    mine.sa_sigaction = handle;
    mine.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&mine.sa_mask);
    // First asked for alone: a fault between the two must find it.
    ::sigaction(SIGBUS, nullptr, &earlier);
    ::sigaction(SIGBUS, &mine, nullptr);
  });
}

}  // namespace

std::optional<FaultGuard::Range> FaultGuard::watch(std::span<std::byte> memory, sem_t* told) {
  install();
  const std::lock_guard lock(slots_mutex);
  for (std::size_t i = 0; i < kMost; ++i) {
    Slot& slot = slots[i];
    if (slot.begin.load() != 0) continue;
    const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
    slot.end.store(begin + memory.size());
    slot.told.store(told);
    slot.is_broken.store(false);
    slot.begin.store(begin);
    if (i >= slots_end.load()) slots_end.store(i + 1, std::memory_order_release);
    return Range(i);
  }
  return std::nullopt;
}

FaultGuard::Range::~Range() {
  if (slot_ == kMost) return;
  Slot& slot = slots[slot_];
  slot.begin.store(0);
  // A handler that looks at the slot now is on another thread, and is done in a moment.
  while (slot.readers.load() != 0) ::usleep(1);
}

bool FaultGuard::Range::is_broken() const { return slots[slot_].is_broken.load(); }

}  // namespace btd::remote
