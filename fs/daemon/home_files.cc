#include "fs/daemon/home_files.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <limits>
#include <thread>

#include "fs/daemon/space.h"
#include "fs/remote/caller.h"

namespace btd {

namespace {

// What the calls below take; larger ones no file has.
bool is_offset(std::uint64_t value) {
  return value <= static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
}

constexpr std::uint32_t kPrivilegeBits = S_ISUID | S_ISGID;

}  // namespace

// A peer may hear of a file before this node does, which made it: etcd's answer was lost. One asks
// etcd at a time, for the others are to be served while it is away.
Status DaemonHomeFiles::find_out(InodeId id) {
  const std::unique_lock lock(asking_mutex_, std::try_to_lock);
  if (!lock) return fail(EAGAIN, "its home asks etcd for another file just now");
  BTD_ASSIGN(const bool is_gone, names_.is_gone(id));
  if (is_gone) return fail(ENOENT);
  if (!names_.get(id)) return fail(EAGAIN, "its home has not heard of the file yet");
  return {};
}

Result<UniqueFd> DaemonHomeFiles::open(InodeId id) {
  auto found = names_.get(id);
  if (!found && found.error().code == ENOENT) {
    BTD_TRY(find_out(id));
    found = names_.get(id);
  }
  BTD_ASSIGN(const Inode inode, std::move(found));
  if (!inode.is_file()) return fail(EINVAL, "only regular files have data");
  return files_.descriptor_for_peers(id);
}

Status DaemonHomeFiles::hold(InodeId id) {
  Status held = files_.hold(id);
  if (held || held.error().code != ESTALE) return held;
  const Status known = find_out(id);
  if (known) return files_.hold(id);
  return known.error().code == ENOENT ? held : known;
}

Status DaemonHomeFiles::prepare(InodeId id, int fd) {
  BTD_ASSIGN(const Inode inode, names_.get(id));
  if ((inode.flags & (kInodeSparse | kInodePunched)) != 0) return {};
  return space::fill_holes(fd);
}

Status DaemonHomeFiles::resize(InodeId id, int fd, std::uint64_t size) {
  if (!is_offset(size)) return fail(EFBIG);
  BTD_ASSIGN(const Inode inode, names_.get(id));
  return space::resize(fd, static_cast<off_t>(size), (inode.flags & kInodeSparse) != 0);
}

Status DaemonHomeFiles::allocate(InodeId id, int fd, int mode, std::uint64_t offset,
                                 std::uint64_t length) {
  if (!is_offset(offset) || !is_offset(length) || !is_offset(offset + length)) return fail(EFBIG);
  BTD_ASSIGN(const Inode inode, names_.get(id));
  BTD_TRY(space::allocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
  if ((mode & FALLOC_FL_PUNCH_HOLE) == 0 || (inode.flags & kInodePunched) != 0) return {};
  BTD_TRY(names_.change(id, {.set_flags = kInodePunched}, {}));
  return {};
}

// The node whose program writes drops them too, before it writes: this is for one that did not.
Status DaemonHomeFiles::wrote(InodeId id) {
  BTD_ASSIGN(const Inode inode, names_.get(id));
  if ((inode.mode & kPrivilegeBits) == 0) return {};
  BTD_TRY(names_.change(id, {.clear_suid = true}, {}));
  return {};
}

namespace {

// Calls of peers that only look have the file open for a moment.
Status while_in_use(const std::function<Status()>& ask) {
  constexpr int kAttempts = 10;
  constexpr std::chrono::milliseconds kPause{5};
  for (int i = 1; i < kAttempts; ++i) {
    const Status done = ask();
    if (done || done.error().code != ETXTBSY) return done;
    std::this_thread::sleep_for(kPause);
  }
  return ask();
}

}  // namespace

Status DaemonHomeFiles::reserve_for(InodeId id, std::uint64_t number, std::size_t holds) {
  if (std::chrono::steady_clock::now() < moving_.not_before)
    return fail(EAGAIN, "its home has just started and does not know yet who has it open");
  return while_in_use([&] { return files_.reserve(id, number, holds); });
}

// As long as it is not known whether the file was moved, nobody may use it here.
Result<bool> DaemonHomeFiles::settle(InodeId id, NodeId to) {
  constexpr std::chrono::milliseconds kPause{200};
  for (;;) {
    auto settled = cluster::settle_copy(*moving_.store, id, to);
    if (settled || stopping_.load()) return settled;
    spdlog::warn("whether file {} was moved to node {} is not known yet: {}", id, to,
                 settled.error().message);
    std::this_thread::sleep_for(kPause);
  }
}

Status DaemonHomeFiles::leave(const cluster::Attempt& attempt, Commit* commit,
                              const std::function<Result<bool>()>& is_gone) {
  BTD_TRY(while_in_use([&] { return files_.begin_leaving(attempt.id, attempt.number); }));
  Status done = commit(*moving_.store, attempt);
  if (!done && done.error().code == EIO) {
    BTD_ASSIGN(const bool is_moved, is_gone());  // else another worker finds out
    if (is_moved) done = {};
  }
  files_.end_leaving(attempt.id);
  if (done) moving_.left(attempt.id);
  return done;
}

Status DaemonHomeFiles::yield(InodeId id, std::uint64_t number, NodeId to) {
  const std::unique_lock lock(yield_mutex_, std::try_to_lock);
  if (!lock) return fail(EBUSY, "its home commits another move just now");
  return leave({.id = id, .from = moving_.own, .to = to, .number = number}, cluster::commit_move,
               [&] { return settle(id, to); });
}

Status DaemonHomeFiles::give(InodeId id, NodeId to) {
  const std::unique_lock lock(yield_mutex_, std::try_to_lock);
  if (!lock) return fail(EBUSY, "its home commits another move just now");
  const std::uint64_t number = remote::random_number();
  BTD_TRY(reserve_for(id, number, 0));
  BTD_ASSIGN(const struct stat facts, backing_.stat(id));
  if (facts.st_size != 0 || facts.st_blocks != 0)
    return fail(EBUSY, "the file has bytes; move it by btd cluster move");
  // The other node is to get no row of a gift that was not made.
  return leave({.id = id, .from = moving_.own, .to = to, .number = number}, cluster::commit_gift,
               [&]() -> Result<bool> {
                 BTD_ASSIGN(const bool is_here, settle(id, moving_.own));
                 return !is_here;
               });
}

}  // namespace btd
