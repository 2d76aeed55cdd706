// Handlers of locks (fcntl, flock), in a cluster only: without them, the kernel keeps locks itself.
// They return at once: lock_requests.h answers.
#include <fcntl.h>
#include <sys/file.h>

#include "fs/daemon/lock_requests.h"
#include "fs/daemon/server.h"

namespace btd {

namespace {

using remote::wire::LockRequest;

LockRequest request_of(InodeId id, const fuse_file_info& fi, const struct flock& lock) {
  const auto start = static_cast<std::uint64_t>(lock.l_start);
  const auto length = static_cast<std::uint64_t>(lock.l_len);
  return {.id = id,
          .owner = fi.lock_owner,
          .start = start,
          .end = length == 0 ? remote::kLastByte : start + length - 1,
          .pid = static_cast<std::uint32_t>(lock.l_pid),
          .flags = lock.l_type == F_WRLCK ? remote::wire::kLockExclusive : 0U};
}

void getlk(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi, struct flock* lock) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kGetlk, id, "");
  if (is_virtual(id)) return reply_error(req, EOPNOTSUPP);
  s.locks->test(req, request_of(id, *fi, *lock));
}

void setlk(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi, struct flock* lock, int sleep) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), sleep != 0 ? proto::kSetlkw : proto::kSetlk,
                           id, "");
  if (is_virtual(id)) return reply_error(req, EOPNOTSUPP);
  const LockRequest request = request_of(id, *fi, *lock);
  if (lock->l_type == F_UNLCK) return s.locks->unlock(req, request, fi->fh);
  s.locks->lock(req, request, fi->fh, sleep != 0);
}

void flock(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi, int operation) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kSetlk, id, "");
  if (is_virtual(id)) return reply_error(req, EOPNOTSUPP);
  LockRequest request{.id = id,
                      .owner = fi->lock_owner,
                      .end = remote::kLastByte,
                      .flags = remote::wire::kLockFile};
  if ((operation & LOCK_UN) != 0) return s.locks->unlock(req, request, fi->fh);
  if ((operation & LOCK_EX) != 0) request.flags |= remote::wire::kLockExclusive;
  s.locks->lock(req, request, fi->fh, (operation & LOCK_NB) == 0);
}

}  // namespace

void install_lock_ops(fuse_lowlevel_ops& ops) {
  ops.getlk = getlk;
  ops.setlk = setlk;
  ops.flock = flock;
}

}  // namespace btd
