// EmulatedNvram: an ArenaSource whose stores are durable only when NVRAM's would be.
//
// Two images. Stores go to the volatile one. A flush notes the line's content; the fence of the
// same thread copies it to the durable image. A crash is the durable image plus, for each line that
// differs, a seeded choice: dropped, evicted whole, torn at 8-byte words, or as it was when
// flushed, for a cache may write back any line at any time. Flushes and fences can be made to go
// wrong, to prove that a test would notice. Thread-safety: as ArenaSource; the fence hook runs
// under the lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "alloc/arena_source.h"

namespace btd {

// A defect of the emulated program: its `at`-th flush or fence (from 1) since arm().
struct Mutation {
  enum class Kind : std::uint8_t {
    kNone,
    kIgnoreFlush,  // the flush does nothing
    kSkipFence,    // the fence does nothing: what was flushed waits for the next one
    kDelayFlush,   // the flush takes effect one fence late
  };
  Kind kind = Kind::kNone;
  std::uint64_t at = 0;
};

class EmulatedNvram final : public ArenaSource, private PersistBackend {
 public:
  // Errors: EINVAL the sizes; ENOMEM.
  static Result<std::unique_ptr<EmulatedNvram>> create(std::uint64_t arena_bytes,
                                                       std::uint32_t max_arenas);
  ~EmulatedNvram() override;
  EmulatedNvram(const EmulatedNvram&) = delete;
  EmulatedNvram& operator=(const EmulatedNvram&) = delete;

  std::byte* base() override { return volatile_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return arena_bytes_; }
  [[nodiscard]] std::uint32_t count() const override { return count_.load(); }
  Status extend() override;
  Persist& persist() override { return persist_; }

  // Runs at every fence, before it takes effect. It may call crash_into(), and nothing else of
  // this.
  void on_fence(std::function<void()> hook);
  // Counts flushes and fences from 0 and applies the mutation to them.
  void arm(Mutation mutation);
  [[nodiscard]] std::uint64_t flushes() const { return flushes_; }
  [[nodiscard]] std::uint64_t fences() const { return fences_; }

  // Makes `other` the region that a machine would find after a crash here and now. It has the same
  // size. Outside the hook no other thread may use this region.
  void crash_into(EmulatedNvram& other, std::uint64_t seed) const;

 private:
  struct Line {
    std::uint64_t index;
    std::byte content[kLineBytes];
    bool late;  // waits for one fence more
  };

  EmulatedNvram(std::byte* volatile_image, std::byte* durable, std::uint64_t arena_bytes,
                std::uint32_t max_arenas);
  void flush(const std::byte* from, std::size_t len) override;
  void fence() override;

  std::byte* const volatile_;
  std::byte* const durable_;
  const std::uint64_t arena_bytes_;
  const std::uint32_t max_arenas_;
  std::atomic<std::uint32_t> count_{1};
  Persist persist_;

  mutable std::mutex mutex_;  // all below
  std::unordered_map<std::thread::id, std::vector<Line>> pending_;
  std::function<void()> hook_;
  Mutation mutation_;
  std::uint64_t flushes_ = 0;
  std::uint64_t fences_ = 0;
};

}  // namespace btd
