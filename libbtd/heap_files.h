// HeapFiles: the ArenaSource over one heap's directory: arena.0, arena.1, … and `lock`.
//
// Arenas are sparse files at fixed addresses of the heap's window. Space is reserved on the file
// system in growing steps before it is first stored to, so no store meets a full one. An arena
// appears under its name only when it can be mapped. Owns descriptors, mappings and the window.
// Thread-safety: as ArenaSource; reserve_space() from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "alloc/arena_source.h"
#include "alloc/unique_fd.h"
#include "libbtd/reserve.h"
#include "libbtd/windows.h"

namespace btd {

class HeapFiles final : public ArenaSource {
 public:
  static constexpr std::uint64_t kStepBytes = 2 * 1024 * 1024;
  static constexpr std::uint64_t kMaxStepBytes = 64 * 1024 * 1024;
  struct Plan {
    std::string name;                 // of the heap, for messages
    unsigned window = 0;              // kWindows: as arena.0 says
    std::uint64_t arena_bytes = 0;    // a multiple of kStepBytes
    std::uint64_t max_bytes = 0;      // no arena is added beyond it
    std::uint64_t journal_bytes = 0;  // of a heap that is made, in arena 0
    bool flush = true;                // false: what is stored need only outlive the process
  };

  // What arena.0 says of itself.
  struct Identity {
    unsigned window = 0;
    std::uint64_t arena_bytes = 0;
  };
  // Errors: EINVAL no heap, or another version; EUCLEAN damaged.
  static Result<Identity> identify(int dirfd, const std::string& name);

  // Takes the window of an empty directory. Errors: EADDRINUSE.
  static Result<std::unique_ptr<HeapFiles>> create(UniqueFd dir, UniqueFd lock, const Plan& plan);
  // Maps all arenas there are. Errors: as identify(); EADDRINUSE; EUCLEAN one was truncated.
  static Result<std::unique_ptr<HeapFiles>> open(UniqueFd dir, UniqueFd lock, Plan plan);
  ~HeapFiles() override;
  HeapFiles(const HeapFiles&) = delete;
  HeapFiles& operator=(const HeapFiles&) = delete;

  std::byte* base() override { return base_; }
  [[nodiscard]] std::uint64_t arena_bytes() const override { return plan_.arena_bytes; }
  [[nodiscard]] std::uint32_t count() const override { return count_.load(); }
  Status extend() override;
  Status reserve_space(std::uint64_t off, std::uint64_t len) override;
  Persist& persist() override { return *persist_; }
  std::atomic<std::uint64_t>* cells() override { return g_cells + plan_.window * kWindowCells; }

  [[nodiscard]] unsigned window() const { return plan_.window; }
  // In a child after fork: closes what it inherited and forgets the mappings, which it has not.
  void forget();
  // Before a fork whose child is to keep what it inherits: from now on this process and the child
  // have a private view of the arenas there are, and the files stay as they are. Errors: ENOMEM.
  Status freeze();

 private:
  HeapFiles(UniqueFd dir, UniqueFd lock, Plan plan);
  Status attach(UniqueFd file);
  Result<UniqueFd> make_file(const std::string& name);
  Status allocate(std::uint64_t from, std::uint64_t len);

  UniqueFd dir_;
  UniqueFd lock_;
  Plan plan_;
  std::byte* base_ = nullptr;
  bool window_held_ = false;
  std::atomic<std::uint32_t> count_{0};
  std::uint32_t frozen_ = 0;        // arenas that freeze() made private
  std::optional<Persist> persist_;  // chosen by the first mapping
  std::optional<Domain> domain_;    // of the files
  std::mutex space_mutex_;          // arenas_, step_; and one reservation at a time
  std::unique_ptr<UniqueFd[]> arenas_;
  std::uint64_t step_ = kStepBytes;
  StepMap reserved_;  // of kStepBytes of the window, in this run
};

}  // namespace btd
