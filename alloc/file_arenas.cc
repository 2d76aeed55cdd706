#include "alloc/file_arenas.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "alloc/layout.h"

namespace btd {
namespace {

std::unexpected<Error> failed(int code, const std::string& name, const char* doing) {
  return fail(code, name + " cannot be " + doing + ": " + strerrordesc_np(code) + ".");
}

Result<std::uint64_t> size_of(int fd, const std::string& name) {
  struct stat status{};
  if (fstat(fd, &status) != 0) return failed(errno, name, "examined");
  return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace

std::string arena_name(std::uint32_t index) { return "arena." + std::to_string(index); }

int give_name(int dirfd, int fd, const std::string& fresh, const std::string& name, int error) {
  if (error == 0 && fsync(fd) != 0) error = errno;
  if (error == 0 && renameat(dirfd, fresh.c_str(), dirfd, name.c_str()) != 0) error = errno;
  if (error == 0 && fsync(dirfd) != 0 && errno != EINVAL) error = errno;
  if (error != 0) unlinkat(dirfd, fresh.c_str(), 0);
  return error;
}

FileArenas::FileArenas(UniqueFd dir, std::uint64_t arena_bytes, std::uint32_t max_arenas, Mode mode)
    : dir_(std::move(dir)),
      arena_bytes_(arena_bytes),
      max_arenas_(max_arenas),
      mode_(mode),
      sizes_(max_arenas) {}

FileArenas::~FileArenas() {
  if (base_ != nullptr) munmap(base_, arena_bytes_ * max_arenas_);
}

Status FileArenas::reserve_window() {
  void* at = mmap(nullptr, arena_bytes_ * max_arenas_, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) {
    return fail(errno, "No address space for " + std::to_string(max_arenas_) + " arenas of " +
                           std::to_string(arena_bytes_) + " bytes; use fewer or smaller arenas.");
  }
  base_ = static_cast<std::byte*>(at);
  return {};
}

Result<std::unique_ptr<FileArenas>> FileArenas::create(int dirfd, std::uint64_t arena_bytes,
                                                       std::uint32_t max_arenas) {
  if (arena_bytes == 0 || arena_bytes % kSegmentBytes != 0 || max_arenas == 0) {
    return fail(EINVAL, "An arena must be a multiple of 64 KiB and there must be at least one.");
  }
  if (faccessat(dirfd, arena_name(0).c_str(), F_OK, 0) == 0) {
    return fail(EEXIST, "The directory has arenas already; remove them first.");
  }
  UniqueFd dir(fcntl(dirfd, F_DUPFD_CLOEXEC, 0));
  if (!dir) return failed(errno, "The directory", "opened");
  std::unique_ptr<FileArenas> arenas(
      new FileArenas(std::move(dir), arena_bytes, max_arenas, Mode::kShared));
  BTD_TRY(arenas->reserve_window());
  BTD_TRY(arenas->extend());
  return arenas;
}

Result<std::unique_ptr<FileArenas>> FileArenas::open(int dirfd, std::uint32_t max_arenas, Mode mode,
                                                     std::uint64_t most) {
  UniqueFd dir(fcntl(dirfd, F_DUPFD_CLOEXEC, 0));
  if (!dir) return failed(errno, "The directory", "opened");
  std::unique_ptr<FileArenas> arenas;
  const int access = mode == Mode::kShared ? O_RDWR : O_RDONLY;
  for (std::uint32_t i = 0; i < max_arenas; ++i) {
    const std::string name = arena_name(i);
    const UniqueFd file(openat(dirfd, name.c_str(), access | O_CLOEXEC));
    if (!file && errno == ENOENT && i > 0) break;
    if (!file) return failed(errno, name, "opened");
    BTD_ASSIGN(const std::uint64_t size, size_of(file.get(), name));
    if (i == 0) {
      if (size == 0 || (most == 0 && size % kSegmentBytes != 0)) {
        return fail(EUCLEAN, name + " has " + std::to_string(size) +
                                 " bytes, which is no arena; it was truncated: restore it.");
      }
      // NOLINTNEXTLINE(bugprone-use-after-move): only the first round comes here
      arenas.reset(new FileArenas(std::move(dir), most == 0 ? size : most, max_arenas, mode));
      BTD_TRY(arenas->reserve_window());
    }
    if (most == 0 ? size != arenas->arena_bytes_ : size > most) {
      return fail(EUCLEAN, name + " has " + std::to_string(size) + " bytes instead of " +
                               std::to_string(arenas->arena_bytes_) +
                               "; it was truncated: restore it.");
    }
    BTD_TRY(arenas->attach(file.get(), size));
  }
  if (!arenas) return fail(EINVAL, "There must be at least one arena.");
  return arenas;
}

Status FileArenas::attach(int fd, std::uint64_t bytes) {
  std::byte* at = base_ + count_ * arena_bytes_;
  BTD_ASSIGN(const Nvram nvram, mode_ == Mode::kPrivate ? map_private(fd, at, arena_bytes_)
                                                        : map_nvram(fd, at, arena_bytes_));
  if (count_ == 0) {
    nvram_ = nvram;
    persist_.emplace(nvram.domain);
  } else if (nvram.domain != nvram_.domain) {
    return fail(EINVAL, "The arenas of one heap lie on different kinds of storage; move them.");
  }
  sizes_[count_] = bytes;
  ++count_;
  return {};
}

Status FileArenas::reserve_space(std::uint64_t off, std::uint64_t len) {
  if (off % arena_bytes_ + len <= sizes_[off / arena_bytes_]) return {};
  return fail(EROFS, "A heap that is only looked at does not grow.");
}

// Allocates the file whole under another name, then gives it its own.
Status FileArenas::make_file(const std::string& name) {
  const std::string fresh = name + ".new";
  const UniqueFd file(
      openat(dir_.get(), fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) return failed(errno, fresh, "created");
  int error = fallocate(file.get(), 0, 0, static_cast<off_t>(arena_bytes_)) == 0 ? 0 : errno;
  error = give_name(dir_.get(), file.get(), fresh, name, error);
  if (error == 0) return {};
  if (error == EOPNOTSUPP) {
    return fail(error,
                "The file system cannot reserve space (fallocate); put the pool on tmpfs, "
                "ext4 or xfs.");
  }
  return failed(error, name, "allocated");
}

Status FileArenas::extend() {
  if (mode_ == Mode::kPrivate) return fail(EROFS, "The heap is open for reading only.");
  const std::uint32_t index = count_;
  if (index == max_arenas_) {
    return fail(ENOSPC, "All " + std::to_string(max_arenas_) + " arenas are in use.");
  }
  const std::string name = arena_name(index);
  BTD_TRY(make_file(name));
  const UniqueFd file(openat(dir_.get(), name.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return failed(errno, name, "opened");
  return attach(file.get(), arena_bytes_);
}

}  // namespace btd
