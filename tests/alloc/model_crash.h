// A random program of a HeapModel under the crash harness: the heap is made, the workload steps
// through the model, and each image after a crash is judged.
#pragma once

#include <functional>

#include "alloc/crash_harness.h"
#include "alloc/heap.h"
#include "tests/alloc/heap_model.h"

namespace btd::test {

struct CrashPlan {
  CrashHarness::Options crash;
  int steps = 60;
  std::uint64_t seed = 1;
  std::size_t max_bytes = 6000;
  unsigned large_every = 0;
  Journal::Fault fault = Journal::Fault::kNone;
};

inline CrashHarness::Report crash_model(
    const CrashPlan& plan, const Heap::Options& lanes,
    const std::function<Status(ArenaSource&, HeapModel&)>& workload) {
  HeapModel model(plan.seed, plan.max_bytes, plan.large_every);
  CrashHarness harness(plan.crash);
  return harness.run(
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::format(source, lanes));
        BTD_TRY(model.begin(*heap));
        return heap->close();
      },
      [&](ArenaSource& source) { return workload(source, model); },
      [&](ArenaSource& source) -> Status {
        BTD_ASSIGN(auto heap, Heap::open(source));
        if (heap->needs_recovery()) BTD_TRY(heap->recover(Marking::Options{}));
        return model.judge(*heap);
      });
}

}  // namespace btd::test
