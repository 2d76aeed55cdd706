// Handlers that look up, make, move and remove names.
#include <fcntl.h>
#include <sys/stat.h>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/ops_coherent.h"
#include "fs/daemon/ops_remote.h"
#include "fs/daemon/server.h"

namespace btd {

namespace {

// Names that the caller may not make, move or remove. Others the request is noted to change.
bool refused(fuse_req_t req, InodeId parent, const char* name) {
  if (is_virtual(parent) || is_reserved(parent, name)) {
    reply_error(req, EPERM);
    return true;
  }
  auto& changes = current_request().changes;
  changes[changes[0].directory == 0 ? 0 : 1] = {parent, name};
  return false;
}

NewInode new_inode(fuse_req_t req, mode_t mode) {
  const fuse_ctx* ctx = fuse_req_ctx(req);
  NewInode node;
  node.mode = mode;
  node.uid = ctx->uid;
  node.gid = ctx->gid;
  return node;
}

void reply_virtual(fuse_req_t req, InodeId id) {
  fuse_entry_param entry{};
  const auto st = server(req).virtual_tree->attributes(id);
  if (!st) return reply_error(req, ENOENT);
  entry.ino = id;
  entry.attr = *st;
  entry.entry_timeout = kForever;
  fuse_reply_entry(req, &entry);
}

void reply_absent(fuse_req_t req) {
  fuse_entry_param entry{};
  entry.entry_timeout = kForever;
  current_request().result = ENOENT;
  fuse_reply_entry(req, &entry);
}

// Found by the notifier alone, and remembered by no kernel.
void reply_own(fuse_req_t req, const RequestScope& scope, std::uint64_t number) {
  Server& s = server(req);
  const auto id = coherent_ops::own_name(req, number);
  if (!id) return reply_error(req, ENOENT);
  const auto inode = s.names.get(*id);
  auto entry = inode ? make_entry(s, *inode) : std::unexpected(inode.error());
  if (!entry) return reply_error(req, entry.error().code);
  entry->entry_timeout = 0;
  scope.reached(KillPoint::kCounted);
  fuse_reply_entry(req, &*entry);
  s.coherent->told(number);
}

void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kLookup, parent, name);
  if (is_reserved(parent, name)) return reply_virtual(req, VirtualTree::kDir);
  if (is_virtual(parent)) {
    if (const auto number = CoherentKernel::number_in(name)) return reply_own(req, scope, *number);
    const auto id = VirtualTree::lookup(name);
    return id ? reply_virtual(req, *id) : reply_absent(req);
  }
  auto inode = s.names.lookup(parent, name);
  if (inode) return reply_entry(req, scope, *inode);
  if (inode.error().code == ENOENT) return reply_absent(req);
  reply_error(req, inode.error().code);
}

// A new inode with a name: the earlier worker's if it committed one, else a new one. A regular
// file gets its backing file first, so that no name ever stands for a file that cannot be made.
Result<Inode> make_inode(Server& s, InodeId parent, const char* name, const NewInode& node,
                         UniqueFd* backing_fd) {
  const RequestTag& tag = current_request().tag;
  if (const auto outcome = earlier(s)) return s.names.get(outcome->id);
  BTD_ASSIGN(const InodeId id, s.names.allocate_id());
  // A node that is drained gives its new files to others, where a missing file is an empty one.
  std::optional<NodeId> elsewhere;
  if (s.cluster != nullptr && name != nullptr && S_ISREG(node.mode))
    elsewhere = s.cluster->home_for_new(id);
  if (S_ISREG(node.mode) && !elsewhere) {
    auto fd = s.backing().create(id);
    if (!fd) {
      s.names.id_settled(id);
      return fail(fd.error().code);
    }
    *backing_fd = *std::move(fd);
  }
  auto made = name != nullptr ? s.names.create(parent, name, id, node, tag, elsewhere)
                              : s.names.create_nameless(parent, id, node, tag);
  // In doubt, the name may be there, or come: its data stay, and the next worker looks at the id.
  if (!made && (made.error().code == EIO || made.error().code == EBUSY)) return made;
  if (!made && *backing_fd) {
    backing_fd->reset();
    (void)s.backing().remove(id);
  }
  s.names.id_settled(id);
  return made;
}

