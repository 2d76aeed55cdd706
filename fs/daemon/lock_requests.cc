#include "fs/daemon/lock_requests.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>

#include "fs/daemon/coherent_kernel.h"

namespace btd {

namespace {

constexpr std::size_t kInterrupted = 64;

int code_of(const Result<remote::wire::LockFound>& result) {
  if (result) return 0;
  // A program takes EAGAIN for a lock of another.
  const int code = result.error().code;
  if (code != EAGAIN && code != EINTR && code != EDEADLK)
    spdlog::warn("a lock is refused: {}", result.error().message);
  return code == EBUSY || code == ECONNRESET || code == ECANCELED ? EIO : code;
}

void answer_test(fuse_req_t req, const remote::wire::LockFound& found, NodeId own) {
  struct flock lock{};
  lock.l_type = F_UNLCK;
  if (found.is_found != 0) {
    lock.l_type = (found.flags & remote::wire::kLockExclusive) != 0 ? F_WRLCK : F_RDLCK;
    lock.l_start = static_cast<off_t>(found.start);
    const bool is_open = found.end >= remote::kLastByte;
    lock.l_len = is_open ? 0 : static_cast<off_t>(found.end - found.start + 1);
    // A number of another node's process would be taken for one of this node's.
    lock.l_pid = found.node == own ? static_cast<pid_t>(found.pid) : 0;
  }
  fuse_reply_lock(req, &lock);
}

}  // namespace

LockRequests::LockRequests(remote::LockCalls& calls, remote::RemoteFiles& files,
                           KernelCache& kernel, fuse_session* session, NotifierClient& notifier,
                           NodeId own, bool is_passthrough, HomeOf home_of)
    : calls_(calls),
      files_(files),
      kernel_(kernel),
      session_(session),
      notifier_(notifier),
      own_(own),
      home_of_(std::move(home_of)),
      is_passthrough_(is_passthrough) {}

bool LockRequests::must_drop(InodeId id, std::uint64_t handle) const {
  if ((handle & kHandleCoherent) != 0) return false;
  return home_of_(id) != own_ || !is_passthrough_;
}

void LockRequests::drop(InodeId id, std::function<void()> then) {
  notifier_.post({.kind = KernelWord::Kind::kDropPages, .inode = id}, [id, then = std::move(then)](
                                                                          int error, std::size_t) {
    if (error != 0 && error != ENOENT)
      spdlog::warn("the kernel keeps pages of file {}: {}", id, strerrordesc_np(error));
    then();
  });
}

// A revision that can't be never comes.
void LockRequests::when_told(std::uint64_t names, std::function<void(bool is_told)> then) {
  const auto revision = static_cast<std::int64_t>(std::min(names, remote::kLastRevision));
  kernel_.when_told(revision, [this, names, then = std::move(then)](bool is_told) {
    if (is_told) calls_.learn(names);
    then(is_told);
  });
}

// Of a file whose reads go to the backing file only the size is to be asked for anew: that is a
// mark, for which the kernel waits for nobody.
void LockRequests::granted(fuse_req_t req, const remote::wire::LockRequest& request,
                           std::uint64_t handle, std::uint64_t names) {
  const auto answer = [this, req, id = request.id, handle] {
    files_.locked(id);
    if (must_drop(id, handle)) return drop(id, [req] { fuse_reply_err(req, 0); });
    fuse_lowlevel_notify_inval_inode(session_, id, -1, 0);
    fuse_reply_err(req, 0);
  };
  when_told(names, [this, req, request, answer](bool is_told) {
    if (is_told) return answer();
    spdlog::warn(
        "a lock is refused: the names that were changed before it do not arrive here from "
        "etcd; look at the status of the cluster");
    calls_.lose(request.id, request.owner);
    fuse_reply_err(req, EIO);
  });
}

void LockRequests::lock(fuse_req_t req, remote::wire::LockRequest request, std::uint64_t handle,
                        bool may_wait) {
  const std::uint64_t unique = current_request().tag.unique;
  const InodeId id = request.id;
  if (may_wait) {
    request.wait = unique;
    std::unique_lock lock(mutex_);
    if (std::erase(interrupted_, unique) != 0) {
      lock.unlock();
      fuse_reply_err(req, EINTR);
      return;
    }
    waiting_.emplace(unique, id);
  }
  calls_.lock(request, handle, [this, req, request, handle, unique, may_wait](const auto& result) {
    if (may_wait) {
      const std::scoped_lock lock(mutex_);
      waiting_.erase(unique);
    }
    if (result) return granted(req, request, handle, result->names);
    fuse_reply_err(req, code_of(result));
  });
}

void LockRequests::interrupt(std::uint64_t unique) {
  InodeId id = 0;
  {
    const std::scoped_lock lock(mutex_);
    const auto found = waiting_.find(unique);
    if (found == waiting_.end()) {
      interrupted_.push_back(unique);
      if (interrupted_.size() > kInterrupted) interrupted_.pop_front();
      return;
    }
    id = found->second;
  }
  calls_.cancel(id, unique);
}

// What a mapping changed is at home before another may have the lock.
void LockRequests::unlock(fuse_req_t req, const remote::wire::LockRequest& request,
                          std::uint64_t handle) {
  const auto answer = [req](const auto& result) { fuse_reply_err(req, code_of(result)); };
  if (!must_drop(request.id, handle)) return calls_.unlock(request, answer);
  drop(request.id, [this, request, answer] { calls_.unlock(request, answer); });
}

void LockRequests::test(fuse_req_t req, const remote::wire::LockRequest& request) {
  calls_.test(request, [this, req](const Result<remote::wire::LockFound>& found) {
    if (!found) {
      fuse_reply_err(req, code_of(found));
      return;
    }
    when_told(found->names, [req, found = *found, own = own_](bool is_told) {
      if (is_told) return answer_test(req, found, own);
      fuse_reply_err(req, EIO);
    });
  });
}

bool LockRequests::closed(fuse_req_t req, InodeId id, std::uint64_t owner, int code) {
  return calls_.closed(id, owner, [req, code](const auto& result) {
    fuse_reply_err(req, result ? code : code_of(result));
  });
}

}  // namespace btd
