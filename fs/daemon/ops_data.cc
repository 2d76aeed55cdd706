// Handlers of open files. With passthrough, reads, writes and mappings never come here; what does
// come acts on the backing file itself, so both views are one.
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/lock_requests.h"
#include "fs/daemon/ops_coherent.h"
#include "fs/daemon/ops_remote.h"
#include "fs/daemon/server.h"
#include "fs/daemon/space.h"
#include "fs/remote/remote_files.h"

namespace btd {

namespace {

constexpr std::size_t kLargestRead = 1 << 20;

void open_virtual(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  if ((fi->flags & O_ACCMODE) != O_RDONLY) return reply_error(req, EACCES);
  fi->fh = server(req).virtual_tree->open(id);
  fi->direct_io = 1;
  fuse_reply_open(req, fi);
}

void open(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kOpen, id, "");
  if (is_virtual(id)) return open_virtual(req, id, fi);
  auto inode = s.names.get(id);
  // ESTALE makes the kernel look the name up again, which a file removed meanwhile needs.
  if (!inode) return reply_error(req, inode.error().code == ENOENT ? ESTALE : inode.error().code);
  if (coherent_ops::is_coherent(s, *inode)) return coherent_ops::open(req, *inode, *fi);
  const bool at_home = s.is_home(id);
  if (auto prepared = prepare_open(s, *inode, *fi, at_home); !prepared)
    return reply_error(req, prepared.error().code);
  auto backing_id = s.files.open(current_request().slot, id, 0, -1, at_home);
  if (!backing_id) {
    if (!at_home) away::release(s, id);
    return reply_error(req, backing_id.error().code);
  }
  scope.reached(KillPoint::kCounted);
  answer_open(s, *inode, *backing_id, *fi);
  fuse_reply_open(req, fi);
}

void release(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kRelease, id, "");
  if (is_virtual(id)) {
    s.virtual_tree->release(fi->fh);
  } else {
    s.files.release(current_request().slot, id);
    if (coherent_ops::is_coherent(fi)) {
      coherent_ops::release(s, id, *fi);
    } else if (!s.is_home(id)) {
      away::release(s, id);
    }
    if (s.locks != nullptr) s.locks->released(id, fi->fh);
    scope.reached(KillPoint::kCounted);
  }
  reply_ok(req);
}

void read(fuse_req_t req, fuse_ino_t id, std::size_t size, off_t offset, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kRead, id, "");
  const auto start = static_cast<std::size_t>(offset);
  if (is_virtual(id)) {
    const auto found = s.virtual_tree->text(id, fi->fh, start);
    if (!found) return reply_error(req, found.error().code);
    const std::string& text = **found;
    if (start >= text.size()) {
      fuse_reply_buf(req, nullptr, 0);
    } else {
      fuse_reply_buf(req, text.data() + start, std::min(size, text.size() - start));
    }
    return;
  }
  if (coherent_ops::is_coherent(fi)) return coherent_ops::read(req, id, size, offset, *fi);
  if (!s.is_home(id)) return away::read(req, id, size, offset);
  auto fd = s.files.descriptor(id);
  if (!fd) return reply_error(req, fd.error().code);
  thread_local std::unique_ptr<char[]> buffer(new char[kLargestRead]);
  size = std::min(size, kLargestRead);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n =
        pread((*fd)->get(), buffer.get() + done, size - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return reply_error(req, errno);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  fuse_reply_buf(req, buffer.get(), done);
}

void write(fuse_req_t req, fuse_ino_t id, const char* bytes, std::size_t size, off_t offset,
           fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kWrite, id, "");
  if (is_virtual(id)) return reply_error(req, EPERM);
  if (fi->kill_suidgid != 0)
    if (auto dropped = drop_privilege_bits(s, id); !dropped)
      return reply_error(req, dropped.error().code);
  if (coherent_ops::is_coherent(fi)) return coherent_ops::write(req, id, bytes, size, offset, *fi);
  if (!s.is_home(id)) return away::write(req, id, bytes, size, offset, *fi);
  auto fd = s.files.descriptor(id);
  if (!fd) return reply_error(req, fd.error().code);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n =
        pwrite((*fd)->get(), bytes + done, size - done, offset + static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && done == 0) return reply_error(req, errno);
    if (n <= 0) break;
    done += static_cast<std::size_t>(n);
  }
  fuse_reply_write(req, done);
}

void fsync(fuse_req_t req, fuse_ino_t id, int data_only, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kFsync, id, "");
  if (is_virtual(id)) return reply_ok(req);
  if (coherent_ops::is_coherent(fi)) return coherent_ops::fsync(req, id);
  const Status done = s.is_home(id) ? s.backing().sync(id, data_only != 0) : away::flush(s, id);
  reply_error(req, done ? 0 : done.error().code);
}

// Comes in a cluster only (answer_open).
void flush(fuse_req_t req, fuse_ino_t id, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kFlush, id, "");
  if (is_virtual(id)) return reply_ok(req);
  const Status done =
      s.is_home(id) || coherent_ops::is_coherent(fi) ? Status{} : away::flush(s, id);
  const int code = done ? 0 : done.error().code;
  if (s.locks != nullptr && s.locks->closed(req, id, fi->lock_owner, code)) return;
  reply_error(req, code);
}

Status mark_punched(Server& s, const Inode& inode) {
  if ((inode.flags & kInodePunched) != 0) return {};
  AttrChange change;
  change.set_flags = kInodePunched;
  BTD_TRY(s.names.change(inode.id, change, current_request().tag));
  return {};
}

