// Server: what the request handlers share, and the few helpers that all of them use. The handlers
// themselves are plain functions in ops_*.cc, installed into libfuse's table.
//
// Life of a changing request: receive (slot begins) -> one commit with the request's tag -> counts
// -> reply -> slot ends. A request that is sent again after the worker died takes its counts back
// (StateTable::adopt), finds its outcome if it was committed (earlier()), and replies from that.
// Thread-safety: immutable after start, except for the parts that say so themselves.
#pragma once

#include <fuse_lowlevel.h>

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "fs/daemon/backing_grant.h"
#include "fs/daemon/daemon.h"
#include "fs/daemon/files.h"
#include "fs/daemon/request.h"
#include "fs/daemon/virtual_tree.h"
#include "fs/pool/pool.h"

namespace btd::remote {
class RemoteFiles;
}
namespace btd::coherent {
class Node;
}

namespace btd {

// How long the kernel may keep what it knows. Every change of a name or of an attribute that this
// node makes goes through this mount, so names (absent ones too) and most attributes never go
// stale by themselves; in a cluster, the kernel is told of what other nodes change. A file's blocks
// and times change by stores into a mapping, unseen by all: one second is what a network file
// system would give.
inline constexpr double kForever = 365.0 * 86400.0;
inline constexpr double kFileAttrTimeout = 1.0;

class ClusterNode;
class LockRequests;
class CoherentKernel;
class NotifierClient;

struct Server {
  const WorkerArgs& args;
  Pool& pool;
  Namespace& names;
  StateTable& state;
  FileTable& files;
  Metrics& metrics;
  VirtualTree* virtual_tree = nullptr;
  Tickets* tickets = nullptr;
  std::string backing_socket;      // where tickets are good; empty: nowhere
  std::string passthrough_reason;  // why there is none; empty if there is
  bool over_io_uring = false;
  std::string transport_note;  // what became of a request for io_uring
  unsigned protocol_minor = 0;
  std::uint64_t started_ns = 0;  // monotonic, of this worker
  fuse_session* session = nullptr;
  // Of a node of a cluster, else null: the files that lie at other nodes, and the node's own part.
  remote::RemoteFiles* remote = nullptr;
  ClusterNode* cluster = nullptr;
  NotifierClient* notifier = nullptr;
  LockRequests* locks = nullptr;  // null too where the kernel keeps locks itself
  // Where files may be coherent: else they are as direct ones.
  CoherentKernel* coherent = nullptr;

  [[nodiscard]] const BackingStore& backing() const { return pool.backing(); }
  // Whether the data of this regular file lie here.
  [[nodiscard]] bool is_home(InodeId id) const { return files.is_home(id); }
};

inline Server& server(fuse_req_t req) { return *static_cast<Server*>(fuse_req_userdata(req)); }

inline bool is_virtual(InodeId id) { return id >= kFirstVirtualId; }
// The one name in the root that is not the namespace's.
inline bool is_reserved(InodeId parent, const char* name) {
  return parent == kRootId && name[0] == '.' && std::string_view(name) == ".btd";
}

// What an earlier worker made of this request, if it committed it.
std::optional<Outcome> earlier(const Server& s);

void reply_error(fuse_req_t req, int code);
inline void reply_ok(fuse_req_t req) { reply_error(req, 0); }

// The attributes of `inode`. A regular file's come from its backing file: `backing`, or looked up.
Result<struct stat> attributes(const Server& s, const Inode& inode,
                               const struct stat* backing = nullptr);
[[nodiscard]] double attr_timeout(const Inode& inode);
// The file handle; where locks need that, it names this very open.
[[nodiscard]] std::uint64_t new_handle(const Server& s, int flags);
// What opening does to a direct file: O_TRUNC, the clearing that goes with it, and holes filled, so
// that a store into a mapping of it finds its space. One of another node is open there then.
// `at_home`: is_home(); whether that still holds FileTable::open() says.
Status prepare_open(Server& s, const Inode& inode, const fuse_file_info& fi, bool at_home);
// What opening a regular file, or creating it, is answered with. `backing_id` is 0 where its data
// go through the page cache.
void answer_open(const Server& s, const Inode& inode, int backing_id, fuse_file_info& fi);
// Fills an entry and counts one lookup in the current request's slot (not if `counted`).
Result<fuse_entry_param> make_entry(Server& s, const Inode& inode,
                                    const struct stat* backing = nullptr);
void reply_entry(fuse_req_t req, const RequestScope& scope, const Inode& inode,
                 const struct stat* backing = nullptr);
// Files that are open while they get setuid or setgid bits are written past the daemon. A write
// changes the backing file's ctime, so whoever asks next for the attributes notices it then.
inline constexpr std::uint32_t kPrivilegeBits = S_ISUID | S_ISGID;
// `inode`, its bits dropped where a write past the daemon should have dropped them.
Result<Inode> with_noticed_writes(const Server& s, const Inode& inode, const struct stat& backing);
// Drops setuid and setgid as a write by an unprivileged user does, where they are set.
Status drop_privilege_bits(Server& s, InodeId id);

void install_name_ops(fuse_lowlevel_ops& ops);
void install_attr_ops(fuse_lowlevel_ops& ops);
void install_xattr_ops(fuse_lowlevel_ops& ops);
void install_dir_ops(fuse_lowlevel_ops& ops);
void install_data_ops(fuse_lowlevel_ops& ops);
void install_lock_ops(fuse_lowlevel_ops& ops);  // needs Server::locks

}  // namespace btd
