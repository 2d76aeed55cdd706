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

HeapFiles::HeapFiles(UniqueFd dir, std::shared_ptr<HeapUsers> users, Plan plan)
    : dir_(std::move(dir)),
      users_(std::move(users)),
      plan_(std::move(plan)),
      base_(window_base(plan_.window)),
      files_(arenas_of(plan_.arena_bytes)) {}

HeapFiles::~HeapFiles() {
  if (window_held_) release_window(plan_.window, count() * plan_.arena_bytes);
}

void HeapFiles::forget() {
  for (UniqueFd& file : files_) file.reset();
  dir_.reset();
  users_->forget();
  window_held_ = false;
}

std::uint32_t HeapFiles::arenas_of(std::uint64_t arena_bytes) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(kWindowBytes / arena_bytes, kMaxFiles));
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

// All files there will ever be: another process maps them once, and what they grow by is there.
Result<std::unique_ptr<HeapFiles>> HeapFiles::create(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                     const Plan& plan) {
  for (std::uint32_t i = 0; i < arenas_of(plan.arena_bytes); ++i) {
    const UniqueFd file(
        openat(dir.get(), arena_name(i).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (file) continue;
    const int code = errno;
    if (code == ENOSPC || code == EDQUOT) return full(plan.name);
    return cannot(code, plan.name, arena_name(i) + " cannot be made");
  }
  fsync(dir.get());  // EINVAL where a directory has nothing to sync
  return map_all(std::move(dir), std::move(users), plan);
}

Result<std::unique_ptr<HeapFiles>> HeapFiles::open(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                   Plan plan) {
  BTD_ASSIGN(const Identity identity, identify(dir.get(), plan.name));
  plan.window = identity.window;
  plan.arena_bytes = identity.arena_bytes;
  return map_all(std::move(dir), std::move(users), std::move(plan));
}

Result<std::unique_ptr<HeapFiles>> HeapFiles::map_all(UniqueFd dir,
                                                      std::shared_ptr<HeapUsers> users, Plan plan) {
  std::unique_ptr<HeapFiles> files(
      new HeapFiles(std::move(dir), std::move(users), std::move(plan)));
  BTD_TRY(reserve_window(files->plan_.window));
  files->window_held_ = true;
  BTD_TRY(files->map_arenas());
  // Where the file system has huge pages. And a child has none of it.
  const std::uint64_t bytes = files->count() * files->arena_bytes();
  madvise(files->base_, bytes, MADV_HUGEPAGE);
  if (madvise(files->base_, bytes, MADV_DONTFORK) != 0) {
    return cannot(errno, files->plan_.name, "the arenas cannot be kept from child processes");
  }
  return files;
}

Result<UniqueFd> HeapFiles::open_arena(std::uint32_t index) const {
  UniqueFd file(openat(dir_.get(), arena_name(index).c_str(), O_RDWR | O_CLOEXEC));
  if (file) return file;
  if (errno != ENOENT) return cannot(errno, plan_.name, arena_name(index) + " cannot be opened");
  return fail(EUCLEAN, "Heap " + plan_.name + " has " + std::to_string(count()) + " arenas but " +
                           arena_name(index) + " is not there; put the missing files back.");
}

Status HeapFiles::map_arenas() {
  BTD_ASSIGN(const UniqueFd first, open_arena(0));
  std::optional<sockaddr_un> socket = backing_socket_of(first.get());
  for (;;) {
    bool have_all = true;
    domain_.reset();
    for (std::uint32_t i = 0; have_all && i < count(); ++i) {
      BTD_ASSIGN(have_all, map(i, socket));
    }
    if (have_all) return {};
    socket.reset();
  }
}

Result<bool> HeapFiles::map(std::uint32_t index, const std::optional<sockaddr_un>& socket) {
  BTD_ASSIGN(const UniqueFd file, open_arena(index));
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return cannot(errno, plan_.name, "fstat failed");
  if (static_cast<std::uint64_t>(status.st_size) > plan_.arena_bytes) {
    return fail(EUCLEAN, "Heap " + plan_.name + ": " + arena_name(index) + " has " +
                             std::to_string(status.st_size) + " bytes, more than " +
                             std::to_string(plan_.arena_bytes) + "; restore it.");
  }
  UniqueFd backing_file;
  if (socket) {
    backing_file = backing_of(file.get(), *socket);
    if (!backing_file) return false;
  }
  BTD_ASSIGN(const Nvram nvram, map_nvram(backing_file ? backing_file.get() : file.get(),
                                          base_ + index * plan_.arena_bytes, plan_.arena_bytes));
  if (!domain_) {
    domain_ = nvram.domain;
    persist_.emplace(plan_.flush ? nvram.domain : Domain::kProcess);
  } else if (nvram.domain != *domain_) {
    return fail(EINVAL, "The arenas of heap " + plan_.name +
                            " lie on different kinds of storage; move them together.");
  }
  return true;
}

Status HeapFiles::extend() {
  return fail(ENOSPC, "Heap " + plan_.name + " has all " + std::to_string(count()) +
                          " arenas it may have; free memory of it.");
}

std::uint64_t HeapFiles::used_bytes(std::uint32_t arena) {
  struct stat status{};
  if (fstatat(dir_.get(), arena_name(arena).c_str(), &status, 0) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_size);
}

std::uint64_t HeapFiles::disk_bytes() const {
  std::uint64_t sum = 0;
  struct stat status{};
  for (std::uint32_t i = 0; i < count(); ++i) {
    if (fstatat(dir_.get(), arena_name(i).c_str(), &status, 0) != 0) continue;
    sum += static_cast<std::uint64_t>(status.st_blocks) * 512;
    if (status.st_size == 0 && i > 0) break;  // arenas are used in turn
  }
  return sum;
}

Status HeapFiles::reserve_space(std::uint64_t off, std::uint64_t len) {
  if (len == 0) return {};
  const auto index = static_cast<std::uint32_t>(off / plan_.arena_bytes);
  const std::lock_guard lock(space_mutex_);
  if (plan_.max_bytes != 0 && disk_bytes() + len > plan_.max_bytes) {
    return fail(ENOSPC, "Heap " + plan_.name + " is as large as it may be (" +
                            std::to_string(plan_.max_bytes) + " bytes); free memory of it.");
  }
  BTD_ASSIGN(const int file, file_of(index));
  int error = reserve_in_file(file, off % plan_.arena_bytes, len);
  // A flushed line is durable at once, the file's size is not.
  if (error == 0 && plan_.flush && domain_ == Domain::kCacheLine && fdatasync(file) != 0)
    error = errno;
  if (error == 0) return {};
  if (error == ENOSPC || error == EDQUOT) return full(plan_.name);
  if (error == EOPNOTSUPP) {
    return fail(error,
                "The file system of heap " + plan_.name +
                    " cannot reserve space (fallocate); use tmpfs, ext4, xfs or a mount of ours.");
  }
  return cannot(error, plan_.name, "space cannot be reserved");
}

Result<int> HeapFiles::file_of(std::uint32_t index) {
  UniqueFd& file = files_.at(index);
  if (!file) {
    BTD_ASSIGN(file, open_arena(index));
  }
  return file.get();
}

bool HeapFiles::release_space(std::uint64_t off, std::uint64_t len) {
  const std::lock_guard lock(space_mutex_);
  const Result<int> file = file_of(static_cast<std::uint32_t>(off / plan_.arena_bytes));
  return file &&
         fallocate(*file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(off % plan_.arena_bytes), static_cast<off_t>(len)) == 0;
}

Status HeapFiles::freeze() {
  const std::lock_guard lock(space_mutex_);
  for (std::uint32_t i = 0; i < count(); ++i) {
    BTD_ASSIGN(const UniqueFd file, open_arena(i));
    BTD_TRY(map_private(file.get(), base_ + i * plan_.arena_bytes, plan_.arena_bytes));
  }
  return {};
}

}  // namespace btd