void make_named(fuse_req_t req, std::uint32_t opcode, fuse_ino_t parent, const char* name,
                const NewInode& node) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), opcode, parent, name);
  if (refused(req, parent, name)) return;
  UniqueFd fd;
  auto inode = make_inode(s, parent, name, node, &fd);
  if (!inode) return reply_error(req, inode.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_entry(req, scope, *inode);
}

void mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  NewInode node = new_inode(req, mode);
  node.rdev = static_cast<std::uint32_t>(rdev);
  make_named(req, proto::kMknod, parent, name, node);
}

void mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  make_named(req, proto::kMkdir, parent, name, new_inode(req, S_IFDIR | (mode & 07777U)));
}

void symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  NewInode node = new_inode(req, S_IFLNK | 0777);
  node.target = target;
  make_named(req, proto::kSymlink, parent, name, node);
}

void reply_created(fuse_req_t req, const RequestScope& scope, const Inode& inode, int fd,
                   fuse_file_info* fi, bool at_home) {
  Server& s = server(req);
  struct stat st{};
  const bool have_stat = fd >= 0 && fstat(fd, &st) == 0;
  fuse_entry_param entry{};
  const bool is_coherent = coherent_ops::is_coherent(s, inode);
  auto attr = attributes(s, inode, have_stat ? &st : nullptr);
  if (!attr) {
    if (!at_home && !is_coherent) away::release(s, inode.id);
    return reply_error(req, attr.error().code);
  }
  entry.attr = *attr;
  entry.ino = inode.id;
  entry.attr_timeout = attr_timeout(inode);
  entry.entry_timeout = kForever;
  if (is_coherent) return coherent_ops::create(req, inode, entry, *fi, fd >= 0);
  auto backing_id = s.files.open(current_request().slot, inode.id, 1, fd, at_home);
  if (!backing_id) {
    if (!at_home) away::release(s, inode.id);
    return reply_error(req, backing_id.error().code);
  }
  if (inode.nlink == 0) (void)s.state.set_flags(inode.id, kStateOrphan);
  answer_open(s, inode, *backing_id, *fi);
  scope.reached(KillPoint::kCounted);
  fuse_reply_create(req, &entry, fi);
}

// The kernel found no such name, yet there is one: a lookup that it had cached is so old, or
// another node made it meanwhile.
void open_existing(fuse_req_t req, const RequestScope& scope, fuse_ino_t parent, const char* name,
                   fuse_file_info* fi) {
  Server& s = server(req);
  auto inode = s.names.lookup(parent, name);
  if (!inode) return reply_error(req, inode.error().code);
  if (!inode->is_file()) return reply_error(req, EEXIST);
  const bool at_home = s.is_home(inode->id);
  if (!coherent_ops::is_coherent(s, *inode))
    if (auto prepared = prepare_open(s, *inode, *fi, at_home); !prepared)
      return reply_error(req, prepared.error().code);
  reply_created(req, scope, *inode, -1, fi, at_home);
}

void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kCreate, parent, name);
  if (refused(req, parent, name)) return;
  UniqueFd fd;
  auto inode = make_inode(s, parent, name, new_inode(req, S_IFREG | (mode & 07777U)), &fd);
  if (!inode) {
    if (inode.error().code == EEXIST && (fi->flags & O_EXCL) == 0)
      return open_existing(req, scope, parent, name, fi);
    return reply_error(req, inode.error().code);
  }
  scope.reached(KillPoint::kCommitted);
  const bool at_home = s.is_home(inode->id);
  if (!at_home && !coherent_ops::is_coherent(s, *inode))
    if (auto opened = prepare_open(s, *inode, *fi, false); !opened)
      return reply_error(req, opened.error().code);
  reply_created(req, scope, *inode, fd.get(), fi, at_home);
}

void tmpfile(fuse_req_t req, fuse_ino_t parent, mode_t mode, fuse_file_info* fi) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kTmpfile, parent, "");
  if (is_virtual(parent)) return reply_error(req, EPERM);
  UniqueFd fd;
  auto inode = make_inode(s, parent, nullptr, new_inode(req, S_IFREG | (mode & 07777U)), &fd);
  if (!inode) return reply_error(req, inode.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_created(req, scope, *inode, fd.get(), fi, s.is_home(inode->id));
}

