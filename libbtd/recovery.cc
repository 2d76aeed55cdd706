#include "libbtd/recovery.h"

#include <exception>
#include <system_error>
#include <utility>

#include "alloc/annotate.h"
#include "libbtd/no_signals.h"

namespace btd {

Recovery::~Recovery() {
  if (thread_.joinable()) thread_.join();
}

void Recovery::start(Heap& heap, TypeLayouts types, unsigned threads) {
  types_ = std::move(types);
  running_.store(true, std::memory_order_release);
  const NoSignals quiet;
  try {
    thread_ = std::thread([this, &heap, threads] { run(heap, threads); });
  } catch (const std::system_error&) {
    run(heap, threads);  // no thread to be had: then at once
  }
}

void Recovery::run(Heap& heap, unsigned threads) {
  const annotate::Quiet unreported;
  Status done;
  try {
    done = heap.recover(Marking::Options{.threads = threads, .types = &types_});
  } catch (const std::exception&) {
    done = fail(ENOMEM, "There was not enough memory to recover the heap; open it again.");
  }
  const std::lock_guard lock(mutex_);
  if (!done) failure_ = std::move(done).error();
  running_.store(false, std::memory_order_release);
  done_.notify_all();
}

Status Recovery::wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return !running(); });
  if (failure_) return std::unexpected(*failure_);
  return {};
}

void Recovery::forget() {
  running_.store(false);
  if (thread_.joinable()) thread_.detach();
}

}  // namespace btd
