// Pool::open: judge the superblock, then the file system under it, then open the heap.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>

#include "fs/pool/contents.h"
#include "fs/pool/metadata.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"
#include "fs/pool/superblock.h"

namespace btd {

namespace {

class OpenPool final : public Pool {
 public:
  OpenPool(PoolLock lock, PoolFacts facts, UniqueFd data, std::unique_ptr<Metadata> metadata)
      : lock_(std::move(lock)),
        facts_(std::move(facts)),
        backing_(std::move(data)),
        metadata_(std::move(metadata)) {}

  MetaStore& meta() override { return metadata_->store(); }
  const BackingStore& backing() const override { return backing_; }
  const PoolFacts& facts() const override { return facts_; }
  Result<Structures> check_structures(bool reclaim) override {
    return metadata_->check_structures(reclaim);
  }
  Status close() override { return metadata_->close(); }

 private:
  PoolLock lock_;  // the first to be made, the last to go
  PoolFacts facts_;
  BackingStore backing_;
  std::unique_ptr<Metadata> metadata_;
};

// A descriptor that was handed down must be of the pool that is to be opened.
Status check_lock(const PoolLock& lock, const std::string& path) {
  struct stat locked{}, there{};
  if (::stat((path + "/" + kSuperblockName).c_str(), &there) != 0)
    return cannot("look at the superblock of " + path, errno);
  if (::fstat(lock.fd(), &locked) == 0 && locked.st_ino == there.st_ino &&
      locked.st_dev == there.st_dev)
    return {};
  return fail(EINVAL, "the lock is not of the pool " + path + "; acquire it for this path");
}

Status check_file_system(const std::string& path, const media::Superblock& superblock,
                         const struct statvfs& facts, std::uint64_t type) {
  const std::uint64_t total = facts.f_blocks * facts.f_frsize;
  if (total >= superblock.capacity || total_varies(type)) return {};
  return fail(EUCLEAN,
              "the pool " + path + " was formatted with " + std::to_string(superblock.capacity) +
                  " bytes and its file system has " + std::to_string(total) +
                  " now: it was cut off; give it back its size, then run btd check " + path);
}

Result<std::unique_ptr<Pool>> open_as(const std::string& path, PoolLock lock, bool read_only) {
  BTD_TRY(check_lock(lock, path));
  BTD_ASSIGN(const media::Superblock superblock, read_superblock(lock.fd(), path));
  UniqueFd data(::open((path + "/data").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!data)
    return fail(EUCLEAN, "the pool " + path + " has no directory data: " + errno_text(errno) +
                             "; run btd check --repair " + path);
  struct statvfs facts{};
  struct statfs raw{};
  if (::fstatvfs(data.get(), &facts) != 0 || ::fstatfs(data.get(), &raw) != 0)
    return cannot("look at the file system of " + path, errno);
  const auto type = static_cast<std::uint64_t>(raw.f_type);
  if (!read_only && (facts.f_flag & ST_RDONLY) != 0)
    return fail(EROFS, "the file system of the pool " + path +
                           " is read-only; remount it for writing (mount -o remount,rw)");
  BTD_TRY(check_file_system(path, superblock, facts, type));
  BTD_ASSIGN(auto metadata, Metadata::open(path + "/meta", superblock.arena_bytes, read_only));

  const Metadata::Persistence& persistence = metadata->persistence();
  PoolFacts told{.path = path,
                 .uuid = uuid_text(superblock),
                 .version = superblock.version,
                 .capacity = facts.f_blocks * facts.f_frsize,
                 .file_system = file_system_name(type),
                 .nvram = persistence.nvram,
                 .persist_method = persistence.method,
                 .survives = persistence.survives};
  return std::make_unique<OpenPool>(std::move(lock), std::move(told), std::move(data),
                                    std::move(metadata));
}

}  // namespace

Result<std::unique_ptr<Pool>> Pool::open(const std::string& path, PoolLock lock) {
  return open_as(path, std::move(lock), false);
}

Result<std::unique_ptr<Pool>> Pool::open_read_only(const std::string& path, PoolLock lock) {
  return open_as(path, std::move(lock), true);
}

}  // namespace btd
