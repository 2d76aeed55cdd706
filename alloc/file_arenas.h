// FileArenas: an ArenaSource over files `arena.0`, `arena.1`, … of one directory.
//
// Each file is allocated whole when it is made, so that a store never meets a full file system. The
// address window for all arenas is reserved at once. A file appears under its name only when it is
// complete, so a crash leaves no half-made arena. Owns mappings and descriptors; the caller's
// directory descriptor is duplicated. One user at a time: the caller holds the pool's lock.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/nvram.h"
#include "alloc/unique_fd.h"

namespace btd {

[[nodiscard]] std::string arena_name(std::uint32_t index);

// Gives the file `fresh` its name for good, durably. `error`, of what was done to it before, or
// what fails here takes it away again. Returns that errno, or 0.
[[nodiscard]] int give_name(int dirfd, int fd, const std::string& fresh, const std::string& name,
                            int error);

class FileArenas final : public ArenaSource {
 public:
  enum class Mode {
    kShared,   // changes go to the files
    kPrivate,  // changes stay in this process: for an offline check
  };

  // Makes `arena.0`; the directory has none. Errors: EEXIST; EINVAL the size; ENOSPC; EOPNOTSUPP
  // the file system cannot reserve space.
  static Result<std::unique_ptr<FileArenas>> create(int dirfd, std::uint64_t arena_bytes,
                                                    std::uint32_t max_arenas);
  // Opens what is there. `most` bytes are what an arena's file may grow to; 0: all have the size of
  // the first. Errors: ENOENT no `arena.0`; EUCLEAN a file has a size that it may not have.
  static Result<std::unique_ptr<FileArenas>> open(int dirfd, std::uint32_t max_arenas, Mode mode,
                                                  std::uint64_t most = 0);
  ~FileArenas() override;
  FileArenas(const FileArenas&) = delete;
  FileArenas& operator=(const FileArenas&) = delete;

  std::byte* base() override { return base_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return arena_bytes_; }
  [[nodiscard]] std::uint32_t count() const override { return count_.load(); }
  // ENOSPC the file system is full or all arenas are in use; EROFS in private mode.
  Status extend() override;
  Status reserve_space(std::uint64_t off, std::uint64_t len) override;
  [[nodiscard]] std::uint64_t used_bytes(std::uint32_t arena) override { return sizes_[arena]; }
  Persist& persist() override { return *persist_; }
  [[nodiscard]] const Nvram& nvram() const { return nvram_; }

 private:
  FileArenas(UniqueFd dir, std::uint64_t arena_bytes, std::uint32_t max_arenas, Mode mode);
  Status reserve_window();
  Status attach(int fd, std::uint64_t bytes);
  Status make_file(const std::string& name);

  const UniqueFd dir_;
  const std::uint64_t arena_bytes_;
  const std::uint32_t max_arenas_;
  const Mode mode_;
  std::byte* base_ = nullptr;
  std::atomic<std::uint32_t> count_{0};
  std::vector<std::uint64_t> sizes_;  // of the files
  Nvram nvram_;
  std::optional<Persist> persist_;  // chosen by the first mapping
};

}  // namespace btd
