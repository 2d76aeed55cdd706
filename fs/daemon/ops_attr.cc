// Handlers of attributes and of the file system as a whole.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/ops_coherent.h"
#include "fs/daemon/ops_remote.h"
#include "fs/daemon/server.h"
#include "fs/daemon/space.h"

namespace btd {

namespace {

void reply_attributes(fuse_req_t req, const Inode& inode) {
  auto st = attributes(server(req), inode);
  if (!st) return reply_error(req, st.error().code);
  fuse_reply_attr(req, &*st, attr_timeout(inode));
}

void getattr(fuse_req_t req, fuse_ino_t id, fuse_file_info*) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kGetattr, id, "");
  if (is_virtual(id)) {
    const auto st = s.virtual_tree->attributes(id);
    if (!st) return reply_error(req, ENOENT);
    fuse_reply_attr(req, &*st, 0);
    return;
  }
  auto inode = s.names.get(id);
  if (!inode) return reply_error(req, inode.error().code);
  reply_attributes(req, *inode);
}

struct statx_timestamp statx_time(const timespec& t) {
  return {t.tv_sec, static_cast<__u32>(t.tv_nsec), {}};
}

struct statx to_statx(const struct stat& st) {
  struct statx out{};
  out.stx_mask = STATX_BASIC_STATS;
  out.stx_blksize = static_cast<__u32>(st.st_blksize);
  out.stx_nlink = static_cast<__u32>(st.st_nlink);
  out.stx_uid = st.st_uid;
  out.stx_gid = st.st_gid;
  out.stx_mode = static_cast<__u16>(st.st_mode);
  out.stx_ino = st.st_ino;
  out.stx_size = static_cast<__u64>(st.st_size);
  out.stx_blocks = static_cast<__u64>(st.st_blocks);
  out.stx_atime = statx_time(st.st_atim);
  out.stx_mtime = statx_time(st.st_mtim);
  out.stx_ctime = statx_time(st.st_ctim);
  out.stx_rdev_major = major(st.st_rdev);
  out.stx_rdev_minor = minor(st.st_rdev);
  return out;
}

// The kernel asks so only where somebody wants the time of birth.
void statx_of(fuse_req_t req, fuse_ino_t id, int, int, fuse_file_info*) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kStatx, id, "");
  if (is_virtual(id)) {
    const auto st = s.virtual_tree->attributes(id);
    if (!st) return reply_error(req, ENOENT);
    struct statx out = to_statx(*st);
    fuse_reply_statx(req, 0, &out, 0);
    return;
  }
  const auto inode = s.names.get(id);
  if (!inode) return reply_error(req, inode.error().code);
  const auto st = attributes(s, *inode);
  if (!st) return reply_error(req, st.error().code);
  struct statx out = to_statx(*st);
  out.stx_btime = statx_time(inode->btime.to_timespec());
  out.stx_mask |= STATX_BTIME;
  fuse_reply_statx(req, 0, &out, attr_timeout(*inode));
}

timespec chosen_time(int to_set, unsigned set, unsigned now, const timespec& given) {
  if ((static_cast<unsigned>(to_set) & now) != 0) return {0, UTIME_NOW};
  if ((static_cast<unsigned>(to_set) & set) != 0) return given;
  return {0, UTIME_OMIT};
}

// The part of a change that the row of the inode takes; a file's times are its backing file's.
AttrChange row_change(const Inode& inode, const struct stat& attr, int to_set,
                      const timespec* times) {
  AttrChange change;
  const auto set = static_cast<unsigned>(to_set);
  if ((set & FUSE_SET_ATTR_MODE) != 0) change.mode = attr.st_mode & 07777U;
  if ((set & FUSE_SET_ATTR_UID) != 0) change.uid = attr.st_uid;
  if ((set & FUSE_SET_ATTR_GID) != 0) change.gid = attr.st_gid;
  change.clear_suid =
      (set & FUSE_SET_ATTR_KILL_SUID) != 0 && (inode.mode & (S_ISUID | S_ISGID)) != 0;
  if (inode.is_file()) return change;
  const auto row_time = [](const timespec& t) -> std::optional<Timestamp> {
    if (t.tv_nsec == UTIME_OMIT) return std::nullopt;
    return t.tv_nsec == UTIME_NOW ? Timestamp::now() : Timestamp::from(t);
  };
  change.atime = row_time(times[0]);
  change.mtime = row_time(times[1]);
  return change;
}

bool changes_row(const AttrChange& change) {
  return change.mode || change.uid || change.gid || change.atime || change.mtime ||
         change.clear_suid;
}

