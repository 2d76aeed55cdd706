// ThreadIndex: a small number that no other running thread of the process has.
//
// It lets a thread keep counters of its own without atomic operations. Where more than kMax threads
// run, the others share the number kMax, and must use atomic ones. Thread-safety: any thread.
#pragma once

namespace btd {

class ThreadIndex {
 public:
  static constexpr unsigned kMax = 64;

  [[nodiscard]] static unsigned get() {
    if (t_index == kUnset) [[unlikely]]
      claim();
    return t_index;
  }

 private:
  static constexpr unsigned kUnset = ~0U;
  struct Holder;
  static void claim();
  static thread_local constinit unsigned t_index __attribute__((tls_model("initial-exec")));
};

}  // namespace btd
