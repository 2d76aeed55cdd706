// Handlers of extended attributes: those that people store, and user.btd.*, which describe a file.
//   user.btd.home, .mode, .backing, .id   read-only, of regular files
//   user.btd.socket                       read-only, of regular files, where there is a socket
//   user.btd.sparse                       "1" or "0", of regular files and directories
// There are no POSIX ACLs: system.* is not supported.
#include <sys/xattr.h>

#include <string>
#include <string_view>

#include "fs/daemon/server.h"

namespace btd {

namespace {

constexpr std::string_view kOwn = "user.btd.";
constexpr std::string_view kSparse = "user.btd.sparse";
constexpr std::string_view kSocket = "user.btd.socket";
constexpr std::string_view kReadOnly[] = {"user.btd.home", "user.btd.mode", "user.btd.backing",
                                          "user.btd.id"};

bool is_own(std::string_view name) { return name.starts_with(kOwn); }

bool is_supported(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("trusted.") || name.starts_with("security.");
}

Result<std::string> own_value(const Server& s, InodeId id, std::string_view name) {
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  const bool sparse = (inode.flags & kInodeSparse) != 0;
  if (name == kSparse && (inode.is_file() || inode.is_dir()))
    return std::string(sparse ? "1" : "0");
  if (!inode.is_file()) return fail(ENODATA);
  if (name == kReadOnly[0]) return std::string("0");
  if (name == kReadOnly[1]) return std::string("direct");
  if (name == kReadOnly[2]) return BackingStore::path(id);
  if (name == kReadOnly[3]) return std::to_string(id);
  if (name == kSocket && !s.backing_socket.empty()) return s.backing_socket;
  return fail(ENODATA);
}

Status set_own(Server& s, InodeId id, std::string_view name, std::string_view value) {
  if (name != kSparse) return fail(EPERM);
  BTD_ASSIGN(const Inode inode, s.names.get(id));
  if (!inode.is_file() && !inode.is_dir()) return fail(EPERM);
  if (value != "0" && value != "1") return fail(EINVAL);
  AttrChange change;
  (value == "1" ? change.set_flags : change.clear_flags) = kInodeSparse;
  BTD_TRY(s.names.change(id, change, current_request().tag));
  return {};
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
    for (std::string_view name : kReadOnly) names.append(name).push_back('\0');
    if (!s.backing_socket.empty()) names.append(kSocket).push_back('\0');
  }
  if ((inode.flags & kInodeSparse) != 0) names.append(kSparse).push_back('\0');
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
  const Status done = is_own(name) ? set_own(s, id, name, "0")
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
