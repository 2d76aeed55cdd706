// Namespace: names, inodes and extended attributes over a MetaStore.
//
// Every call that changes something is one commit: all of it or none of it, durable on return
// (contract T). It touches no file: creating and removing backing files is the caller's, in the
// order that each call states. Permission checks are the kernel's (default_permissions).
//
// Exactly once: a changing call carries the request's tag, and its commit writes a result row for
// it. A request that the kernel sends again after the worker died is answered from that row.
//
// Thread-safety: every call may be made from any thread. Lock order: stripes_, then the store's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/namespace/inode.h"
#include "fs/namespace/stripes.h"

namespace btd {

namespace rows {
struct IdsRow;
}

// Names one request of one connection. A slot belongs to one thread of one worker, which has one
// request at a time, so a slot's row is that thread's last committed request. A new worker takes
// other slots than the last few before it (incarnation % 8): until every request that the kernel
// sends again is answered, the rows of the dead are still needed. session 0: no row is written.
struct RequestTag {
  std::uint64_t session = 0;
  std::uint64_t unique = 0;
  std::uint32_t slot = 0;
};

// What a committed request did, as its row tells after a restart.
struct Outcome {
  InodeId id = 0;               // the inode made, linked, moved or removed
  bool lost_last_link = false;  // id's last name went: its data may go when nobody has it open
  InodeId replaced = 0;         // rename: the inode whose name was taken over
  bool replaced_lost_last_link = false;
};

struct NewInode {
  std::uint32_t mode = 0;  // type and permissions, umask already applied
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;  // replaced by the directory's where that is setgid
  std::uint32_t rdev = 0;
  std::string target;  // symbolic links
};

// The attributes to change; those unset stay.
struct AttrChange {
  std::optional<std::uint32_t> mode;  // permission bits only
  std::optional<std::uint32_t> uid, gid;
  std::optional<Timestamp> atime, mtime;
  bool clear_suid = false;  // drop setuid, and setgid where group-executable
  std::uint32_t set_flags = 0, clear_flags = 0;
};

struct DirEntry {
  std::string name;
  InodeId id = 0;
  std::uint32_t type = 0;    // S_IFMT bits
  std::uint64_t cookie = 0;  // pass to list() to go on after this entry
};

class Namespace {
 public:
  // Makes the root directory of an empty store.
  static Status format(MetaStore& store, std::uint32_t root_mode);
  // As `node` sees it: ids, results and orphans are each node's own; all else is the cluster's. One
  // namespace for a node. Errors: EINVAL for a store without a root. The store must outlive it.
  static Result<std::unique_ptr<Namespace>> open(MetaStore& store, NodeId node = 0);

  // --- reading -------------------------------------------------------------------------------
  Result<Inode> lookup(InodeId parent, std::string_view name) const;  // ENOENT, ENAMETOOLONG
  Result<Inode> get(InodeId id) const;                                // ENOENT
  Result<NodeId> home(InodeId id) const;            // where the data of a regular file lie
  Result<std::string> read_link(InodeId id) const;  // EINVAL
  // Up to `limit` entries after `cookie` (0: from the start), in cookie order; "." and ".." are
  // the caller's. No two entries of a directory have the same cookie; 0 to 15 are never used.
  Result<std::vector<DirEntry>> list(InodeId dir, std::uint64_t cookie, std::size_t limit) const;

  // Also of a store whose rows may be behind: asks it whether there is no such inode now. If there
  // is one, get() finds it afterwards. Errors: the store's, where it can't tell.
  Result<bool> is_gone(InodeId id);

  // --- changing: one commit each -------------------------------------------------------------
  // An id for a new inode of this node. Costs a commit once in kIdBlock calls. The caller makes the
  // backing file of a regular file before create(); collect_unnamed() finds those that a crash left
  // without one.
  Result<InodeId> allocate_id();
  // No id was ever handed out before this was opened.
  [[nodiscard]] bool is_new() const { return is_new_; }
  // `id` will not be used after all (create failed, or is done): it need not be looked at again.
  void id_settled(InodeId id);

  // `home`: of a regular file whose data are to lie at another node than this one.
  Result<Inode> create(InodeId parent, std::string_view name, InodeId id, const NewInode& node,
                       const RequestTag& tag,
                       std::optional<NodeId> home = std::nullopt);  // EEXIST, ENOENT
  // A nameless file (O_TMPFILE): an orphan with nlink 0 until link() names it.
  Result<Inode> create_nameless(InodeId parent, InodeId id, const NewInode& node,
                                const RequestTag& tag);
  // ENOENT also where it lost its last name.
  Result<Inode> link(InodeId id, InodeId parent, std::string_view name, const RequestTag& tag);
  Result<Outcome> unlink(InodeId parent, std::string_view name, const RequestTag& tag);
  Result<Outcome> rmdir(InodeId parent, std::string_view name, const RequestTag& tag);
  // flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE. EINVAL also where a directory would come to lie
  // below itself: a kernel sees that of its own mount's moves only.
  Result<Outcome> rename(InodeId from, std::string_view name, InodeId to, std::string_view new_name,
                         unsigned flags, const RequestTag& tag);
  Result<Inode> change(InodeId id, const AttrChange& change, const RequestTag& tag);

