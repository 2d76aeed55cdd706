// How the arenas of libbtd reserve space in their files, step by step, before it is stored to.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace btd {

// Reserves [from, from + len) of the file; an errno, or 0. No signal disturbs it: one would make
// tmpfs undo a long reservation, and a steady timer would do so for ever.
[[nodiscard]] int reserve_in_file(int fd, std::uint64_t from, std::uint64_t len);

// Which steps of a window are reserved. Thread-safety: has() from any thread, add() under a lock.
class StepMap {
 public:
  explicit StepMap(std::uint64_t steps)
      : words_(new std::atomic<std::uint64_t>[(steps + 63) / 64]()) {}

  [[nodiscard]] bool has(std::uint64_t step) const {
    return (words_[step / 64].load(std::memory_order_acquire) >> (step % 64) & 1U) != 0;
  }
  void add(std::uint64_t step, std::uint64_t steps) {
    for (const std::uint64_t end = step + steps; step < end; ++step) {
      words_[step / 64].fetch_or(std::uint64_t{1} << (step % 64), std::memory_order_release);
    }
  }

 private:
  std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace btd
