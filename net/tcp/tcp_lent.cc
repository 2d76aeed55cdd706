// The part of TcpEngine that lets other threads run tasks while its own sleeps.
//
// They have the turn then, and all that the engine has, but for the ring: what they leave there is
// submitted by the engine's thread. What sends a message needs none of it, so that thread sleeps
// on; where it must look at the time sooner than it meant to, an alarm wakes it then.
#include <sys/timerfd.h>

#include "net/tcp/tcp_engine.h"

namespace btd::net {

namespace {

// Endpoints that a task leaves something to do for. Of more, the ring might have no room for what
// that needs, and only its thread can make some.
constexpr std::size_t kMostMarked = 16;

}  // namespace

Status TcpEngine::sleep_lent(Time due) {
  if (!is_alarm_armed_) is_alarm_armed_ = arm_read(alarm_.get(), alarm_value_, Io::kAlarm);
  if (ring_->has_entries()) BTD_TRY(ring_->enter());
  if (ring_->has_entries() || ring_->has_events()) return {};  // the kernel took not all
  const Lent lent(*this, due);
  return ring_->sleep_only(due == kNever ? kNever : due - now());
}

// Who has the turn itself, in a handler, does not get it (POSIX says that of a mutex).
bool TcpEngine::run_asleep(const std::function<void()>& task) {
  const std::unique_lock turn(turn_, std::try_to_lock);
  // What was submitted comes first, and is for the engine's thread, which alone enters the ring.
  if (!turn || !is_asleep_ || has_tasks() || !ring_->has_room()) return false;
  task();
  if (marked() <= kMostMarked) serve_marked();
  const Time due = next_due();
  if (ring_->has_entries() || !queued_.empty() || !broken_ || due <= Time{}) {
    wake();
  } else if (due < asleep_until_) {
    set_alarm(due);
  }
  return true;
}

void TcpEngine::set_alarm(Time due) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(due);
  const itimerspec at{.it_interval = {},
                      .it_value = {.tv_sec = seconds.count(), .tv_nsec = (due - seconds).count()}};
  if (::timerfd_settime(alarm_.get(), TFD_TIMER_ABSTIME, &at, nullptr) != 0) return wake();
  asleep_until_ = due;
}

}  // namespace btd::net
