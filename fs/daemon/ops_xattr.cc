// Handlers of extended attributes: those that people store, and user.btd.*, which describe a file.
//   user.btd.home, .backing, .id          of regular files; read-only, but that an empty one may be
//                                         given to another node: its number, or "emptiest"
//   user.btd.node                         read-only, in a cluster: the node of this mount
//   user.btd.mode                         "direct" or "coherent": what a directory passes on to new
//                                         files and directories; read-only of regular files, whose
//                                         mode is for good
//   user.btd.socket                       read-only, of regular files, where there is a socket
//   user.btd.sparse                       "1" or "0", of regular files and directories
// There are no POSIX ACLs: system.* is not supported.
#include <sys/xattr.h>

#include <charconv>
#include <string>
#include <string_view>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/server.h"

namespace btd {

namespace {

constexpr std::string_view kOwn = "user.btd.";
constexpr std::string_view kSparse = "user.btd.sparse";
constexpr std::string_view kSocket = "user.btd.socket";
constexpr std::string_view kMode = "user.btd.mode";
constexpr std::string_view kNode = "user.btd.node";
constexpr std::string_view kEmptiest = "emptiest";
constexpr std::string_view kHome = "user.btd.home";
constexpr std::string_view kBacking = "user.btd.backing";
constexpr std::string_view kId = "user.btd.id";
constexpr std::string_view kOfFiles[] = {kHome, kBacking, kId};

bool is_own(std::string_view name) { return name.starts_with(kOwn); }

bool is_supported(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("trusted.") || name.starts_with("security.");
}

Result<std::string> own_value(const Server& s, InodeId id, std::string_view name) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  const bool sparse = (inode.flags & kInodeSparse) != 0;
  if (name == kSparse && (inode.is_file() || inode.is_dir()))
    return std::string(sparse ? "1" : "0");
  if (name == kMode && (inode.is_file() || inode.is_dir()))
    return std::string((inode.flags & kInodeCoherent) != 0 ? "coherent" : "direct");
  if (name == kNode && s.cluster != nullptr) return std::to_string(s.cluster->id());
  if (!inode.is_file()) return fail(ENODATA);
  if (name == kHome) return std::to_string(s.files.home(id));
  if (name == kBacking) return BackingStore::path(id);
  if (name == kId) return std::to_string(id);
  if (name == kSocket && !s.backing_socket.empty()) return s.backing_socket;
  return fail(ENODATA);
}

// Of directories only: a kernel may have a file mapped, and one inode has one mode for its life.
Status set_mode(Server& s, InodeId id, std::string_view value) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if (!inode.is_dir()) return fail(EPERM);
  if (value != "direct" && value != "coherent") return fail(EINVAL);
  AttrChange change;
  (value == "coherent" ? change.set_flags : change.clear_flags) = kInodeCoherent;
  BTD_TRY(s.names.change(id, change, current_request().tag));
  return {};
}

// Of an empty file that nobody has open, at its home: where its bytes are to lie.
Status set_home(Server& s, InodeId id, std::string_view value) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if (s.cluster == nullptr || !inode.is_file()) return fail(EPERM);
  if (!s.is_home(id)) return current_request().resent ? Status{} : fail(EPERM);
  NodeId to = 0;
  if (value == kEmptiest) {
    BTD_ASSIGN(to, s.cluster->emptiest());
  } else {
    const auto end = value.data() + value.size();
    if (const auto [at, error] = std::from_chars(value.data(), end, to);
        error != std::errc{} || at != end)
      return fail(EINVAL);
  }
  Status given = s.cluster->give(id, to);
  if (given || given.error().code != ETXTBSY) return given;
  return fail(EBUSY, given.error().message);
}

