// Pool::format. The order that makes it atomic, whenever it is cut short:
//
//   1. superblock.new is made and locked (over an old pool: its superblock is renamed to this name,
//      which ends that pool in one step). From here on this is an unfinished format: no pool, and
//      what lies in meta/ and data/ is ours to remove.
//   2. meta/ with the heap, data/ with its 256 directories, and the superblock's copy are made and
//      synced.
//   3. superblock.new is renamed to superblock, and the directory synced. Now it is a pool.
//
// Every check that can refuse is made before step 1.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "fs/pool/contents.h"
#include "fs/pool/emulate.h"
#include "fs/pool/metadata.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"
#include "fs/pool/superblock.h"

namespace btd {

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kLargestPool = std::uint64_t{1} << 60;

Result<UniqueFd> open_directory(int at, const std::string& path) {
  UniqueFd fd(::openat(at, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) return fd;
  if (errno == ENOTDIR) return fail(ENOTDIR, path + " is not a directory: a pool is one");
  return cannot("open the directory " + path, errno);
}

Status check_options(const std::string& path, const FormatOptions& options) {
  if (path.empty()) return fail(EINVAL, "name the directory of the pool");
  if (options.emulate == Emulation::kNone) {
    if (options.capacity == 0) return {};
    return fail(EINVAL,
                "a pool has the capacity of its file system, so --capacity goes with --emulate ram "
                "or --emulate disk only");
  }
  if (options.capacity < kMinPoolBytes)
    return fail(EINVAL, "a pool of " + std::to_string(options.capacity) +
                            " bytes is too small; give --capacity 16M or more");
  if (options.capacity > kLargestPool)
    return fail(EINVAL, "a pool of " + std::to_string(options.capacity) +
                            " bytes is too large; choose a smaller --capacity");
  return {};
}

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  if (errno == EROFS)
    return fail(EROFS, "cannot make a pool at " + path + ": its file system is read-only");
  return cannot("create the directory " + path, errno);
}

Status refuse(const std::string& path, const Contents& there, bool force) {
  if (!there.foreign.empty())
    return fail(ENOTEMPTY, path + " holds " + there.foreign +
                               ", which is not bartender's; nothing was touched. Choose an empty "
                               "directory, or move that away");
  if (there.pool && !force)
    return fail(EEXIST, path +
                            " is a pool already; with --force, format makes it anew, and all its "
                            "files are lost");
  return {};
}

// The directory must be able to hold a pool at all.
Status check_file_system(int dir, const std::string& path) {
  struct statvfs facts{};
  if (::fstatvfs(dir, &facts) != 0) return cannot("look at the file system of " + path, errno);
  if ((facts.f_flag & ST_RDONLY) != 0)
    return fail(EROFS, "cannot make a pool at " + path + ": its file system is read-only");
  return {};
}

// `fd` is a file on the pool's file system that may have 4 KiB.
Status check_fallocate(int fd, const std::string& path) {
  if (::fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, kPage) == 0) return {};
  if (errno == EOPNOTSUPP || errno == ENOSYS)
    return fail(EOPNOTSUPP, "the file system of " + path +
                                " cannot reserve space (no fallocate), so a full pool would kill "
                                "programs that have its files mapped; use ext4, xfs, btrfs or "
                                "tmpfs");
  if (errno == ENOSPC)
    return fail(ENOSPC, "the file system of " + path + " is full; make room first");
  return cannot("reserve space at " + path, errno);
}

Result<std::uint64_t> capacity_of(int dir, const std::string& path) {
  struct statvfs facts{};
  if (::fstatvfs(dir, &facts) != 0) return cannot("look at the file system of " + path, errno);
  return std::uint64_t{facts.f_blocks} * facts.f_frsize;
}

Status check_capacity(int dir, const std::string& path) {
  BTD_ASSIGN(const std::uint64_t capacity, capacity_of(dir, path));
  if (capacity >= kMinPoolBytes) return {};
  return fail(EINVAL, "the file system of " + path + " has " + std::to_string(capacity) +
                          " bytes, which is too small for a pool; it needs " +
                          std::to_string(kMinPoolBytes));
}

Status sync_fd(int fd, const std::string& what) {
  if (::fsync(fd) != 0) return cannot("sync " + what, errno);
  return {};
}

