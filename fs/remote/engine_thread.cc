#include "fs/remote/engine_thread.h"

#include <thread>
#include <utility>

namespace btd::remote {

namespace {

constexpr auto kPause = std::chrono::milliseconds(1);  // of an engine that has too many tasks

struct Waiting {
  std::mutex mutex;
  std::condition_variable changed;
  enum class State : std::uint8_t { kQueued, kRunning, kGivenUp, kDone } state = State::kQueued;
};

}  // namespace

EngineThread::EngineThread(net::Engine& engine)
    : engine_(engine), is_ended_(std::make_shared<bool>(false)) {}

Status EngineThread::run(std::function<void(Finish)> task, Deadline deadline) {
  const auto waiting = std::make_shared<Waiting>();
  using State = Waiting::State;
  const auto begin = [waiting, task = std::move(task), is_ended = is_ended_] {
    if (*is_ended) return;
    {
      const std::lock_guard lock(waiting->mutex);
      if (waiting->state != State::kQueued) return;
      waiting->state = State::kRunning;
    }
    task([waiting] {
      const std::lock_guard lock(waiting->mutex);
      waiting->state = State::kDone;
      waiting->changed.notify_all();
    });
  };
  const bool is_run = engine_.run_asleep(begin);
  while (!is_run && !engine_.submit(begin)) {
    if (Clock::now() >= deadline) return fail(ETIMEDOUT, "The node's engine has too much to do.");
    std::this_thread::sleep_for(kPause);
  }
  std::unique_lock lock(waiting->mutex);
  waiting->changed.wait_until(lock, deadline, [&] { return waiting->state == State::kDone; });
  if (waiting->state == State::kDone) return {};
  const bool is_begun = std::exchange(waiting->state, State::kGivenUp) == State::kRunning;
  return fail(is_begun ? EBUSY : ETIMEDOUT, "The node's engine did not finish in time.");
}

void EngineThread::post(std::function<void()> task) {
  // Shared: each attempt to submit it takes a copy.
  const auto run = [task = std::make_shared<const std::function<void()>>(std::move(task)),
                    is_ended = is_ended_] {
    if (!*is_ended) (*task)();
  };
  if (engine_.run_asleep(run)) return;
  while (!engine_.submit(run)) std::this_thread::sleep_for(kPause);
}

void EngineThread::end() { *is_ended_ = true; }

}  // namespace btd::remote
