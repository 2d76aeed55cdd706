// PinnedThread: keeps this thread on one CPU, so that the journal picks the same lane every time
// and a test that counts flushes and fences is the same in every run.
#pragma once

#include <sched.h>

namespace btd::test {

class PinnedThread {
 public:
  PinnedThread() {
    sched_getaffinity(0, sizeof(before_), &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(sched_getcpu()), &one);
    sched_setaffinity(0, sizeof(one), &one);
  }
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;
  ~PinnedThread() { sched_setaffinity(0, sizeof(before_), &before_); }

 private:
  cpu_set_t before_;
};

}  // namespace btd::test
