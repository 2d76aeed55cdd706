#include "fs/daemon/server.h"

#include <algorithm>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/ops_remote.h"
#include "fs/remote/remote_files.h"

namespace btd {

std::optional<Outcome> earlier(const Server& s) {
  const CurrentRequest& request = current_request();
  if (!request.resent) return std::nullopt;
  return s.names.committed(request.tag);
}

void reply_error(fuse_req_t req, int code) {
  current_request().result = code;
  ClusterNode* const cluster = server(req).cluster;
  for (const NameAt& change : current_request().changes)
    if (cluster != nullptr && change.directory != 0)
      cluster->kernel().before_answer(change.directory, change.name);
  fuse_reply_err(req, code);
}

// The kernel must ask before it trusts the privilege bits of a file.
double attr_timeout(const Inode& inode) {
  if (!inode.is_file()) return kForever;
  return (inode.mode & kPrivilegeBits) != 0 ? 0 : kFileAttrTimeout;
}

namespace {

bool is_away(const Error& error) { return error.code == EHOSTUNREACH || error.code == ETIMEDOUT; }

// Where it lies. It may be moved to another node, or come here, just when it is looked at.
Result<struct stat> data_attributes(const Server& s, InodeId id) {
  constexpr int kAttempts = 4;
  Result<struct stat> found = fail(ESTALE);
  for (int i = 0; i < kAttempts; ++i) {
    if (s.is_home(id)) {
      found = s.backing().stat(id);
      if (!found || s.is_home(id)) return found;
    } else {
      found = s.remote->attributes(id);
      if (found || found.error().code != ESTALE) return found;
    }
  }
  return found;
}

}  // namespace

Result<Inode> with_noticed_writes(const Server& s, const Inode& inode, const struct stat& backing) {
  if ((inode.mode & kPrivilegeBits) == 0) return inode;
  BTD_ASSIGN(const auto dropped, s.files.notice_writes(inode.id, backing));
  return dropped.value_or(inode);
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
    BTD_ASSIGN(looked_up, data_attributes(s, inode.id));
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

std::uint64_t new_handle(const Server& s, int flags) {
  const std::uint64_t access = handle_of_open(flags);
  return s.locks == nullptr ? access : access | current_request().tag.unique << kHandleBits;
}

void answer_open(const Server& s, const Inode& inode, int backing_id, fuse_file_info& fi) {
  if (!s.is_home(inode.id)) return away::answer_open(s, fi);
  fi.backing_id = backing_id;
  fi.fh = new_handle(s, fi.flags);
  // Writes to such a file must be seen, to clear the bits; its mappings are still passed through.
  fi.direct_io = backing_id != 0 && (inode.mode & kPrivilegeBits) != 0;
  // Other nodes change the file unseen, so their kernels' pages are asked for again at each open.
  fi.keep_cache = backing_id == 0 && s.cluster == nullptr;
  // Nobody waits for a close: what a mapping has not written back yet is not written back by it.
  // But its locks end with it, which the kernel leaves to us.
  fi.noflush = s.locks == nullptr ? 1 : 0;
}

Result<fuse_entry_param> make_entry(Server& s, const Inode& inode, const struct stat* backing) {
  const std::uint32_t slot = current_request().slot;
  fuse_entry_param entry{};
  entry.ino = inode.id;
  entry.entry_timeout = kForever;
  bool is_known = true;
  if (inode.id != kRootId) {
    BTD_ASSIGN(const StateEntry counted, s.state.add(slot, inode.id, 1, 0));
    is_known = counted.nlookup > 1 || counted.opens > 0;
  }
  // Read again now that it is counted, so that the kernel misses no change (kernel_cache.h).
  const Result<Inode> again = s.cluster != nullptr ? s.names.get(inode.id) : inode;
  const Inode& now = again ? *again : inode;
  auto attr = attributes(s, now, backing);
  entry.attr_timeout = attr_timeout(now);
  // A name is there without its home: who wants the attributes asks again. Not so where the kernel
  // has pages of it, which a size of 0 would drop.
  if (!attr && !is_known && is_away(attr.error())) {
    const struct stat nothing{};
    attr = attributes(s, now, &nothing);
    entry.attr_timeout = 0;
  }
  if (!attr) {
    if (inode.id != kRootId) BTD_TRY(s.state.add(slot, inode.id, -1, 0));
    s.files.forget(inode.id, 0);
    return std::unexpected(attr.error());
  }
  entry.attr = *attr;
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