Status change_space(Server& s, InodeId id, int mode, off_t offset, off_t length, bool privileged) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if (s.is_home(id)) {
    BTD_ASSIGN(const SharedFd fd, s.files.descriptor(id));
    BTD_ASSIGN(const auto unmapped, unmapped_for_peers(s, id));
    BTD_TRY(space::allocate(fd->get(), mode, offset, length));
    if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) BTD_TRY(mark_punched(s, inode));
  } else {
    BTD_TRY(s.remote->allocate(id, mode, static_cast<std::uint64_t>(offset),
                               static_cast<std::uint64_t>(length)));
  }
  if (!privileged && (inode.mode & (S_ISUID | S_ISGID)) != 0) return drop_privilege_bits(s, id);
  return {};
}

// The protocol does not say whether the caller may keep the setuid bit; only root may.
bool privileged(fuse_req_t req) { return fuse_req_ctx(req)->uid == 0; }

void fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t offset, off_t length,
               fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kFallocate, id, "");
  if (is_virtual(id)) return reply_error(req, EPERM);
  if (coherent_ops::is_coherent(fi)) return coherent_ops::allocate(req, id, mode, offset, length);
  const Status done = change_space(s, id, mode, offset, length, privileged(req));
  if (!done) return reply_error(req, done.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_ok(req);
}

// The one thing that a program asks an open file for by ioctl: a ticket for its backing file.
void ioctl(fuse_req_t req, fuse_ino_t id, unsigned command, void*, fuse_file_info* fi, unsigned,
           const void*, std::size_t, std::size_t room) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kIoctl, id, "");
  backing::Ticket ticket;
  if (is_virtual(id) || command != backing::kTakeTicket) return reply_error(req, ENOTTY);
  if (s.backing_socket.empty() || !s.is_home(id) || coherent_ops::is_coherent(fi))
    return reply_error(req, EOPNOTSUPP);
  if (room < sizeof ticket) return reply_error(req, EINVAL);
  auto inode = s.names.get(id);
  if (!inode) return reply_error(req, ESTALE);
  const std::uint64_t access = fi->fh & kHandleAccess;
  if (auto flags = backing_flags(access, inode->mode); !flags)
    return reply_error(req, flags.error().code);
  if (getrandom(&ticket, sizeof ticket, 0) != sizeof ticket) return reply_error(req, EIO);
  s.tickets->add(ticket, Grant{id, access}, monotonic_ns());
  fuse_reply_ioctl(req, 0, &ticket, sizeof ticket);
}

void lseek(fuse_req_t req, fuse_ino_t id, off_t offset, int whence, fuse_file_info*) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kLseek, id, "");
  if (is_virtual(id)) return reply_error(req, EINVAL);
  if (!s.is_home(id)) {
    const auto found = s.remote->seek(id, static_cast<std::uint64_t>(offset), whence);
    if (!found) return reply_error(req, found.error().code);
    fuse_reply_lseek(req, static_cast<off_t>(*found));
    return;
  }
  auto fd = s.files.descriptor(id);
  if (!fd) return reply_error(req, fd.error().code);
  const off_t found = ::lseek((*fd)->get(), offset, whence);
  if (found < 0) return reply_error(req, errno);
  fuse_reply_lseek(req, found);
}

void copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_offset, fuse_file_info* from_fi,
                     fuse_ino_t to, off_t to_offset, fuse_file_info* to_fi, std::size_t length,
                     int flags) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kCopyFileRange, to, "");
  // Then the program copies by itself, or the kernel by its page cache.
  if (is_virtual(from) || is_virtual(to) || !s.is_home(from) || !s.is_home(to))
    return reply_error(req, EXDEV);
  if (coherent_ops::is_coherent(from_fi) || coherent_ops::is_coherent(to_fi))
    return reply_error(req, EXDEV);
  auto source = s.files.descriptor(from);
  if (!source) return reply_error(req, source.error().code);
  auto target = s.files.descriptor(to);
  if (!target) return reply_error(req, target.error().code);
  if (!privileged(req))
    if (auto dropped = drop_privilege_bits(s, to); !dropped)
      return reply_error(req, dropped.error().code);
  const ssize_t n = ::copy_file_range((*source)->get(), &from_offset, (*target)->get(), &to_offset,
                                      length, static_cast<unsigned>(flags));
  if (n < 0) return reply_error(req, errno);
  fuse_reply_write(req, static_cast<std::size_t>(n));
}

}  // namespace

Status prepare_open(Server& s, const Inode& inode, const fuse_file_info& fi, bool at_home) {
  if (!at_home) return away::open(s, inode, fi);
  if ((fi.flags & O_TRUNC) != 0) {
    BTD_ASSIGN(const SharedFd fd, s.files.descriptor(inode.id));
    BTD_ASSIGN(const auto unmapped, unmapped_for_peers(s, inode.id));
    BTD_TRY(space::resize(fd->get(), 0, true));
    if (fi.kill_suidgid != 0) BTD_TRY(drop_privilege_bits(s, inode.id));
    return {};
  }
  if ((fi.flags & O_ACCMODE) == O_RDONLY) return {};
  if ((inode.flags & (kInodeSparse | kInodePunched)) != 0) return {};
  BTD_ASSIGN(const struct stat st, s.backing().stat(inode.id));
  if (st.st_size == 0 || st.st_blocks * 512 >= st.st_size) return {};
  BTD_ASSIGN(const SharedFd fd, s.files.descriptor(inode.id));
  return space::fill_holes(fd->get());
}

void install_data_ops(fuse_lowlevel_ops& ops) {
  ops.open = open;
  ops.release = release;
  ops.read = read;
  ops.write = write;
  ops.fsync = fsync;
  ops.flush = flush;
  ops.fallocate = fallocate;
  ops.ioctl = ioctl;
  ops.lseek = lseek;
  ops.copy_file_range = copy_file_range;
}

}  // namespace btd
