// Pool: the directory on one node where its NVRAM lives.
//
//   POOL/superblock   4 KiB: magic, version, uuid, capacity, checksum; also carries the lock
//   POOL/superblock.copy   the same, for check --repair
//   POOL/meta/        the arenas of the heap that holds the namespace
//   POOL/data/xx/     one backing file for each regular file, by id
//
// An emulated pool (RAM or disk) has a file system of exactly its capacity mounted at POOL, so
// that capacity is enforced by the one who sees every write.
// Thread-safety: every call of an open Pool may be made from any thread.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "fs/namespace/inode.h"
#include "fs/pool/file_system.h"

namespace btd {

enum class Emulation { kNone, kRam, kDisk };

struct FormatOptions {
  Emulation emulate = Emulation::kNone;
  std::uint64_t capacity = 0;  // bytes; 0: what the file system has (not with emulation)
  bool force = false;          // format over an existing pool
  std::uint32_t root_mode = 0755;
};

// What `status` says of a pool. Sentences are for people, and true of this mapping.
struct PoolFacts {
  std::string path;
  std::string uuid;
  std::uint32_t version = 0;
  std::uint64_t capacity = 0;  // bytes
  std::string file_system;     // "tmpfs", "ext4", …
  std::string nvram;           // "emulated in RAM", "DAX", "disk"
  std::string persist_method;  // "cache-line flush" or "msync"
  std::string survives;        // "process crash" or "process crash and power loss"
};

// What Pool::check_structures() found below the namespace: in the heap and in the map.
struct Structures {
  std::vector<std::string> damage;  // sentences
  std::uint64_t blocks = 0;         // that the map uses
  std::uint64_t bytes = 0;
  std::uint64_t leaked_blocks = 0;  // allocated and used by nothing
  std::uint64_t leaked_bytes = 0;
  bool reclaimed = false;  // the leaked ones were freed
};

// Exclusive use of a pool, as a lock on its superblock's open file description: a supervisor takes
// it and its workers inherit the descriptor, so it ends with the last of them, however they end.
class PoolLock {
 public:
  // EBUSY, with the sentence that says who has it, if another process does. ENOENT no directory;
  // ENOTDIR; EINVAL no pool. Mounts the image of a pool emulated on disk, if it is not mounted.
  static Result<PoolLock> acquire(const std::string& path);
  // The descriptor that a supervisor handed down.
  static PoolLock inherited(int fd) { return PoolLock(UniqueFd(fd)); }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit PoolLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// The backing files. A missing file stands for an empty one: open() makes it.
class BackingStore {
 public:
  explicit BackingStore(UniqueFd data_dir);
  Result<UniqueFd> create(InodeId id) const;           // empties what is there
  Result<UniqueFd> open(InodeId id, int flags) const;  // O_RDONLY, O_RDWR, O_DIRECT, …
  Result<struct stat> stat(InodeId id) const;          // zeros for a missing file
  [[nodiscard]] bool exists(InodeId id) const;
  Status remove(InodeId id) const;  // a missing file is no error
  Status set_times(InodeId id, const timespec times[2]) const;
  // Makes every change of this file durable, its existence too.
  Status sync(InodeId id, bool data_only) const;
  // Whether what is here is there after the machine stopped.
  [[nodiscard]] bool outlives_machine() const { return entry_sync_ != EntrySync::kVolatile; }
  // Makes it durable that these were removed.
  Status sync_removals(std::span<const InodeId> ids) const;
  [[nodiscard]] static std::string path(InodeId id);  // relative to POOL, as user.btd.backing says
  Result<struct statvfs> statfs() const;
  // Bytes of it that files can still get.
  Result<std::uint64_t> room() const;

 private:
  UniqueFd data_dir_;
  EntrySync entry_sync_ = EntrySync::kWithDirectory;
};

class Pool {
 public:
  // Makes the directory if it is missing. A crash leaves a whole pool or none. Errors say what to
  // do: EEXIST a pool is there (use --force), ENOTEMPTY foreign files, ENOTDIR, EINVAL capacity too
  // small or too large, EOPNOTSUPP the file system has no fallocate, EPERM emulation needs root,
  // EBUSY the pool is in use, EROFS, ENOSPC.
  static Status format(const std::string& path, const FormatOptions& options);

  // Opens for serving: replays the journal. EUCLEAN a damaged superblock, EPROTO another version,
  // EROFS a read-only file system, EBUSY.
  static Result<std::unique_ptr<Pool>> open(const std::string& path, PoolLock lock);

  // Opens a private view for checking: nothing on the pool changes.
  static Result<std::unique_ptr<Pool>> open_read_only(const std::string& path, PoolLock lock);

  // Unmounts what emulates the pool's NVRAM: a pool in RAM is gone then, the image of a pool on
  // disk stays. EINVAL nothing is emulated there, EBUSY it is in use.
  static Status detach(const std::string& path);

  virtual ~Pool() = default;
  virtual MetaStore& meta() = 0;
  virtual const BackingStore& backing() const = 0;
  virtual const PoolFacts& facts() const = 0;
  // Reads every structure of the heap and the map. Nothing may change the pool meanwhile.
  virtual Result<Structures> check_structures(bool reclaim) = 0;
  // Checkpoints and marks the pool clean. The destructor does not.
  virtual Status close() = 0;
};

}  // namespace btd
