// MemoryArenas: an ArenaSource in anonymous memory, for tests and benchmarks.
//
// The address window for all arenas is reserved at once; an arena is committed by extend().
// By default flushes are real cache-line flushes, so that counts and costs are those of NVRAM.
#pragma once

#include <atomic>
#include <memory>

#include "alloc/arena_source.h"

namespace btd {

class MemoryArenas final : public ArenaSource {
 public:
  // Starts with one arena. `arena_bytes` is a multiple of 64 KiB. Errors: EINVAL, ENOMEM.
  static Result<std::unique_ptr<MemoryArenas>> create(std::uint64_t arena_bytes,
                                                      std::uint32_t max_arenas,
                                                      Domain domain = Domain::kCacheLine,
                                                      PersistBackend* backend = nullptr);
  ~MemoryArenas() override;
  MemoryArenas(const MemoryArenas&) = delete;
  MemoryArenas& operator=(const MemoryArenas&) = delete;

  std::byte* base() override { return base_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return arena_bytes_; }
  [[nodiscard]] std::uint32_t count() const override { return count_.load(); }
  Status extend() override;
  Persist& persist() override { return persist_; }

 private:
  MemoryArenas(std::byte* base, std::uint64_t arena_bytes, std::uint32_t max_arenas, Domain domain,
               PersistBackend* backend);

  std::byte* const base_;
  const std::uint64_t arena_bytes_;
  const std::uint32_t max_arenas_;
  std::atomic<std::uint32_t> count_{1};
  Persist persist_;
};

}  // namespace btd