  // Extended attributes. flags: 0, XATTR_CREATE, XATTR_REPLACE. ENODATA, EEXIST, E2BIG, ENOSPC.
  Result<std::string> get_xattr(InodeId id, std::string_view name) const;
  Result<std::vector<std::string>> list_xattrs(InodeId id) const;
  Status set_xattr(InodeId id, std::string_view name, std::string_view value, int flags,
                   const RequestTag& tag);
  Status remove_xattr(InodeId id, std::string_view name, const RequestTag& tag);

  // --- orphans: inodes without a name whose home is this node; somebody may still have them open
  Result<std::vector<InodeId>> orphans() const;
  // Erases an orphan's rows. The caller removed its backing file before. Idempotent.
  Status erase_orphan(InodeId id);

  // --- after a restart -------------------------------------------------------------------------
  // What the request did, if it was committed by an earlier worker of the same session.
  std::optional<Outcome> committed(const RequestTag& tag) const;
  // Calls `has_backing` for each id that a crash may have left with a backing file and no inode
  // (at most kIdBlock plus one for each thread), and `remove` for those that are so.
  Status collect_unnamed(const std::function<bool(InodeId)>& has_backing,
                         const std::function<Status(InodeId)>& remove);

  static constexpr std::uint64_t kIdBlock = 4096;
  static constexpr std::size_t kNameMax = 255;
  static constexpr std::uint32_t kLinkMax = 1U << 30;

 private:
  // An inode and the bytes it was read from, which its change will require.
  struct Loaded {
    Inode inode;
    std::string row;
  };
  // Where a name is, or where it would go.
  struct Place {
    std::uint64_t cookie = 0;  // where the name is, or may go; 0: its probe window is full
    InodeId id = 0;            // 0: the name is free
    std::uint32_t type = 0;
    std::string row;
    [[nodiscard]] bool taken() const { return id != 0; }
  };

  Namespace(MetaStore& store, NodeId node) : store_(store), node_(node) {}
  Status load_format();
  // The row of this node's ids, as it stands in the store; empty where the node is new.
  Result<std::string> load_ids(rows::IdsRow& ids) const;
  Status load_results();
  Status reserve_ids();
  Result<Loaded> load(InodeId id) const;
  Result<Loaded> load_dir(InodeId id) const;
  Result<Place> find(InodeId dir, std::string_view name) const;
  Result<Place> find_free(InodeId dir, std::string_view name) const;
  Result<Place> find_taken(InodeId dir, std::string_view name) const;
  Result<bool> is_empty(InodeId dir) const;
  Result<Outcome> remove(InodeId parent, std::string_view name, bool directory,
                         const RequestTag& tag);
  Result<Outcome> exchange(Loaded& from, const Place& a, Loaded& to, const Place& b,
                           const RequestTag& tag);
  Result<Outcome> move(Loaded& from, const Place& source, Loaded& to, const Place& target,
                       std::string_view new_name, const RequestTag& tag);
  Status erase_nameless(InodeId id);
  Status put_xattr(InodeId id, std::string_view name, std::string_view value, int flags,
                   const RequestTag& tag);
  Status erase_xattr(InodeId id, std::string_view name, const RequestTag& tag);
  // `moved` comes to lie in `to`, if it is a directory.
  Status reparent(Batch& batch, Inode& moved, InodeId to);
  [[nodiscard]] Status refuse_loop(InodeId moved, InodeId to) const;
  Status commit(Batch& batch, const RequestTag& tag, const Outcome& outcome);

  MetaStore& store_;
  const NodeId node_;
  std::uint64_t hash_key_ = 0;  // of directory cookies; drawn at format
  Stripes stripes_;             // of directories, and of inodes changed by themselves
  std::mutex ids_mutex_;
  bool is_new_ = false;
  InodeId next_id_ = 0, id_limit_ = 0;  // ids in [next, limit) are reserved in the store
  std::set<InodeId> unsettled_;         // ids handed out whose create has not ended
  std::vector<std::pair<RequestTag, Outcome>> earlier_;  // rows found at open
};

}  // namespace btd