Status make_data_directories(int dir, const std::string& path) {
  if (::mkdirat(dir, "data", 0700) != 0) return cannot("create " + path + "/data", errno);
  BTD_ASSIGN(const UniqueFd data, open_directory(dir, "data"));
  char name[3];
  for (unsigned i = 0; i < 256; ++i) {
    std::snprintf(name, sizeof name, "%02x", i);
    if (::mkdirat(data.get(), name, 0700) != 0)
      return cannot("create " + path + "/data/" + name, errno);
  }
  // In a loop of its own: a journal commits all of them at the first sync.
  for (unsigned i = 0; i < 256; ++i) {
    std::snprintf(name, sizeof name, "%02x", i);
    BTD_ASSIGN(const UniqueFd fan, open_directory(data.get(), name));
    BTD_TRY(sync_fd(fan.get(), path + "/data/" + name));
  }
  return sync_fd(data.get(), path + "/data");
}

Status write_copy(int dir, const media::Superblock& superblock, const std::string& path) {
  const UniqueFd fd(::openat(dir, kSuperblockCopyName,
                             O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return cannot("create " + path + "/" + kSuperblockCopyName, errno);
  return write_superblock(fd.get(), superblock, path);
}

// Step 2.
Status fill(int dir, const std::string& path, const media::Superblock& superblock,
            const FormatOptions& options) {
  BTD_TRY(remove_contents(dir, path));
  BTD_TRY(make_data_directories(dir, path));
  if (::mkdirat(dir, "meta", 0700) != 0) return cannot("create " + path + "/meta", errno);
  BTD_TRY(Metadata::format(path + "/meta", superblock.arena_bytes, options.root_mode));
  BTD_ASSIGN(const UniqueFd meta, open_directory(dir, "meta"));
  BTD_TRY(sync_fd(meta.get(), path + "/meta"));
  BTD_TRY(write_copy(dir, superblock, path));
  return sync_fd(dir, path);
}

// Whether `fd` is still what the name says: another format may have ended meanwhile.
bool is_named(int dir, const char* name, int fd) {
  struct stat held{}, there{};
  return ::fstat(fd, &held) == 0 && ::fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         held.st_ino == there.st_ino && held.st_dev == there.st_dev;
}

std::unexpected<Error> busy_format(const std::string& path) {
  return fail(EBUSY, path + " is being formatted by another process; wait for it to end");
}

// One file as the lock and the mark of a format in progress; empty if there is none yet.
Result<UniqueFd> lock_existing(int dir, const std::string& path, const Contents& there) {
  if (there.pool) {
    BTD_ASSIGN(const PoolLock lock, PoolLock::acquire(path));
    return UniqueFd(::fcntl(lock.fd(), F_DUPFD_CLOEXEC, 0));
  }
  if (!there.unfinished) return UniqueFd();
  UniqueFd fd(::openat(dir, kNewSuperblockName, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return cannot("open " + path + "/" + kNewSuperblockName, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 || !is_named(dir, kNewSuperblockName, fd.get()))
    return busy_format(path);
  return fd;
}

Result<UniqueFd> create_mark(int dir, const std::string& path) {
  UniqueFd fd(
      ::openat(dir, kNewSuperblockName, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd && errno == EEXIST) return busy_format(path);
  if (!fd) return cannot("create a superblock in " + path, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return busy_format(path);
  return fd;
}

// Step 1. Returns superblock.new, locked. `held` is the lock of the pool (over_pool) or of the
// unfinished format that is there, empty if neither is.
Result<UniqueFd> begin(int dir, const std::string& path, bool over_pool, UniqueFd held) {
  const bool made = !held;
  if (made) {
    BTD_ASSIGN(held, create_mark(dir, path));
  }
  Status can = check_fallocate(held.get(), path);
  if (can) can = check_capacity(dir, path);
  if (can && !over_pool && ::faccessat(dir, kSuperblockName, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    can = busy_format(path);  // it ended since we looked
  if (!can) {
    if (made) ::unlinkat(dir, kNewSuperblockName, 0);
    return std::unexpected(can.error());
  }
  if (over_pool && ::renameat(dir, kSuperblockName, dir, kNewSuperblockName) != 0)
    return cannot("set aside the superblock of " + path, errno);
  BTD_TRY(sync_fd(dir, path));
  return held;
}

media::EmulationKind kind_on_media(Emulation emulation) {
  switch (emulation) {
    case Emulation::kRam:
      return media::EmulationKind::kRam;
    case Emulation::kDisk:
      return media::EmulationKind::kDisk;
    case Emulation::kNone:
      break;
  }
  return media::EmulationKind::kNone;
}

// Formats the directory as it is mounted now. `held` locks the pool or the unfinished format there.
Status format_here(const std::string& path, const FormatOptions& options, bool over_pool,
                   UniqueFd held) {
  BTD_ASSIGN(const UniqueFd dir, open_directory(AT_FDCWD, path));
  BTD_ASSIGN(const auto mounted, emulation::mount_at(path));
  BTD_ASSIGN(const std::uint64_t capacity, capacity_of(dir.get(), path));
  BTD_ASSIGN(const UniqueFd fresh, begin(dir.get(), path, over_pool, std::move(held)));
  Status made = [&]() -> Status {
    BTD_ASSIGN(const auto superblock, make_superblock(kind_on_media(mounted.kind), capacity));
    BTD_TRY(write_superblock(fresh.get(), superblock, path));
    BTD_TRY(fill(dir.get(), path, superblock, options));
    if (::renameat(dir.get(), kNewSuperblockName, dir.get(), kSuperblockName) != 0)
      return cannot("name the superblock of " + path, errno);
    return sync_fd(dir.get(), path);
  }();
  if (!made && remove_contents(dir.get(), path)) ::unlinkat(dir.get(), kNewSuperblockName, 0);
  return made;
}

// Gives POOL a new file system of the capacity. What is mounted there, if anything, is ours and
// holds nothing that is to be kept.
Status emulate_anew(const std::string& path, const FormatOptions& options) {
  const std::uint64_t capacity = (options.capacity + kPage - 1) / kPage * kPage;
  BTD_ASSIGN(const auto mounted, emulation::mount_at(path));
  if (mounted.kind != Emulation::kNone) {
    BTD_TRY(emulation::detach(path));
  } else if (mounted.any) {
    return fail(EBUSY, path +
                           " is where another file system is mounted; without --emulate it can be "
                           "formatted as it is, or choose another directory");
  }
  BTD_ASSIGN(const UniqueFd dir, open_directory(AT_FDCWD, path));
  BTD_ASSIGN(const Contents below, look_into(dir.get(), path));
  if (below.pool || below.unfinished || !below.foreign.empty())
    return fail(ENOTEMPTY, path +
                               " is not empty, and an emulated pool would hide what is in it; "
                               "choose an empty directory");
  if (mounted.kind == Emulation::kDisk && ::unlink(emulation::image_of(path).c_str()) != 0)
    return cannot("remove the old image " + emulation::image_of(path), errno);
  if (options.emulate == Emulation::kRam) return emulation::mount_ram(path, capacity);
  if (::access(emulation::image_of(path).c_str(), F_OK) == 0)
    return fail(EEXIST, emulation::image_of(path) +
                            " is there already and cannot be mounted as a pool; remove it first");
  return emulation::make_disk(path, capacity);
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

Status Pool::format(const std::string& named, const FormatOptions& options) {
  const std::string path = without_trailing_slashes(named);
  BTD_TRY(check_options(path, options));
  BTD_TRY(make_directory(path));
  BTD_TRY(emulation::attach(path));
  BTD_ASSIGN(UniqueFd dir, open_directory(AT_FDCWD, path));
  BTD_ASSIGN(Contents there, look_into(dir.get(), path));
  BTD_TRY(refuse(path, there, options.force));
  BTD_TRY(check_file_system(dir.get(), path));
  BTD_ASSIGN(UniqueFd held, lock_existing(dir.get(), path, there));
  if (options.emulate != Emulation::kNone) {
    // An open file would keep the old file system from being unmounted; from here on, that unmount
    // is what finds out about another user.
    held.reset();
    dir.reset();
    BTD_TRY(emulate_anew(path, options));
    there = {};
  }
  return format_here(path, options, there.pool, std::move(held));
}

Status Pool::detach(const std::string& path) {
  return emulation::detach(without_trailing_slashes(path));
}

}  // namespace btd
