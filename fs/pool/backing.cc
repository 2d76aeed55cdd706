// BackingStore: files by id under data/, found by *at() calls relative to one descriptor.
// The name is built on the stack: no call here allocates memory, but in its errors.
#include <fcntl.h>
#include <sys/vfs.h>

#include <array>
#include <cerrno>
#include <utility>

#include "fs/pool/file_system.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"

namespace btd {

namespace {

constexpr char kHex[] = "0123456789abcdef";

// "xx/0123456789abcdef": ids are handed out in order, so their low byte spreads neighbours, and
// with them the directories' locks, over all 256 directories.
class Name {
 public:
  explicit Name(InodeId id) {
    text_[0] = kHex[(id >> 4) & 15];
    text_[1] = kHex[id & 15];
    text_[2] = '/';
    for (int i = 0; i < 16; ++i) text_[3 + i] = kHex[(id >> (60 - 4 * i)) & 15];
  }
  [[nodiscard]] const char* c_str() const { return text_; }
  [[nodiscard]] std::array<char, 3> directory() const { return {text_[0], text_[1], '\0'}; }

 private:
  char text_[20] = {};
};

int open_at(int dir, const Name& name, int flags) {
  // Most files are there already, and looking is cheaper without O_CREAT's lock on the directory.
  const int fd = ::openat(dir, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW);
  if (fd >= 0 || errno != ENOENT) return fd;
  return ::openat(dir, name.c_str(), flags | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

std::unexpected<Error> failed(const char* doing, InodeId id) {
  const int code = errno;
  return cannot(std::string(doing) + " the backing file " + BackingStore::path(id), code);
}

}  // namespace

BackingStore::BackingStore(UniqueFd data_dir) : data_dir_(std::move(data_dir)) {
  struct statfs facts{};
  if (::fstatfs(data_dir_.get(), &facts) == 0)
    entry_sync_ = needs_entry_sync(static_cast<std::uint64_t>(facts.f_type));
}

std::string BackingStore::path(InodeId id) { return std::string("data/") + Name(id).c_str(); }

Result<UniqueFd> BackingStore::create(InodeId id) const {
  UniqueFd fd(::openat(data_dir_.get(), Name(id).c_str(),
                       O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return failed("create", id);
  return fd;
}

Result<UniqueFd> BackingStore::open(InodeId id, int flags) const {
  UniqueFd fd(open_at(data_dir_.get(), Name(id), flags & ~(O_CREAT | O_EXCL)));
  if (!fd) return failed("open", id);
  return fd;
}

Result<struct stat> BackingStore::stat(InodeId id) const {
  struct stat facts{};
  if (::fstatat(data_dir_.get(), Name(id).c_str(), &facts, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno != ENOENT) return failed("look at", id);
    facts = {};
  }
  return facts;
}

bool BackingStore::exists(InodeId id) const {
  return ::faccessat(data_dir_.get(), Name(id).c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Status BackingStore::remove(InodeId id) const {
  if (::unlinkat(data_dir_.get(), Name(id).c_str(), 0) != 0 && errno != ENOENT)
    return failed("remove", id);
  return {};
}

Status BackingStore::set_times(InodeId id, const timespec times[2]) const {
  const Name name(id);
  if (::utimensat(data_dir_.get(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) == 0) return {};
  if (errno != ENOENT) return failed("set the times of", id);
  BTD_ASSIGN(const UniqueFd fd, open(id, O_RDWR));
  if (::futimens(fd.get(), times) != 0) return failed("set the times of", id);
  return {};
}

Status BackingStore::sync(InodeId id, bool data_only) const {
  if (entry_sync_ == EntrySync::kVolatile) return {};
  const Name name(id);
  const UniqueFd fd(::openat(data_dir_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  // A missing file is an empty one, and that is durable already.
  if (!fd && errno == ENOENT) return {};
  if (!fd || (data_only ? ::fdatasync(fd.get()) : ::fsync(fd.get())) != 0)
    return failed("sync", id);
  if (entry_sync_ == EntrySync::kWithFile) return {};
  const UniqueFd dir(
      ::openat(data_dir_.get(), name.directory().data(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir || ::fsync(dir.get()) != 0) return failed("sync the directory of", id);
  return {};
}

Status BackingStore::sync_removals(std::span<const InodeId> ids) const {
  if (!outlives_machine()) return {};
  std::array<bool, 256> synced{};
  for (const InodeId id : ids) {
    if (std::exchange(synced[id & 255], true)) continue;
    const UniqueFd dir(
        ::openat(data_dir_.get(), Name(id).directory().data(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!dir || ::fsync(dir.get()) != 0) return failed("sync the directory of", id);
  }
  return {};
}

Result<struct statvfs> BackingStore::statfs() const {
  struct statvfs facts{};
  if (::fstatvfs(data_dir_.get(), &facts) != 0)
    return cannot("ask for the pool's free space", errno);
  return facts;
}

Result<std::uint64_t> BackingStore::room() const {
  BTD_ASSIGN(const struct statvfs facts, statfs());
  return facts.f_bavail * facts.f_frsize;
}

}  // namespace btd
