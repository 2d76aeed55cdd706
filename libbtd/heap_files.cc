#include "libbtd/heap_files.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <utility>

#include "alloc/crc.h"
#include "alloc/file_arenas.h"
#include "alloc/layout.h"
#include "alloc/nvram.h"
#include "alloc/segment_table.h"
#include "libbtd/mount_facts.h"

namespace btd {
namespace {

std::unexpected<Error> cannot(int code, const std::string& heap, const std::string& what) {
  return fail(code, "Heap " + heap + ": " + what + ": " + strerrordesc_np(code) + ".");
}

std::unexpected<Error> full(const std::string& heap) {
  return fail(ENOSPC, "The file system of heap " + heap +
                          " is full; free space there, or memory of the heap.");
}

// As its node has it now, whatever this kernel remembers.
std::uint64_t size_now(int dirfd, std::uint32_t index) {
  struct statx status{};
  if (statx(dirfd, arena_name(index).c_str(), AT_STATX_FORCE_SYNC, STATX_SIZE, &status) != 0)
    return 0;
  return status.stx_size;
}

// More than any call to another node takes.
constexpr std::int64_t kMappingWaitMs = 60'000;
constexpr std::int64_t kNameWaitMs = 10'000;

std::int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
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
  if (users_) users_->forget();
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

// All files there will ever be: another process maps them once, and what they grow by is there. In
// a cluster the first alone: each is to lie with who takes it.
Result<std::unique_ptr<HeapFiles>> HeapFiles::create(UniqueFd dir, std::shared_ptr<HeapUsers> users,
                                                     const Plan& plan) {
  const std::uint32_t made = node_where(dir.get(), "coherent") ? 1 : arenas_of(plan.arena_bytes);
  for (std::uint32_t i = 0; i < made; ++i) {
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
  if (!files->node_) madvise(files->base_, bytes, MADV_HUGEPAGE);
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

// The others when they are reached.
Status HeapFiles::map_first() {
  absent_.store(~std::uint64_t{0});
  BTD_TRY(fetch(0));
  domain_ = Domain::kMsync;
  persist_.emplace(plan_.flush ? Domain::kMsync : Domain::kProcess);
  return {};
}

int HeapFiles::map_coherent(std::uint32_t index) {
  std::array<char, 32> name{"arena."};
  std::to_chars(name.data() + 6, name.data() + name.size() - 1, index);
  const UniqueFd file(openat(dir_.get(), name.data(), O_RDWR | O_CLOEXEC));
  // The size that the kernel learned from the name may be older than the open, from which on it is
  // told of changes: a load beyond it would be SIGBUS.
  struct statx status{};
  if (!file || statx(file.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_SIZE, &status) != 0)
    return errno;
  if (status.stx_size > plan_.arena_bytes) return EUCLEAN;
  std::byte* const at = base_ + index * plan_.arena_bytes;
  if (mmap(at, plan_.arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.get(), 0) ==
      MAP_FAILED)
    return errno;
  if (madvise(at, plan_.arena_bytes, MADV_DONTFORK) != 0) return errno;
  homes_.at(index) = number_of(attribute(file.get(), "user.btd.home")).value_or(~0U);
  return 0;
}

// Without a mutex: what a thread of a handler waits for may be what it interrupted.
int HeapFiles::map_made(std::uint32_t index) {
  const std::uint64_t bit = std::uint64_t{1} << index;
  const std::int64_t until = now_ms() + kMappingWaitMs;
  while ((mapping_.fetch_or(bit) & bit) != 0) {
    if (now_ms() > until) return ETIMEDOUT;
    sched_yield();
  }
  int error = is_reached(index) ? 0 : map_coherent(index);
  // The number of arenas is seen at once, a name that another node made a moment later.
  const std::int64_t named = now_ms() + kNameWaitMs;
  while (error == ENOENT && now_ms() < named) {
    constexpr timespec kMillisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    nanosleep(&kMillisecond, nullptr);
    error = map_coherent(index);
  }
  if (error == 0) absent_.fetch_and(~bit);
  mapping_.fetch_and(~bit);
  return error;
}

Status HeapFiles::fetch(std::uint32_t index) {
  const int error = index < count() ? map_made(index) : ENOENT;
  if (error == 0) return {};
  if (error == ENOENT) {
    return fail(EUCLEAN, "Heap " + plan_.name + ": " + arena_name(index) +
                             " is not there; put the missing file back.");
  }
  if (error == EUCLEAN) {
    return fail(EUCLEAN, "Heap " + plan_.name + ": " + arena_name(index) +
                             " is larger than an arena may be; restore it.");
  }
  return cannot(error, plan_.name,
                arena_name(index) + " cannot be mapped; see that the node it lies on is there");
}

// Before anybody opens it: one that is in use stays where it is.
Status HeapFiles::give_to_emptiest(const std::string& name) {
  constexpr std::string_view kEmptiest = "emptiest";
  if (mknodat(dir_.get(), name.c_str(), S_IFREG | 0600, 0) != 0)
    return cannot(errno, plan_.name, name + " cannot be made");
  const std::string path = "/proc/self/fd/" + std::to_string(dir_.get()) + "/" + name;
  if (setxattr(path.c_str(), "user.btd.home", kEmptiest.data(), kEmptiest.size(), 0) != 0)
    return full(plan_.name);
  return {};
}

// What a crash left of one counts for nothing: its home may be another node.
Status HeapFiles::make_arena(std::uint32_t index, bool is_full) {
  const std::string name = arena_name(index);
  if (unlinkat(dir_.get(), name.c_str(), 0) != 0 && errno != ENOENT)
    return cannot(errno, plan_.name, name + ", left by a crash, cannot be removed");
  if (is_full) return give_to_emptiest(name);
  const UniqueFd file(
      openat(dir_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file && (errno == ENOSPC || errno == EDQUOT)) return full(plan_.name);
  if (!file) return cannot(errno, plan_.name, name + " cannot be made");
  fsync(dir_.get());  // EINVAL where a directory has nothing to sync
  return {};
}

Status HeapFiles::provide(std::uint32_t index, bool is_full) {
  if (!node_ || index == 0) return is_full ? Status(full(plan_.name)) : Status{};
  if (index >= count()) return extend();
  {
    const std::lock_guard lock(space_mutex_);
    files_.at(index).reset();
    BTD_TRY(make_arena(index, is_full));
  }
  absent_.fetch_or(std::uint64_t{1} << index);
  return reach(index);
}

bool HeapFiles::near(std::uint32_t index) {
  return !node_ || (reach(index) && homes_.at(index) == *node_);
}

Status HeapFiles::map_arenas() {
  BTD_ASSIGN(const UniqueFd first, open_arena(0));
  node_ = node_where(first.get(), "coherent");
  if (node_) return map_first();
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

Result<std::unique_ptr<HeapFiles>> HeapFiles::open_to_read(UniqueFd dir, Plan plan) {
  BTD_ASSIGN(const Identity identity, identify(dir.get(), plan.name));
  plan.window = identity.window;
  plan.arena_bytes = identity.arena_bytes;
  std::unique_ptr<HeapFiles> files(new HeapFiles(std::move(dir), nullptr, std::move(plan)));
  BTD_TRY(reserve_window(files->plan_.window));
  files->window_held_ = true;
  BTD_TRY(files->map_to_read());
  return files;
}

Status HeapFiles::map_to_read() {
  for (std::uint32_t i = 0; i < count(); ++i) {
    BTD_ASSIGN(const UniqueFd file, open_arena(i));
    if (node_where(file.get(), "coherent")) {
      return fail(EINVAL, "Heap " + plan_.name +
                              " is coherent: open it without config.reader, on any node.");
    }
    std::byte* const at = base_ + i * plan_.arena_bytes;
    if (mmap(at, plan_.arena_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file.get(), 0) ==
            MAP_FAILED ||
        madvise(at, plan_.arena_bytes, MADV_DONTFORK) != 0)
      return cannot(errno, plan_.name, arena_name(i) + " cannot be mapped");
  }
  return {};
}

// An open of a direct file drops what the kernel has of it, and asks its home for the size.
Status HeapFiles::acquire(std::uint64_t off, std::uint64_t len) {
  if (node_) return {};
  const std::uint64_t last = (off + std::max<std::uint64_t>(len, 1) - 1) / plan_.arena_bytes;
  for (std::uint64_t i = off / plan_.arena_bytes; i <= last && i < count(); ++i) {
    const auto index = static_cast<std::uint32_t>(i);
    BTD_ASSIGN(const UniqueFd file, open_arena(index));
    struct stat status{};
    if (fstat(file.get(), &status) != 0)
      return cannot(errno, plan_.name, arena_name(index) + " cannot be examined");
    const std::uint64_t end =
        i == last ? (off + len - 1) % plan_.arena_bytes + 1 : plan_.arena_bytes;
    if (len == 0 || static_cast<std::uint64_t>(status.st_size) >= end) continue;
    return fail(EINVAL, "Heap " + plan_.name + " has no memory there; nothing was allocated.");
  }
  return {};
}

Status HeapFiles::release(std::uint64_t off, std::uint64_t len) {
  if (node_ || domain_ == Domain::kCacheLine || len == 0) return {};
  const std::uint64_t from = off & ~std::uint64_t{kPageBytes - 1};
  if (msync(base_ + from, off + len - from, MS_SYNC) == 0) return {};
  return cannot(errno, plan_.name, "what was stored cannot be written");
}

Status HeapFiles::extend() {
  return fail(ENOSPC, "Heap " + plan_.name + " has all " + std::to_string(count()) +
                          " arenas it may have; free memory of it.");
}

std::uint64_t HeapFiles::used_bytes(std::uint32_t arena) {
  if (node_) return size_now(dir_.get(), arena);
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
  if (node_) return false;  // no holes in coherent files
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
