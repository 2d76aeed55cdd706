#include "libbtd/heap_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "alloc/crc.h"
#include "alloc/file_arenas.h"
#include "alloc/layout.h"
#include "alloc/nvram.h"
#include "alloc/segment_table.h"

namespace btd {
namespace {

std::unexpected<Error> cannot(int code, const std::string& heap, const std::string& what) {
  return fail(code, "Heap " + heap + ": " + what + ": " + strerrordesc_np(code) + ".");
}

std::unexpected<Error> full(const std::string& heap) {
  return fail(ENOSPC, "The file system of heap " + heap +
                          " is full; free space there, or memory of the heap.");
}

}  // namespace

HeapFiles::HeapFiles(UniqueFd dir, UniqueFd lock, Plan plan)
    : dir_(std::move(dir)),
      lock_(std::move(lock)),
      plan_(std::move(plan)),
      base_(window_base(plan_.window)),
      arenas_(new UniqueFd[std::min<std::uint64_t>(kWindowBytes / plan_.arena_bytes,
                                                   SegmentTable::kMaxArenas)]),
      reserved_(kWindowBytes / kStepBytes) {}

HeapFiles::~HeapFiles() {
  if (window_held_) release_window(plan_.window);
}

void HeapFiles::forget() {
  const std::uint64_t most = kWindowBytes / plan_.arena_bytes;
  for (std::uint64_t i = 0; i < std::min<std::uint64_t>(count_, most); ++i) arenas_[i].reset();
  dir_.reset();
  lock_.reset();
  window_held_ = false;
}

Result<HeapFiles::Identity> HeapFiles::identify(int dirfd, const std::string& name) {
  const UniqueFd file(openat(dirfd, arena_name(0).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno != ENOENT) return cannot(errno, name, "arena.0 cannot be opened");
    return fail(EINVAL, name + " is no heap: it has no arena.0; name another, or remove it.");
  }
  ArenaIdentity identity{};
  const ssize_t got = pread(file.get(), &identity, sizeof(identity), 0);
  if (got < 0) return cannot(errno, name, "arena.0 cannot be read");
  if (static_cast<std::size_t>(got) < sizeof(identity)) {
    return fail(EUCLEAN, "Heap " + name + ": arena.0 was truncated; restore it from a backup.");
  }
  if (identity.magic != kArenaMagic) {
    return fail(EINVAL, name + " is no heap: arena.0 does not begin as one; name another.");
  }
  if (identity.version != kFormatVersion) {
    return fail(EINVAL, "Heap " + name + " has format version " + std::to_string(identity.version) +
                            " but this library reads version " + std::to_string(kFormatVersion) +
                            "; use the library that made it.");
  }
  if (identity.crc != crc32c(&identity, offsetof(ArenaIdentity, crc))) {
    return fail(EUCLEAN, "Heap " + name + ": the header of arena.0 is damaged; restore it.");
  }
  const Identity found{.window = window_of_gib(identity.window_gib),
                       .arena_bytes = identity.arena_bytes};
  if (found.window == kWindows) {
    return fail(EINVAL, "Heap " + name +
                            " was made for other addresses than this build of the library uses "
                            "(that of a sanitizer, or a pool of the daemon); open it there.");
  }
  if (found.arena_bytes == 0 || found.arena_bytes % kStepBytes != 0 ||
      found.arena_bytes > kWindowBytes) {
    return fail(EUCLEAN, "Heap " + name + ": arena.0 has an impossible size; restore it.");
  }
  return found;
}

Result<std::unique_ptr<HeapFiles>> HeapFiles::create(UniqueFd dir, UniqueFd lock,
                                                     const Plan& plan) {
  std::unique_ptr<HeapFiles> files(new HeapFiles(std::move(dir), std::move(lock), plan));
  BTD_TRY(reserve_window(plan.window));
  files->window_held_ = true;
  BTD_TRY(files->extend());
  return files;
}

Result<std::unique_ptr<HeapFiles>> HeapFiles::open(UniqueFd dir, UniqueFd lock, Plan plan) {
  BTD_ASSIGN(const Identity identity, identify(dir.get(), plan.name));
  plan.window = identity.window;
  plan.arena_bytes = identity.arena_bytes;
  std::unique_ptr<HeapFiles> files(new HeapFiles(std::move(dir), std::move(lock), std::move(plan)));
  BTD_TRY(reserve_window(identity.window));
  files->window_held_ = true;
  const std::uint64_t most = kWindowBytes / identity.arena_bytes;
  for (std::uint32_t i = 0; i < std::min<std::uint64_t>(most, SegmentTable::kMaxArenas); ++i) {
    const std::string& heap = files->plan_.name;
    UniqueFd file(openat(files->dir_.get(), arena_name(i).c_str(), O_RDWR | O_CLOEXEC));
    if (!file && errno == ENOENT && i > 0) break;
    if (!file) return cannot(errno, heap, arena_name(i) + " cannot be opened");
    struct stat status{};
    if (fstat(file.get(), &status) != 0) return cannot(errno, heap, "fstat failed");
    if (static_cast<std::uint64_t>(status.st_size) != identity.arena_bytes) {
      return fail(EUCLEAN, "Heap " + heap + ": " + arena_name(i) + " has " +
                               std::to_string(status.st_size) + " bytes instead of " +
                               std::to_string(identity.arena_bytes) +
                               "; it was truncated: restore it.");
    }
    BTD_TRY(files->attach(std::move(file)));
  }
  return files;
}

Status HeapFiles::attach(UniqueFd file) {
  const std::uint32_t index = count_;
  std::byte* const at = base_ + index * plan_.arena_bytes;
  BTD_ASSIGN(const Nvram nvram, map_nvram(file.get(), at, plan_.arena_bytes));
  if (!domain_) {
    domain_ = nvram.domain;
    persist_.emplace(plan_.flush ? nvram.domain : Domain::kProcess);
  } else if (nvram.domain != *domain_) {
    return fail(EINVAL, "The arenas of heap " + plan_.name +
                            " lie on different kinds of storage; move them together.");
  }
  madvise(at, plan_.arena_bytes, MADV_HUGEPAGE);  // where the file system has them
  if (madvise(at, plan_.arena_bytes, MADV_DONTFORK) != 0) {
    return cannot(errno, plan_.name, "an arena cannot be kept from child processes");
  }
  {
    const std::lock_guard lock(space_mutex_);
    arenas_[index] = std::move(file);
  }
  ++count_;
  return {};
}

// A sparse file under another name first, so that none under its own is of another size.
Result<UniqueFd> HeapFiles::make_file(const std::string& name) {
  const std::string fresh = name + ".new";
  UniqueFd file(openat(dir_.get(), fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) return cannot(errno, plan_.name, fresh + " cannot be created");
  int error = ftruncate(file.get(), static_cast<off_t>(plan_.arena_bytes)) == 0 ? 0 : errno;
  error = give_name(dir_.get(), file.get(), fresh, name, error);
  if (error == 0) return file;
  if (error == ENOSPC || error == EDQUOT) return full(plan_.name);
  return cannot(error, plan_.name, name + " cannot be made");
}

Status HeapFiles::extend() {
  const std::uint32_t index = count_;
  const std::uint64_t end = (index + std::uint64_t{1}) * plan_.arena_bytes;
  if (index >= SegmentTable::kMaxArenas || end > kWindowBytes ||
      (plan_.max_bytes != 0 && index > 0 && end > plan_.max_bytes)) {
    return fail(ENOSPC, "Heap " + plan_.name + " is as large as it may be (" +
                            std::to_string(index) + " arenas of " +
                            std::to_string(plan_.arena_bytes) + " bytes); free memory of it.");
  }
  BTD_ASSIGN(UniqueFd file, make_file(arena_name(index)));
  BTD_TRY(attach(std::move(file)));
  // The metadata now, and all else as it is used; an arena left without it is used by nobody.
  const SegmentTable::Geometry parts = SegmentTable::plan(
      plan_.arena_bytes, sizeof(ArenaHeader) + (index == 0 ? plan_.journal_bytes : 0));
  return reserve_space(index * plan_.arena_bytes, parts.segments_offset);
}

Status HeapFiles::allocate(std::uint64_t from, std::uint64_t len) {
  const int error =
      reserve_in_file(arenas_[from / plan_.arena_bytes].get(), from % plan_.arena_bytes, len);
  if (error == 0) return {};
  if (error == ENOSPC || error == EDQUOT) return full(plan_.name);
  if (error == EOPNOTSUPP) {
    return fail(error,
                "The file system of heap " + plan_.name +
                    " cannot reserve space (fallocate); use tmpfs, ext4, xfs or a mount of ours.");
  }
  return cannot(error, plan_.name, "space cannot be reserved");
}

Status HeapFiles::reserve_space(std::uint64_t off, std::uint64_t len) {
  if (len == 0) return {};
  const std::uint64_t last = (off + len - 1) / kStepBytes;
  for (std::uint64_t step = off / kStepBytes; step <= last; ++step) {
    if (reserved_.has(step)) continue;
    const std::lock_guard lock(space_mutex_);
    if (reserved_.has(step)) continue;
    const std::uint64_t from = step * kStepBytes;
    const std::uint64_t arena_end = (from / plan_.arena_bytes + 1) * plan_.arena_bytes;
    const std::uint64_t needed = std::min((last + 1) * kStepBytes, arena_end) - from;
    std::uint64_t bytes = std::min(std::max(needed, step_), arena_end - from);
    Status done = allocate(from, bytes);
    if (!done && done.error().code == ENOSPC && bytes > needed) {
      bytes = needed;
      step_ = kStepBytes;  // nearly full: in small steps from here
      done = allocate(from, bytes);
    }
    BTD_TRY(std::move(done));
    step_ = std::min(step_ * 2, kMaxStepBytes);
    reserved_.add(step, bytes / kStepBytes);
  }
  return {};
}

Status HeapFiles::freeze() {
  const std::lock_guard lock(space_mutex_);
  for (; frozen_ < count_; ++frozen_) {
    BTD_TRY(map_private(arenas_[frozen_].get(), base_ + frozen_ * plan_.arena_bytes,
                        plan_.arena_bytes));
  }
  return {};
}

}  // namespace btd
