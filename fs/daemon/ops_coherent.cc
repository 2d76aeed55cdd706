#include "fs/daemon/ops_coherent.h"

#include <fcntl.h>

#include <cstring>
#include <utility>
#include <vector>

#include "fs/daemon/backing_grant.h"
#include "fs/daemon/notifier_client.h"

namespace btd::coherent_ops {

namespace {

using coherent::Ask;
using Parked = CoherentKernel::Parked;
using Kind = Parked::Kind;

bool is_writer(const fuse_file_info& fi) { return (fi.flags & O_ACCMODE) != O_RDONLY; }

coherent::Bytes copy_of(const char* bytes, std::size_t size) {
  const auto all = std::as_bytes(std::span(bytes, size));
  return {all.begin(), all.end()};
}

// Pages come by fills and go by recalls only, so the kernel keeps what it has at an open.
fuse_file_info answered(const Server& s, const fuse_file_info& asked) {
  fuse_file_info fi = asked;
  fi.backing_id = 0;
  fi.fh = new_handle(s, fi.flags) | kHandleCoherent;
  fi.direct_io = 1;
  fi.keep_cache = 1;
  fi.noflush = s.locks == nullptr ? 1 : 0;
  fi.parallel_direct_writes = 0;
  return fi;
}

void ask_open(Server& s, Parked parked) {
  const Ask what{.what = Ask::What::kOpen,
                 .file = parked.id,
                 .is_writer = is_writer(parked.fi),
                 .is_create = parked.kind == Kind::kCreate};
  s.coherent->park(std::move(parked), what);
}

// O_TRUNC is a change of the size first.
void open_or_empty(Server& s, Parked parked, const fuse_file_info& asked) {
  if ((asked.flags & O_TRUNC) == 0) return ask_open(s, std::move(parked));
  const InodeId id = parked.id;
  const std::uint64_t unique = current_request().tag.unique;
  Parked first{.req = parked.req, .kind = Kind::kThen};
  first.then = [&s, parked = std::move(parked), unique](fuse_req_t) {
    current_request().tag.unique = unique;
    ask_open(s, parked);
  };
  s.coherent->park(std::move(first), {.what = Ask::What::kResize, .file = id, .length = 0});
}

}  // namespace

bool is_coherent(const Server& s, const Inode& inode) {
  return s.coherent != nullptr && inode.is_file() && (inode.flags & kInodeCoherent) != 0;
}

std::optional<InodeId> own_name(fuse_req_t req, std::uint64_t number) {
  const Server& s = server(req);
  // The kernel names the thread.
  if (s.coherent == nullptr || !s.notifier->is_own(fuse_req_ctx(req)->pid)) return std::nullopt;
  return s.coherent->inode_of(number);
}

void open(fuse_req_t req, const Inode& inode, const fuse_file_info& fi) {
  Server& s = server(req);
  // libfuse answers such requests from the thread that took them only.
  if (s.over_io_uring) return reply_error(req, EOPNOTSUPP);
  if ((fi.flags & O_TRUNC) != 0 && fi.kill_suidgid != 0)
    if (auto dropped = drop_privilege_bits(s, inode.id); !dropped)
      return reply_error(req, dropped.error().code);
  open_or_empty(s, {.req = req, .kind = Kind::kOpen, .id = inode.id, .fi = answered(s, fi)}, fi);
}

void create(fuse_req_t req, const Inode& inode, const fuse_entry_param& entry,
            const fuse_file_info& fi, bool is_new) {
  Server& s = server(req);
  if (s.over_io_uring) return reply_error(req, EOPNOTSUPP);
  fuse_file_info asked = fi;
  if (is_new) asked.flags &= ~O_TRUNC;
  open_or_empty(s,
                {.req = req,
                 .kind = Kind::kCreate,
                 .id = inode.id,
                 .fi = answered(s, fi),
                 .entry = entry,
                 .is_orphan = inode.nlink == 0},
                asked);
}

void release(Server& s, InodeId id, const fuse_file_info& fi) {
  s.coherent->ask({.what = Ask::What::kRelease, .file = id, .is_writer = is_writer(fi)});
}

void read(fuse_req_t req, InodeId id, std::size_t size, off_t offset, const fuse_file_info& fi) {
  Server& s = server(req);
  const bool is_fill = fi.lock_owner == 0;  // of nobody: the page cache asks
  s.coherent->park({.req = req, .kind = Kind::kRead},
                   {.what = is_fill ? Ask::What::kFill : Ask::What::kRead,
                    .file = id,
                    .offset = static_cast<std::uint64_t>(offset),
                    .length = size});
}

void write(fuse_req_t req, InodeId id, const char* bytes, std::size_t size, off_t offset,
           const fuse_file_info& fi) {
  Server& s = server(req);
  s.coherent->park({.req = req, .kind = Kind::kWrite, .size = size},
                   {.what = fi.writepage != 0 ? Ask::What::kPageWrite : Ask::What::kWrite,
                    .file = id,
                    .offset = static_cast<std::uint64_t>(offset),
                    .length = size,
                    .bytes = copy_of(bytes, size)});
}

void fsync(fuse_req_t req, InodeId id) {
  server(req).coherent->park({.req = req, .kind = Kind::kPlain},
                             {.what = Ask::What::kSync, .file = id});
}

void allocate(fuse_req_t req, InodeId id, int mode, off_t offset, off_t length) {
  if (mode != 0) return reply_error(req, EOPNOTSUPP);
  server(req).coherent->park({.req = req, .kind = Kind::kPlain},
                             {.what = Ask::What::kGrow,
                              .file = id,
                              .length = static_cast<std::uint64_t>(offset + length)});
}

void resize(fuse_req_t req, InodeId id, std::uint64_t size, std::function<void(fuse_req_t)> then) {
  Parked parked{.req = req, .kind = Kind::kThen};
  parked.then = std::move(then);
  server(req).coherent->park(std::move(parked),
                             {.what = Ask::What::kResize, .file = id, .length = size});
}

void forgotten(Server& s, InodeId id) {
  if (s.coherent == nullptr || s.state.find(id)) return;
  s.coherent->ask({.what = Ask::What::kForgotten, .file = id});
}

void recover(Server& s) {
  std::vector<StateEntry> known;
  s.state.for_each([&](const StateEntry& entry) { known.push_back(entry); });
  for (const StateEntry& entry : known) {
    const auto inode = s.names.get(entry.id);
    if (!inode || !is_coherent(s, *inode)) continue;
    s.coherent->ask({.what = Ask::What::kRecovered, .file = entry.id, .opens = entry.opens});
  }
  s.coherent->ask({.what = Ask::What::kForgotten});  // that was all
}

}  // namespace btd::coherent_ops
