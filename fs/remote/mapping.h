// Mapping: one backing file mapped whole, as a region of an engine wants it, and how what peers
// write to it becomes durable.
//
// Ownership: the mapping is this object's; who registered it keeps it until the engine has let go.
#pragma once

#include <semaphore.h>
#include <sys/stat.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "alloc/persist.h"
#include "alloc/result.h"
#include "fs/remote/fault_guard.h"

namespace btd::remote {

class Mapping {
 public:
  // Whether a touch of any byte finds its block: no holes, and not empty.
  static bool is_whole(const struct stat& facts);

  // Maps the first facts.st_size bytes. `told`: of a fault in it. Errors: those of mmap; ENFILE too
  // many are mapped.
  static Result<std::shared_ptr<Mapping>> make(int fd, const struct stat& facts,
                                               std::shared_ptr<sem_t> told);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  [[nodiscard]] std::span<std::byte> memory() const { return memory_; }
  // Of the file as it is now: the same file, and as long.
  [[nodiscard]] bool is_of(const struct stat& facts) const;
  [[nodiscard]] bool is_broken() const { return range_->is_broken(); }
  // A flushed line is durable. Elsewhere pages must be synced, which blocks: not by an engine.
  [[nodiscard]] bool is_written_one_sided() const {
    return persist_->domain() == Domain::kCacheLine;
  }
  [[nodiscard]] Persist& persist() { return *persist_; }

 private:
  Mapping(std::span<std::byte> memory, const struct stat& facts);

  const std::span<std::byte> memory_;
  const dev_t device_;
  const ino_t inode_;
  std::shared_ptr<sem_t> told_;
  std::optional<FaultGuard::Range> range_;
  std::optional<Persist> persist_;
};

}  // namespace btd::remote
