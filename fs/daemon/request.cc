#include "fs/daemon/request.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

namespace btd {

CurrentRequest& current_request() {
  thread_local CurrentRequest request;
  return request;
}

namespace {
thread_local const std::function<void()>* before_sleep = nullptr;
}

void about_to_sleep() {
  if (const auto* hook = std::exchange(before_sleep, nullptr)) (*hook)();
}

BeforeSleep::BeforeSleep(const std::function<void()>& hook) { before_sleep = &hook; }
BeforeSleep::~BeforeSleep() { before_sleep = nullptr; }

void kill_if_asked(StateHeader& header, KillPoint point, std::uint32_t opcode) {
  std::atomic_ref<std::uint32_t> word(header.kill_point);
  std::uint32_t asked = word.load(std::memory_order_relaxed);
  if (asked == 0 || (asked & ~kKillAlways) != kill_word(point, opcode)) [[likely]]
    return;
  if ((asked & kKillAlways) != 0 || word.compare_exchange_strong(asked, 0)) kill(getpid(), SIGKILL);
}

RequestScope::RequestScope(Metrics& metrics, StateHeader& header, std::uint32_t opcode,
                           std::uint64_t id, std::string_view name)
    : metrics_(metrics), header_(header), start_(monotonic_ns()) {
  current_request().result = 0;
  current_request().changes = {};
  record_.opcode = opcode;
  record_.id = id;
  record_.resent = current_request().resent;
  const std::size_t length = std::min(name.size(), sizeof record_.name - 1);
  std::copy_n(name.data(), length, record_.name);
  kill_if_asked(header_, KillPoint::kReceived, opcode);
}

RequestScope::~RequestScope() {
  kill_if_asked(header_, KillPoint::kReplied, record_.opcode);
  record_.latency_ns = monotonic_ns() - start_;
  record_.result = current_request().result;
  record_.when_ns = static_cast<std::uint64_t>(Timestamp::now().nanoseconds);
  metrics_.mine().record(record_);
  std::atomic_ref<std::uint64_t>(header_.requests).fetch_add(1, std::memory_order_relaxed);
}

}  // namespace btd
