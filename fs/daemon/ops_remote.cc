#include "fs/daemon/ops_remote.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "fs/daemon/cluster_node.h"
#include "fs/daemon/lock_requests.h"
#include "fs/remote/remote_files.h"

namespace btd::away {

namespace {

constexpr std::size_t kLargestRead = 1 << 20;

int code_of(const Error& error) {
  spdlog::debug("home does not do it: {}", error.message);
  return error.code;
}

bool is_append(const fuse_file_info& fi) {
  return (fi.flags & O_APPEND) != 0 && (fi.flags & O_ACCMODE) != O_RDONLY;
}

// `use(files)`; what an earlier worker had opened is opened again when it is first used.
template <class Use>
auto use_open(Server& s, InodeId id, const Use& use) -> decltype(use(*s.remote)) {
  if (s.locks != nullptr && s.locks->is_lost(id))
    return fail(EIO, "A program lost its lock on the file; it is to close the file.");
  auto result = use(*s.remote);
  if (result || result.error().code != EBADF || !s.cluster->adopt(id)) return result;
  return use(*s.remote);
}

}  // namespace

Status open(Server& s, const Inode& inode, const fuse_file_info& fi) {
  remote::RemoteFiles& files = *s.remote;
  BTD_TRY(files.open(inode.id, (fi.flags & O_ACCMODE) != O_RDONLY));
  Status done;
  if ((fi.flags & O_TRUNC) != 0) {
    const auto emptied = files.change(inode.id, {.size = 0});
    if (!emptied) done = std::unexpected(emptied.error());
    if (done && fi.kill_suidgid != 0) done = drop_privilege_bits(s, inode.id);
  }
  if (!done) files.close(inode.id);
  // Only a mark: the kernel takes it while it waits for this very open.
  if (done) fuse_lowlevel_notify_inval_inode(s.session, inode.id, -1, 0);
  return done;
}

void answer_open(const Server& s, fuse_file_info& fi) {
  fi.backing_id = 0;
  fi.fh = new_handle(s, fi.flags);
  fi.keep_cache = 0;
  // The kernel puts what is appended where it believes the end to be, which another node may have
  // moved. So that is home's to say, and no page of it is kept.
  fi.direct_io = is_append(fi);
  fi.noflush = 0;  // what a mapping wrote is at home when close() has returned
}

void release(Server& s, InodeId id) {
  if (!s.cluster->disown(id)) s.remote->close(id);
}

Status flush(Server& s, InodeId id) {
  return use_open(s, id, [&](remote::RemoteFiles& files) { return files.flush(id); });
}

void read(fuse_req_t req, InodeId id, std::size_t size, off_t offset) {
  thread_local std::unique_ptr<std::byte[]> buffer(new std::byte[kLargestRead]);
  const std::span<std::byte> into(buffer.get(), std::min(size, kLargestRead));
  const auto got = use_open(server(req), id, [&](remote::RemoteFiles& files) {
    return files.read(id, static_cast<std::uint64_t>(offset), into);
  });
  if (!got) return reply_error(req, code_of(got.error()));
  fuse_reply_buf(req, reinterpret_cast<const char*>(buffer.get()), *got);
}

void write(fuse_req_t req, InodeId id, const char* bytes, std::size_t size, off_t offset,
           const fuse_file_info& fi) {
  const auto from = std::as_bytes(std::span(bytes, size));
  const CurrentRequest& request = current_request();
  const auto done = use_open(server(req), id, [&](remote::RemoteFiles& files) {
    // What a mapping wrote has its place.
    if (!is_append(fi) || fi.writepage != 0)
      return files.write(id, static_cast<std::uint64_t>(offset), from);
    return files.append(id,
                        {.session = request.tag.session,
                         .unique = request.tag.unique,
                         .slot = request.tag.slot,
                         .is_resent = request.resent},
                        from);
  });
  if (!done) return reply_error(req, code_of(done.error()));
  fuse_reply_write(req, size);
}

Status change(Server& s, InodeId id, const struct stat& attr, int to_set, const timespec times[2]) {
  remote::RemoteChange change{.atime = times[0], .mtime = times[1]};
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) change.size = static_cast<std::uint64_t>(attr.st_size);
  BTD_TRY(s.remote->change(id, change));
  return {};
}

}  // namespace btd::away