// The inode as it is after all writes so far, those past the daemon too.
Result<Inode> noticed(const Server& s, const Inode& inode) {
  if ((inode.mode & kPrivilegeBits) == 0 || !s.is_home(inode.id)) return inode;
  BTD_ASSIGN(const struct stat backing, s.backing().stat(inode.id));
  return with_noticed_writes(s, inode, backing);
}

Status change_file(Server& s, const Inode& inode, const struct stat& attr, int to_set,
                   const timespec* times) {
  if (!s.is_home(inode.id)) return away::change(s, inode.id, attr, to_set, times);
  SharedFd fd;  // as long as it is open the file is not moved
  if (s.cluster != nullptr || (to_set & FUSE_SET_ATTR_SIZE) != 0) {
    BTD_ASSIGN(fd, s.files.descriptor(inode.id));
  }
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) {
    BTD_ASSIGN(const auto unmapped, unmapped_for_peers(s, inode.id));
    BTD_TRY(space::resize(fd->get(), attr.st_size, (inode.flags & kInodeSparse) != 0));
  }
  if (times[0].tv_nsec == UTIME_OMIT && times[1].tv_nsec == UTIME_OMIT) return {};
  BTD_TRY(s.backing().set_times(inode.id, times));
  return (inode.mode & kPrivilegeBits) != 0 ? s.files.watch_writes(inode.id) : Status{};
}

// It may be moved to another node, or come here, just when it is changed.
Status change_file_where_it_is(Server& s, const Inode& inode, const struct stat& attr, int to_set,
                               const timespec* times) {
  constexpr int kAttempts = 4;
  Status done;
  for (int i = 0; i < kAttempts; ++i) {
    done = change_file(s, inode, attr, to_set, times);
    if (done || done.error().code != ESTALE || s.cluster == nullptr) break;
  }
  return done;
}

// The inode afterwards. Every step is idempotent, and the row changes last: a request sent again
// does all of it again unless the row shows that nothing is left to do.
Result<Inode> change_all(Server& s, Inode inode, const struct stat& attr, int to_set,
                         const RequestTag& tag) {
  const timespec times[2] = {
      chosen_time(to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW, attr.st_atim),
      chosen_time(to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW, attr.st_mtim)};
  if (inode.is_file()) {
    BTD_ASSIGN(inode, noticed(s, inode));
    BTD_TRY(change_file_where_it_is(s, inode, attr, to_set, times));
  } else if ((to_set & FUSE_SET_ATTR_SIZE) != 0) {
    return fail(inode.is_dir() ? EISDIR : EINVAL);
  }
  const AttrChange change = row_change(inode, attr, to_set, times);
  if (inode.is_file() && (change.mode.value_or(0) & kPrivilegeBits) != 0)
    BTD_TRY(s.files.watch_writes(inode.id));
  if (changes_row(change)) return s.names.change(inode.id, change, tag);
  return inode;
}

// The size first, as all nodes see it; then the rest, on another thread and so without a tag.
void set_coherent(fuse_req_t req, const Inode& inode, const struct stat& attr, int to_set) {
  coherent_ops::resize(
      req, inode.id, static_cast<std::uint64_t>(attr.st_size),
      [id = inode.id, attr, rest = to_set & ~FUSE_SET_ATTR_SIZE](fuse_req_t parked) {
        Server& s = server(parked);
        auto now = s.names.get(id);
        if (now) now = change_all(s, *now, attr, rest, {});
        if (!now) return reply_error(parked, now.error().code);
        reply_attributes(parked, *now);
      });
}

void setattr(fuse_req_t req, fuse_ino_t id, struct stat* attr, int to_set, fuse_file_info*) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kSetattr, id, "");
  if (is_virtual(id)) return reply_error(req, EPERM);
  auto inode = s.names.get(id);
  if (!inode) return reply_error(req, inode.error().code);
  if (earlier(s)) return reply_attributes(req, *inode);
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && coherent_ops::is_coherent(s, *inode))
    return set_coherent(req, *inode, *attr, to_set);
  inode = change_all(s, *inode, *attr, to_set, current_request().tag);
  if (!inode) return reply_error(req, inode.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_attributes(req, *inode);
}

void statfs(fuse_req_t req, fuse_ino_t id) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kStatfs, id, "");
  auto st = s.backing().statfs();
  if (!st) return reply_error(req, st.error().code);
  st->f_namemax = Namespace::kNameMax;
  fuse_reply_statfs(req, &*st);
}

}  // namespace

void install_attr_ops(fuse_lowlevel_ops& ops) {
  ops.getattr = getattr;
  ops.statx = statx_of;
  ops.setattr = setattr;
  ops.statfs = statfs;
}

}  // namespace btd
