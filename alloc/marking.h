// Marking: finds what roots reach in the dirty recoverable segments of a heap, on several threads.
//
// Only bits outside the objects are written. Words are taken as pointers where they are the address
// of a block (offset + bias), also of its middle; of an object with a layout only the words that it
// names. Candidates pass a short queue, so that bits and object are in the cache when they are
// looked at. Work is shared by halves of a thread's stack.
// Method: parallel mark-sweep with a prefetch queue (Cher et al., ASPLOS 2004).
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/segment_table.h"

namespace btd {

// Where the pointers of a type's objects are: objects are arrays of `words` words, bit i says that
// word i is one.
struct TypeLayout {
  std::uint32_t words = 0;
  std::vector<std::uint64_t> pointers;
};
inline constexpr std::uint8_t kTypeUntyped = 0;  // any aligned word may be a pointer
inline constexpr std::uint8_t kTypeNoPointers = 1;
using TypeLayouts = std::array<std::unique_ptr<const TypeLayout>, 256>;

// Calls visit(word) for each word of [from, from + bytes) that may be a pointer: of objects with a
// layout those that it names, else (null) every aligned one.
template <class Visit>
void for_each_pointer(const std::byte* from, std::uint64_t bytes, const TypeLayout* layout,
                      Visit&& visit) {
  if (layout == nullptr) {
    for (std::uint64_t i = 0; i + kWordBytes <= bytes; i += kWordBytes) visit(from + i);
    return;
  }
  const std::uint64_t stride = layout->words * kWordBytes;
  for (std::uint64_t at = 0; at + stride <= bytes; at += stride) {
    for (std::size_t w = 0; w < layout->pointers.size(); ++w) {
      for (std::uint64_t bits = layout->pointers[w]; bits != 0; bits &= bits - 1) {
        const std::uint64_t word = w * 64 + static_cast<unsigned>(std::countr_zero(bits));
        visit(from + at + word * kWordBytes);
      }
    }
  }
}

class Marking {
 public:
  struct Options {
    unsigned threads = 0;                // 0: one for each processor
    const TypeLayouts* types = nullptr;  // a type without a layout is scanned whole
    // Calls its argument with the offset of each root; needs no locks of the heap.
    std::function<void(const std::function<void(Offset)>&)> roots;
  };
  struct Found {
    std::uint64_t objects = 0;
    std::uint64_t bytes = 0;
  };

  // `bias`: a pointer minus the offset of its target. `scanned`: transactional segments, all of
  // whose blocks are roots.
  Marking(const SegmentTable& table, const std::byte* base, std::uint64_t heap_bytes,
          std::uint64_t bias, std::vector<const Segment*> scanned, const Options& options);
  // Returns when all that is reachable is marked.
  Found run();

 private:
  class Worker;
  struct Range {
    Offset at;
    std::uint64_t bytes;
    std::uint8_t type;
  };

  bool take_shared(std::vector<Range>& stack);
  void share(std::vector<Range>& stack);

  const SegmentTable& table_;
  const std::byte* const base_;
  const std::uint64_t heap_bytes_;
  const std::uint64_t bias_;
  const std::vector<const Segment*> scanned_;
  const Options& options_;
  unsigned threads_;
  std::atomic<std::size_t> next_scanned_{0};
  std::mutex mutex_;  // shared_, working_
  std::condition_variable changed_;
  std::vector<Range> shared_;
  unsigned working_ = 0;
  std::atomic<unsigned> hungry_{0};
};

}  // namespace btd
