#include "fs/daemon/companion.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "alloc/unique_fd.h"

namespace btd {

namespace {

constexpr std::chrono::milliseconds kGuardTick{1};
constexpr int kProcessorField = 39;  // of /proc/PID/stat, counted from 1

bool set_policy(pid_t thread, int policy) {
  const sched_param none{};
  return sched_setscheduler(thread, policy, &none) == 0;
}

// The processor on which a thread of the system ran last; nothing if it cannot be told.
std::optional<int> processor_of(pid_t thread) {
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/%d/stat", static_cast<int>(thread));
  const UniqueFd file(open(path.data(), O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> text{};
  if (!file || read(file.get(), text.data(), text.size() - 1) <= 0) return std::nullopt;
  const char* at = std::strrchr(text.data(), ')');  // the name before it may hold anything
  for (int field = 2; at != nullptr && field < kProcessorField; ++field) {
    at = std::strchr(at + 1, ' ');
  }
  if (at == nullptr) return std::nullopt;
  return std::atoi(at);
}

// Whether a thread comes back from SCHED_IDLE. One that does not ends here.
bool may_count_as_idle() {
  bool back = false;
  std::thread([&] { back = set_policy(0, SCHED_IDLE) && set_policy(0, SCHED_OTHER); }).join();
  return back;
}

}  // namespace

Companion::Companion(bool wanted) {
  if (!wanted || sched_getaffinity(0, sizeof everywhere_, &everywhere_) != 0) return;
  possible_ = CPU_COUNT(&everywhere_) > 1 && may_count_as_idle();
  if (possible_) guard_ = std::thread([this] { guard(); });
}

Companion::~Companion() {
  if (!guard_.joinable()) return;
  ending_.store(true);
  watched_.store(~std::uint32_t{0});
  watched_.notify_one();
  guard_.join();
}

void Companion::serve(pid_t thread, std::uint64_t now, bool waited) {
  if (!possible_) return;
  progress_.fetch_add(1, std::memory_order_relaxed);
  const auto advice = policy_.request(thread, now, waited);
  if (advice == CompanionPolicy::Advice::kApart || helped_.load(std::memory_order_relaxed)) {
    if (helped_.exchange(false)) policy_.reset();
    leave();
    return;
  }
  if (advice == CompanionPolicy::Advice::kMove) go_beside(thread);
  if (!beside_ || idle_) return;
  idle_ = true;
  watched_.store(static_cast<std::uint32_t>(gettid()));
  watched_.notify_one();
  (void)set_policy(0, SCHED_IDLE);
}

void Companion::go_beside(pid_t thread) {
  const std::optional<int> processor = processor_of(thread);
  if (!processor || *processor < 0 || *processor >= CPU_SETSIZE ||
      !CPU_ISSET(static_cast<unsigned>(*processor), &everywhere_))
    return leave();
  if (beside_ && *processor == processor_) return;
  cpu_set_t there;
  CPU_ZERO(&there);
  CPU_SET(static_cast<unsigned>(*processor), &there);
  if (sched_setaffinity(0, sizeof there, &there) != 0) return;
  beside_ = true;
  processor_ = *processor;
}

void Companion::rest() {
  if (!idle_) return;
  idle_ = false;
  watched_.store(0, std::memory_order_relaxed);
  (void)set_policy(0, SCHED_OTHER);
}

void Companion::leave() {
  rest();
  if (!beside_) return;
  beside_ = false;
  (void)sched_setaffinity(0, sizeof everywhere_, &everywhere_);
}

// Wakes up every millisecond while a leader counts as idle, and not at all otherwise.
void Companion::guard() {
  std::uint64_t seen = 0;
  while (!ending_.load()) {
    std::uint32_t leader = watched_.load();
    if (leader == 0) {
      watched_.wait(0);
      continue;
    }
    std::this_thread::sleep_for(kGuardTick);
    const std::uint64_t now = progress_.load(std::memory_order_relaxed);
    if (now == seen && watched_.load() == leader && !ending_.load()) {
      helped_.store(true);
      (void)set_policy(static_cast<pid_t>(leader), SCHED_OTHER);
      watched_.compare_exchange_strong(leader, 0);
    }
    seen = now;
  }
}

}  // namespace btd
