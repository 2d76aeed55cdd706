// EngineThread: runs something on the thread of an engine, and waits for it, from another thread.
//
// The engine's owner goes on to poll it, or the calls fail with ETIMEDOUT. One that is given up has
// not run, and never will.
// Thread-safety: run() from any thread but the engine's; end() on the engine's.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "alloc/result.h"
#include "net/engine.h"

namespace btd::remote {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

class EngineThread {
 public:
  explicit EngineThread(net::Engine& engine);

  // `task` is called on the engine's thread, with what is to be called once when it is done: now
  // or in a later round. Errors: ETIMEDOUT, ECANCELED end() was called.
  using Finish = std::function<void()>;
  Status run(std::function<void(Finish)> task, Deadline deadline);

  // Runs `task` there at some time; waits until the engine takes it. Not after end().
  void post(std::function<void()> task);

  // What did not run by now never does.
  void end();

 private:
  net::Engine& engine_;
  const std::shared_ptr<bool> is_ended_;  // the engine's thread only
};

}  // namespace btd::remote
