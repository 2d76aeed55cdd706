// Persist: how stores to one mapping become durable.
//
// The way is chosen once per mapping (alloc/nvram.h decides): cache lines are flushed and fenced,
// or pages are synced, or an emulator is told. Nothing else in bartender issues a flush or a fence.
// A range is durable when flush(range) was followed by drain() on the same thread.
// Thread-safety: all calls, from any thread. Counters are exact and cheap: a padded shard for each
// thread.
#pragma once

#include <emmintrin.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/thread_index.h"

namespace btd {

enum class Domain : std::uint8_t {
  kCacheLine,  // clwb + sfence: DAX with MAP_SYNC, or tmpfs standing in for NVRAM
  kMsync,      // pages of any file system
  kProcess,    // nothing is flushed: survives the process, not the machine
  kEmulated,   // a PersistBackend
};

// What an emulator implements to see flushes and fences.
class PersistBackend {
 public:
  virtual ~PersistBackend() = default;
  virtual void flush(const std::byte* from, std::size_t len) = 0;
  virtual void fence() = 0;
};

class Persist {
 public:
  struct Counters {
    std::uint64_t lines = 0;   // cache lines flushed (of an msync: lines of the asked range)
    std::uint64_t fences = 0;  // drains
    std::uint64_t bytes = 0;   // bytes asked to be flushed
  };

  // `backend` is needed for kEmulated only and must outlive this object.
  explicit Persist(Domain domain, PersistBackend* backend = nullptr);
  // Up to so much libpmem's choice of a way to copy costs more than the copy.
  static constexpr std::size_t kShortCopy = 512;

  Persist(const Persist&) = delete;
  Persist& operator=(const Persist&) = delete;

  // Starts to make [from, from + len) durable.
  void flush(const void* from, std::size_t len);
  // Waits for all that this thread flushed. False when the medium refused any flush since the
  // mapping was made; then nothing written since may be trusted to be durable, for good.
  [[nodiscard]] bool drain() {
    const unsigned index = ThreadIndex::get();
    if (domain_ != Domain::kProcess) add(shards_[index].fences, 1, index != ThreadIndex::kMax);
    if (domain_ != Domain::kCacheLine) [[unlikely]]
      return drain_slowly();
    __builtin_ia32_sfence();
    return true;
  }
  [[nodiscard]] bool persist(const void* from, std::size_t len) {
    flush(from, len);
    return drain();
  }
  // Copies past the cache where that pays; durable after drain().
  void copy_nodrain(void* to, const void* from, std::size_t len);
  // The same for whole lines: `to` is aligned to one, `len` a multiple, `from` aligned to 16.
  void copy_lines_nodrain(void* to, const void* from, std::size_t len) {
    if (domain_ != Domain::kCacheLine || len > kShortCopy) return copy_nodrain(to, from, len);
    count(to, len);
    auto* target = static_cast<__m128i*>(to);
    const auto* source = static_cast<const __m128i*>(from);
    for (std::size_t i = 0; i < len / sizeof(__m128i); ++i)
      _mm_stream_si128(target + i, _mm_load_si128(source + i));
  }

  // Stores a word of at most 8 bytes in one piece and starts to flush it.
  template <class T>
    requires(sizeof(T) <= kWordBytes)
  void store(persistent<T>& field, T value) {
    __atomic_store(&field.value_, &value, __ATOMIC_RELEASE);
    flush(&field, sizeof(field));
  }

  [[nodiscard]] Domain domain() const { return domain_; }
  [[nodiscard]] Counters counters() const;
  [[nodiscard]] bool healthy() const { return error_.load(std::memory_order_relaxed) == 0; }
  // EIO with the cause when drain() returned false.
  [[nodiscard]] Status health() const;

 private:
  struct alignas(2 * kLineBytes) Shard {  // two lines: neighbours are prefetched in pairs
    std::atomic<std::uint64_t> lines{0};
    std::atomic<std::uint64_t> fences{0};
    std::atomic<std::uint64_t> bytes{0};
  };

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n, bool mine) {
    if (mine) [[likely]] {
      counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    } else {
      counter.fetch_add(n, std::memory_order_relaxed);
    }
  }
  void count(const void* from, std::size_t len) {
    const auto begin = reinterpret_cast<std::uintptr_t>(from);
    const unsigned index = ThreadIndex::get();
    Shard& shard = shards_[index];
    add(shard.lines, (begin + len - 1) / kLineBytes - begin / kLineBytes + 1,
        index != ThreadIndex::kMax);
    add(shard.bytes, len, index != ThreadIndex::kMax);
  }
  bool drain_slowly();
  void sync_pages(const void* from, std::size_t len);

  const Domain domain_;
  PersistBackend* const backend_;
  std::atomic<int> error_{0};  // errno of the first failed msync; never cleared
  std::array<Shard, ThreadIndex::kMax + 1> shards_;
};

}  // namespace btd
