// FaultGuard: keeps the process alive when a mapped file was made shorter behind its back, or its
// file system had no room for a hole.
//
// A load or store there raises SIGBUS. The handler looks the address up in a table of fixed size
// without a lock, puts a page of zeros under it, marks the range as broken and lets the instruction
// run again; addresses of nobody's range go to the handler that was there before. Who owns a broken
// range must stop using it: its page is no longer the file's.
// Thread-safety: any thread; the handler makes async-signal-safe calls only.
#pragma once

#include <semaphore.h>

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

namespace btd::remote {

class FaultGuard {
 public:
  static constexpr std::size_t kMost = 4096;  // ranges of a process

  // A range that is watched as long as this lives. `told` is posted when it breaks; it must
  // outlive this.
  class Range {
   public:
    Range(Range&& other) noexcept : slot_(std::exchange(other.slot_, kMost)) {}
    Range& operator=(Range&&) = delete;
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;
    ~Range();
    [[nodiscard]] bool is_broken() const;

   private:
    friend class FaultGuard;
    explicit Range(std::size_t slot) : slot_(slot) {}
    std::size_t slot_;
  };

  // Nothing: there are kMost already.
  static std::optional<Range> watch(std::span<std::byte> memory, sem_t* told);
};

}  // namespace btd::remote
