// HeapImage: the directory of a heap as tools see it, without changing anything in it.
//
// The arenas are mapped as a private copy, anywhere: replaying the journal and all else that a tool
// does stays in this process. The heap's lock is taken shared, so that no program opens the heap
// meanwhile and several tools may look at once. Where a program has it open, the image is what lies
// there at each moment: good for counting, not for following pointers. Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "alloc/file_arenas.h"
#include "alloc/heap.h"
#include "alloc/layout.h"
#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "libbtd/names.h"
#include "libbtd/placement.h"

namespace btd {

// The heap whose own directory this is: its name, and the directory where it lies.
[[nodiscard]] Settings place_of(const std::string& path);

class HeapImage {
 public:
  // `path` is the heap's own directory. Errors: ENOENT; EACCES; EINVAL no heap, or another version;
  // EUCLEAN damaged so that it cannot be mapped.
  static Result<std::unique_ptr<HeapImage>> open(const std::string& path);
  HeapImage(const HeapImage&) = delete;
  HeapImage& operator=(const HeapImage&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const ArenaIdentity& identity() const { return header().identity; }
  // Its state when it was mapped; unset: damaged. Replaying does not change this.
  [[nodiscard]] const std::optional<HeapState>& state() const { return state_; }
  // Arenas that belong to the heap; files beyond them are nothing yet.
  [[nodiscard]] std::uint32_t arenas() const { return arenas_; }
  [[nodiscard]] std::uint32_t files() const { return source_->count(); }
  [[nodiscard]] std::uint64_t arena_bytes() const { return source_->arena_bytes(); }
  [[nodiscard]] const std::byte* base() const { return source_->base(); }
  [[nodiscard]] const ArenaHeader& header(std::uint32_t arena = 0) const;
  // The segments of an arena that have memory, of which the file has as many.
  [[nodiscard]] std::uint32_t grown(std::uint32_t arena, const SegmentTable::Geometry& plan) const;
  // What programs add to an offset to make it a pointer.
  [[nodiscard]] std::uint64_t address() const { return std::uint64_t{identity().window_gib} << 30; }
  // What the heap takes on its file system.
  [[nodiscard]] std::uint64_t disk_bytes() const { return disk_bytes_; }
  // Whether the bits of recoverable objects are right: they are unless the machine stopped.
  [[nodiscard]] bool bits_hold() const;

  // Whether a program has it open, and which, as far as it said.
  [[nodiscard]] bool in_use() const { return in_use_; }
  [[nodiscard]] pid_t user() const { return user_; }
  // EBUSY and what to do, if a program has it open.
  [[nodiscard]] Status idle() const;

  // Opens the heap in the private copy, replaying its journal there; once. Errors: EBUSY; EUCLEAN.
  Status replay();
  // After replay().
  [[nodiscard]] Heap& heap() { return *heap_; }
  [[nodiscard]] const Heap& heap() const { return *heap_; }
  [[nodiscard]] const Names& names() const { return *names_; }

 private:
  HeapImage() = default;
  void look_at_lock();

  std::string path_, name_;
  UniqueFd dir_;
  UniqueFd lock_;  // holds the lock while it is there
  bool in_use_ = false;
  pid_t user_ = 0;
  std::unique_ptr<FileArenas> source_;
  std::optional<HeapState> state_;
  std::uint32_t arenas_ = 0;
  std::uint64_t disk_bytes_ = 0;
  std::unique_ptr<Heap> heap_;  // gone before its source
  std::unique_ptr<Names> names_;
};

}  // namespace btd