Status set_own(Server& s, InodeId id, std::string_view name, std::string_view value) {
  if (name == kMode) return set_mode(s, id, value);
  if (name == kHome) return set_home(s, id, value);
  if (name != kSparse) return fail(EPERM);
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if (!inode.is_file() && !inode.is_dir()) return fail(EPERM);
  if (value != "0" && value != "1") return fail(EINVAL);
  AttrChange change;
  (value == "1" ? change.set_flags : change.clear_flags) = kInodeSparse;
  BTD_TRY(s.names.change(id, change, current_request().tag));
  return {};
}

// What a directory or file is without it.
Status remove_own(Server& s, InodeId id, std::string_view name) {
  if (name == kMode) return set_mode(s, id, "direct");
  return name == kSparse ? set_own(s, id, name, "0") : fail(EPERM);
}

void reply_value(fuse_req_t req, std::string_view value, std::size_t size) {
  if (size == 0) {
    fuse_reply_xattr(req, value.size());
  } else if (value.size() > size) {
    reply_error(req, ERANGE);
  } else {
    fuse_reply_buf(req, value.data(), value.size());
  }
}

void getxattr(fuse_req_t req, fuse_ino_t id, const char* name, std::size_t size) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kGetxattr, id, name);
  if (!is_supported(name)) return reply_error(req, EOPNOTSUPP);
  if (is_virtual(id)) return reply_error(req, ENODATA);
  auto value = is_own(name) ? own_value(s, id, name) : s.names.get_xattr(id, name);
  if (!value) return reply_error(req, value.error().code);
  reply_value(req, *value, size);
}

Result<std::string> all_names(const Server& s, InodeId id) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  BTD_ASSIGN(const auto stored, s.names.list_xattrs(id));
  std::string names;
  for (const std::string& name : stored) names.append(name).push_back('\0');
  if (inode.is_file()) {
    for (std::string_view name : kOfFiles) names.append(name).push_back('\0');
    names.append(kMode).push_back('\0');
    if (!s.backing_socket.empty()) names.append(kSocket).push_back('\0');
  }
  if ((inode.flags & kInodeSparse) != 0) names.append(kSparse).push_back('\0');
  if (inode.is_dir() && (inode.flags & kInodeCoherent) != 0) names.append(kMode).push_back('\0');
  return names;
}

void listxattr(fuse_req_t req, fuse_ino_t id, std::size_t size) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kListxattr, id, "");
  if (is_virtual(id)) return reply_value(req, "", size);
  auto names = all_names(s, id);
  if (!names) return reply_error(req, names.error().code);
  reply_value(req, *names, size);
}

void setxattr(fuse_req_t req, fuse_ino_t id, const char* name, const char* value, std::size_t size,
              int flags) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kSetxattr, id, name);
  if (!is_supported(name)) return reply_error(req, EOPNOTSUPP);
  if (is_virtual(id)) return reply_error(req, EPERM);
  if (earlier(s)) return reply_ok(req);
  const std::string_view bytes(value, size);
  const Status done = is_own(name)
                          ? set_own(s, id, name, bytes)
                          : s.names.set_xattr(id, name, bytes, flags, current_request().tag);
  if (!done) return reply_error(req, done.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_ok(req);
}

void removexattr(fuse_req_t req, fuse_ino_t id, const char* name) {
  Server& s = server(req);
  const RequestScope scope(s.metrics, s.state.header(), proto::kRemovexattr, id, name);
  if (!is_supported(name)) return reply_error(req, EOPNOTSUPP);
  if (is_virtual(id)) return reply_error(req, EPERM);
  if (earlier(s)) return reply_ok(req);
  const Status done = is_own(name) ? remove_own(s, id, name)
                                   : s.names.remove_xattr(id, name, current_request().tag);
  if (!done) return reply_error(req, done.error().code);
  scope.reached(KillPoint::kCommitted);
  reply_ok(req);
}

}  // namespace

void install_xattr_ops(fuse_lowlevel_ops& ops) {
  ops.getxattr = getxattr;
  ops.listxattr = listxattr;
  ops.setxattr = setxattr;
  ops.removexattr = removexattr;
}

}  // namespace btd
