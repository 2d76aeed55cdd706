#include "alloc/marking.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <system_error>
#include <thread>

#include "alloc/annotate.h"

namespace btd {
namespace {

constexpr std::size_t kQueue = 16;           // candidates on their way into the cache
constexpr std::size_t kShareFrom = 8;        // ranges a thread has before it shares
constexpr std::uint64_t kChunk = 64 * 1024;  // of a large untyped object, to be shared

}  // namespace

class Marking::Worker {
 public:
  explicit Worker(Marking& marking)
      : m_(marking), alone_(marking.threads_ == 1), bias_(marking.bias_) {}

  Found run() {
    scan_segments();
    do {
      while (!stack_.empty()) {
        const Range range = stack_.back();
        stack_.pop_back();
        scan(range);
        if (stack_.empty()) flush_queue();
        if (stack_.size() >= kShareFrom && m_.hungry_.load(std::memory_order_relaxed) > 0)
          m_.share(stack_);
      }
    } while (m_.take_shared(stack_));
    return found_;
  }

  void consider(Offset at) {
    if (at >= m_.heap_bytes_) return;
    const Slot slot = m_.table_.find(at);
    if (slot.segment == nullptr || !slot.segment->dirty) return;
    __builtin_prefetch(slot.segment->live_at(slot.index / 64), 1);
    __builtin_prefetch(m_.base_ + slot.offset());
    Slot& place = queue_[next_ % kQueue];
    if (next_ - done_ == kQueue) {
      const Slot oldest = place;
      ++done_;
      place = slot;
      ++next_;
      settle(oldest);
      return;
    }
    place = slot;
    ++next_;
  }
  void flush_queue() {
    while (done_ != next_) settle(queue_[done_++ % kQueue]);
  }

 private:
  // Marks the slot; if it was not marked before, its contents are to be scanned.
  void settle(const Slot& slot) {
    std::uint64_t* const live = slot.segment->live_at(slot.index / 64);
    const std::uint64_t bit = Segment::mask_of(slot.index);
    const std::uint64_t seen = __atomic_load_n(live, __ATOMIC_RELAXED);
    if ((seen & bit) != 0) return;
    if (alone_) {
      __atomic_store_n(live, seen | bit, __ATOMIC_RELAXED);
    } else if ((__atomic_fetch_or(live, bit, __ATOMIC_RELAXED) & bit) != 0) {
      return;
    }
    ++found_.objects;
    found_.bytes += slot.bytes();
    const std::uint8_t type = slot.segment->word.type;
    if (type != kTypeNoPointers) push(slot.offset(), slot.bytes(), type);
  }

  void push(Offset at, std::uint64_t bytes, std::uint8_t type) {
    if (type == kTypeUntyped) {
      for (; bytes > kChunk; at += kChunk, bytes -= kChunk)
        stack_.push_back({.at = at, .bytes = kChunk, .type = type});
    }
    stack_.push_back({.at = at, .bytes = bytes, .type = type});
  }

  void scan(const Range& range) {
    const TypeLayout* layout =
        m_.options_.types != nullptr ? (*m_.options_.types)[range.type].get() : nullptr;
    for_each_pointer(m_.base_ + range.at, range.bytes, layout,
                     [this](const std::byte* word) { try_word(word); });
  }

  void try_word(const std::byte* at) {
    const std::uint64_t value =
        __atomic_load_n(reinterpret_cast<const std::uint64_t*>(at), __ATOMIC_RELAXED);
    const std::uint64_t offset = value - bias_;
    if (offset < m_.heap_bytes_) consider(offset);
  }

  void scan_segments() {
    for (;;) {
      const std::size_t n = m_.next_scanned_.fetch_add(1, std::memory_order_relaxed);
      if (n >= m_.scanned_.size()) break;
      const Segment& segment = *m_.scanned_[n];
      for (std::uint32_t w = 0; w < segment.words; ++w) {
        for (std::uint64_t bits = segment.allocated_word(w); bits != 0; bits &= bits - 1) {
          push(segment.slot_offset(w * 64 + static_cast<unsigned>(std::countr_zero(bits))),
               segment.slot_bytes, kTypeUntyped);
          if (stack_.size() < kShareFrom) continue;
          while (!stack_.empty()) {
            const Range range = stack_.back();
            stack_.pop_back();
            scan(range);
          }
        }
      }
    }
    flush_queue();
  }

  Marking& m_;
  const bool alone_;
  const std::uint64_t bias_;
  Found found_;
  std::vector<Range> stack_;
  std::array<Slot, kQueue> queue_{};
  std::size_t next_ = 0;
  std::size_t done_ = 0;
};

Marking::Marking(const SegmentTable& table, const std::byte* base, std::uint64_t heap_bytes,
                 std::uint64_t bias, std::vector<const Segment*> scanned, const Options& options)
    : table_(table),
      base_(base),
      heap_bytes_(heap_bytes),
      bias_(bias),
      scanned_(std::move(scanned)),
      options_(options),
      threads_(options.threads != 0 ? options.threads
                                    : std::max(1U, std::thread::hardware_concurrency())) {}

// More work, or the end: no thread works and nothing is shared.
bool Marking::take_shared(std::vector<Range>& stack) {
  std::unique_lock lock(mutex_);
  --working_;
  hungry_.fetch_add(1, std::memory_order_relaxed);
  changed_.wait(lock, [&] { return !shared_.empty() || working_ == 0; });
  hungry_.fetch_sub(1, std::memory_order_relaxed);
  if (shared_.empty()) {
    changed_.notify_all();
    return false;
  }
  ++working_;
  const std::size_t part = std::max<std::size_t>(1, shared_.size() / threads_);
  stack.assign(shared_.end() - static_cast<std::ptrdiff_t>(part), shared_.end());
  shared_.resize(shared_.size() - part);
  return true;
}

void Marking::share(std::vector<Range>& stack) {
  {
    const std::lock_guard lock(mutex_);
    const auto half = static_cast<std::ptrdiff_t>(stack.size() / 2);
    shared_.insert(shared_.end(), stack.begin(), stack.begin() + half);
    stack.erase(stack.begin(), stack.begin() + half);
  }
  changed_.notify_all();
}

Marking::Found Marking::run() {
  std::vector<Found> found(threads_);
  std::vector<std::thread> others;
  working_ = threads_;
  for (unsigned i = 1; i < threads_; ++i) {
    try {
      others.emplace_back([this, &found, i] {
        const annotate::Quiet quiet;
        found[i] = Worker(*this).run();
      });
    } catch (const std::system_error&) {
      // Fewer threads will do.
      const std::lock_guard lock(mutex_);
      --working_;
    }
  }
  Worker worker(*this);
  if (options_.roots) options_.roots([&](Offset root) { worker.consider(root); });
  worker.flush_queue();
  found[0] = worker.run();
  for (std::thread& other : others) other.join();
  for (unsigned i = 1; i < threads_; ++i) {
    found[0].objects += found[i].objects;
    found[0].bytes += found[i].bytes;
  }
  return found[0];
}

}  // namespace btd