void link(fuse_req_t req, fuse_ino_t id, fuse_ino_t parent, const char* name) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kLink, parent, name);
  if (is_virtual(id)) return reply_error(req, EPERM);
  if (refused(req, parent, name)) return;
  const auto done = earlier(s);
  auto inode = done ? s.names.get(id) : s.names.link(id, parent, name, current_request().tag);
  if (!inode) return reply_error(req, inode.error().code);
  scope.reached(KillPoint::kCommitted);
  (void)s.state.clear_flags(id, kStateOrphan);  // an O_TMPFILE that now has a name
  reply_entry(req, scope, *inode);
}

void finish_removal(fuse_req_t req, const RequestScope& scope, const Result<Outcome>& outcome) {
  if (!outcome) return reply_error(req, outcome.error().code);
  Server& s = server(req);
  scope.reached(KillPoint::kCommitted);
  if (outcome->lost_last_link) s.files.orphaned(outcome->id);
  if (outcome->replaced != 0 && outcome->replaced_lost_last_link)
    s.files.orphaned(outcome->replaced);
  scope.reached(KillPoint::kCounted);
  reply_ok(req);
}

void unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kUnlink, parent, name);
  if (refused(req, parent, name)) return;
  if (const auto done = earlier(s)) return finish_removal(req, scope, *done);
  finish_removal(req, scope, s.names.unlink(parent, name, current_request().tag));
}

void rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kRmdir, parent, name);
  if (refused(req, parent, name)) return;
  if (const auto done = earlier(s)) return finish_removal(req, scope, *done);
  finish_removal(req, scope, s.names.rmdir(parent, name, current_request().tag));
}

void rename(fuse_req_t req, fuse_ino_t from, const char* name, fuse_ino_t to, const char* new_name,
            unsigned flags) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kRename, from, name);
  if (refused(req, from, name) || refused(req, to, new_name)) return;
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0)
    return reply_error(req, EINVAL);
  const auto done = earlier(s);
  const Result<Outcome> outcome =
      done ? Result<Outcome>(*done)
           : s.names.rename(from, name, to, new_name, flags, current_request().tag);
  finish_removal(req, scope, outcome);
}

void readlink(fuse_req_t req, fuse_ino_t id) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kReadlink, id, "");
  if (is_virtual(id)) return reply_error(req, EINVAL);
  auto target = s.names.read_link(id);
  if (!target) return reply_error(req, target.error().code);
  fuse_reply_readlink(req, target->c_str());
}

void drop_lookups(Server& s, InodeId id, std::uint64_t n) {
  if (is_virtual(id) || id == kRootId) return;
  s.files.forget(id, n);
  coherent_ops::forgotten(s, id);
}

// The kernel drops its references; nobody waits for an answer, and it never asks again.
void forget(fuse_req_t req, fuse_ino_t id, std::uint64_t n) {
  Server& s = server(req);
  {
    const RequestScope scope(s.metrics, s.state.header(), proto::kForget, id, "");
    drop_lookups(s, id, n);
  }
  fuse_reply_none(req);
}

void forget_multi(fuse_req_t req, std::size_t count, fuse_forget_data* forgets) {
  Server& s = server(req);
  {
    const RequestScope scope(s.metrics, s.state.header(), proto::kBatchForget, 0, "");
    for (std::size_t i = 0; i < count; ++i) drop_lookups(s, forgets[i].ino, forgets[i].nlookup);
  }
  fuse_reply_none(req);
}

}  // namespace

void install_name_ops(fuse_lowlevel_ops& ops) {
  ops.lookup = lookup;
  ops.mknod = mknod;
  ops.mkdir = mkdir;
  ops.symlink = symlink;
  ops.create = create;
  ops.tmpfile = tmpfile;
  ops.link = link;
  ops.unlink = unlink;
  ops.rmdir = rmdir;
  ops.rename = rename;
  ops.readlink = readlink;
  ops.forget = forget;
  ops.forget_multi = forget_multi;
}

}  // namespace btd
