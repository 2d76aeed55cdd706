#include "fs/daemon/server.h"

#include <algorithm>

namespace btd {

std::optional<Outcome> earlier(const Server& s) {
  const CurrentRequest& request = current_request();
  if (!request.resent) return std::nullopt;
  return s.names.committed(request.tag);
}

void reply_error(fuse_req_t req, int code) {
  current_request().result = code;
  fuse_reply_err(req, code);
}

// The kernel must ask before it trusts the privilege bits of a file.
double attr_timeout(const Inode& inode) {
  if (!inode.is_file()) return kForever;
  return (inode.mode & kPrivilegeBits) != 0 ? 0 : kFileAttrTimeout;
}

namespace {

// Never 0. The file system below stamps a change after a stat with a new time, however soon.
std::uint32_t ctime_mark(const struct stat& backing) {
  const auto ns = static_cast<std::uint64_t>(Timestamp::from(backing.st_ctim).nanoseconds);
  return static_cast<std::uint32_t>(ns ^ (ns >> 32)) | 1U;
}

}  // namespace

Status watch_privilege_bits(Server& s, InodeId id) {
  const auto entry = s.state.find(id);
  if (!entry || entry->opens == 0) return {};
  BTD_ASSIGN(const struct stat backing, s.backing().stat(id));
  s.state.set_suid_watch(id, ctime_mark(backing));
  return {};
}

Result<Inode> with_noticed_writes(const Server& s, const Inode& inode, const struct stat& backing) {
  if ((inode.mode & kPrivilegeBits) == 0) return inode;
  const auto entry = s.state.find(inode.id);
  if (!entry || entry->suid_watch == 0 || entry->suid_watch == ctime_mark(backing)) return inode;
  // No tag: this is not what the current request asked for, and doing it twice is harmless.
  BTD_ASSIGN(const Inode dropped, s.names.change(inode.id, {.clear_suid = true}, {}));
  s.state.set_suid_watch(inode.id, 0);
  return dropped;
}

Result<struct stat> attributes(const Server& s, const Inode& inode, const struct stat* backing) {
  struct stat st{};
  st.st_ino = inode.id;
  st.st_mode = inode.mode;
  st.st_nlink = inode.nlink;
  st.st_uid = inode.uid;
  st.st_gid = inode.gid;
  st.st_rdev = inode.rdev;
  st.st_blksize = 4096;
  st.st_ctim = inode.ctime.to_timespec();
  if (!inode.is_file()) {
    st.st_size = static_cast<off_t>(inode.size);
    if (inode.is_dir() && st.st_size == 0) st.st_size = 4096;
    st.st_atim = inode.atime.to_timespec();
    st.st_mtim = inode.mtime.to_timespec();
    return st;
  }
  struct stat looked_up{};
  if (backing == nullptr) {
    BTD_ASSIGN(looked_up, s.backing().stat(inode.id));
    backing = &looked_up;
  }
  BTD_ASSIGN(const Inode noticed, with_noticed_writes(s, inode, *backing));
  st.st_mode = noticed.mode;
  st.st_size = backing->st_size;
  st.st_blocks = backing->st_blocks;
  const bool missing = backing->st_nlink == 0 && backing->st_ino == 0;
  st.st_atim = missing ? inode.atime.to_timespec() : backing->st_atim;
  st.st_mtim = missing ? inode.mtime.to_timespec() : backing->st_mtim;
  if (!missing && Timestamp::from(backing->st_ctim) > noticed.ctime) st.st_ctim = backing->st_ctim;
  return st;
}

void answer_open(const Inode& inode, int backing_id, fuse_file_info& fi) {
  fi.backing_id = backing_id;
  fi.fh = handle_of_open(fi.flags);
  // Writes to such a file must be seen, to clear the bits; its mappings are still passed through.
  fi.direct_io = backing_id != 0 && (inode.mode & kPrivilegeBits) != 0;
  fi.keep_cache = backing_id == 0;
  // Nobody waits for a close: what a mapping has not written back yet is not written back by it.
  fi.noflush = 1;
}

Result<fuse_entry_param> make_entry(Server& s, const Inode& inode, const struct stat* backing) {
  fuse_entry_param entry{};
  BTD_ASSIGN(entry.attr, attributes(s, inode, backing));
  entry.ino = inode.id;
  entry.attr_timeout = attr_timeout(inode);
  entry.entry_timeout = kForever;
  if (inode.id != kRootId) BTD_TRY(s.state.add(current_request().slot, inode.id, 1, 0));
  return entry;
}

void reply_entry(fuse_req_t req, const RequestScope& scope, const Inode& inode,
                 const struct stat* backing) {
  Server& s = server(req);
  auto entry = make_entry(s, inode, backing);
  if (!entry) return reply_error(req, entry.error().code);
  scope.reached(KillPoint::kCounted);
  fuse_reply_entry(req, &*entry);
}

Status drop_privilege_bits(Server& s, InodeId id) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if ((inode.mode & kPrivilegeBits) == 0) return {};
  AttrChange change;
  change.clear_suid = true;
  BTD_TRY(s.names.change(id, change, current_request().tag));
  return {};
}

}  // namespace btd
