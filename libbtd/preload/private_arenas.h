// PrivateArenas: an ArenaSource for the heap of one process, in files without a name.
//
// All arenas lie in a window of their own (libbtd/windows.h). Memory comes in steps: each reserves
// its space in a file that never had a name or has lost it, and is mapped from there, shared; so no
// store meets a full file system, and nothing is left when the process ends, however it ends.
// FORK: freeze() turns what is mapped into private views, of which the kernel gives the child an
// exact copy, page by page as either side writes. What either needs later comes from a new file.
// The file's descriptor is the program's to close by mistake: it is looked at before each use.
// Thread-safety: as ArenaSource; reserve_space() from any thread; hold() to let_go() excludes it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "alloc/arena_source.h"
#include "alloc/unique_fd.h"
#include "libbtd/placement.h"
#include "libbtd/reserve.h"

namespace btd::preload {

class PrivateArenas final : public ArenaSource {
 public:
  static constexpr std::uint64_t kArenaBytes = std::uint64_t{1} << 30;
  static constexpr std::uint64_t kStepBytes = 2 * 1024 * 1024;
  // More is reserved than was asked for, so that steps are few; at most an eighth of what there is.
  static constexpr std::uint64_t kMaxAheadBytes = 32 * 1024 * 1024;

  // Reserves the window; `journal_bytes` of arena 0 are the heap's. Errors: EADDRINUSE, ENOMEM.
  static Result<std::unique_ptr<PrivateArenas>> create(Settings place, std::uint64_t journal_bytes);
  ~PrivateArenas() override;
  PrivateArenas(const PrivateArenas&) = delete;
  PrivateArenas& operator=(const PrivateArenas&) = delete;

  std::byte* base() override { return base_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return kArenaBytes; }
  [[nodiscard]] std::uint32_t count() const override { return count_.load(); }
  Status extend() override;
  // Errors: ENOSPC the file system is full; others: no file can be made there.
  Status reserve_space(std::uint64_t off, std::uint64_t len) override;
  Persist& persist() override { return persist_; }

  void hold() { mutex_.lock(); }
  void let_go() { mutex_.unlock(); }
  // Called between hold() and let_go(), before a fork. Errors: ENOMEM; then the child, in which
  // some of the memory is still its parent's, must end.
  Status freeze();

  [[nodiscard]] std::uint64_t reserved_bytes() const { return reserved_bytes_.load(); }
  [[nodiscard]] const std::string& directory() const { return place_.directory; }

 private:
  // A part of the window that is mapped, shared, from the file.
  struct Run {
    std::uint64_t off;
    std::uint64_t len;
    std::uint64_t at;  // in the file
    bool lost;         // the program closed the file's descriptor
  };
  // An open file, known again by these.
  struct File {
    UniqueFd fd;
    dev_t device = 0;
    ino_t inode = 0;
    std::uint64_t end = 0;
  };

  PrivateArenas(Settings place, std::uint64_t journal_bytes, std::byte* base);
  [[nodiscard]] std::uint64_t unreserved_from(std::uint64_t step, std::uint64_t most) const;
  [[nodiscard]] bool file_is_ours() const;
  void forget_file();
  Status make_file();
  Status add(std::uint64_t step, std::uint64_t steps);
  Status grow_file(std::uint64_t len);
  void note(const Run& run);

  const Settings place_;
  const std::uint64_t journal_bytes_;
  std::byte* const base_;
  Persist persist_{Domain::kProcess};
  std::atomic<std::uint32_t> count_{0};
  std::atomic<std::uint64_t> reserved_bytes_{0};
  std::mutex mutex_;  // file_, runs_; and one reservation at a time
  File file_;         // none: the next reservation makes one
  std::vector<Run> runs_;
  StepMap reserved_;  // of kStepBytes of the window: they are mapped
};

}  // namespace btd::preload
