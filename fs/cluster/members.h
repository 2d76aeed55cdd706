// The members of a cluster, as rows beside the namespace's: who they are, and which epoch it is.
//
//   'm' "cluster"   JSON   name, uuid: the cluster is founded
//   'm' "epoch"     number moved on by one at each change of the members
//   'n' node        JSON   Member
//
// Rows of nodes that left stay: their ids are in the ids of inodes, and are not given out again.
// Pure but for the store. Thread-safety: that of the store.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/namespace/inode.h"
#include "fs/namespace/layout.h"

namespace btd::cluster {

struct Member {
  NodeId id = 0;
  std::string name;
  std::string pool;     // uuid
  std::string address;  // "host:port"
  std::string domain;
  std::uint64_t capacity = 0;  // bytes
  std::string version;         // of the program
  bool is_mounted = false;     // as it said itself
  std::uint64_t mounts = 0;    // so many so far: the number of the last one
  bool is_draining = false;    // it is to get no new files
  bool is_removed = false;     // it left for good; only its id is still known
  std::int64_t since_ns = 0;   // of its last word

  [[nodiscard]] bool gets_new_files() const { return is_mounted && !is_draining; }
  bool operator==(const Member&) const = default;
};

struct Identity {
  std::string name, uuid;
};

inline rows::Key cluster_key() { return rows::Key('m').name("cluster"); }
inline rows::Key epoch_key() { return rows::Key('m').name("epoch"); }
inline rows::Key member_key(NodeId node) { return rows::Key('n').number(node); }
inline constexpr std::string_view kMemberPrefix = "n";

// nullopt: no cluster is founded there. Errors: EPROTO a row that this program does not understand.
Result<std::optional<Identity>> identity(const MetaStore& store);
// What a row says that to_row() made; nullopt: it is not understood.
std::optional<Identity> identity_in(std::string_view row);
std::string to_row(const Identity& identity);

Result<std::uint64_t> epoch(const MetaStore& store);
// In order of their ids; without those that were removed, as member().
Result<std::vector<Member>> members(const MetaStore& store);
Result<std::vector<Member>> all_members(const MetaStore& store);  // those that were removed too
Result<std::optional<Member>> member(const MetaStore& store, NodeId node);

// Makes `self` (found again by its pool) a member that is mounted; the value has its id. The epoch
// moves on if it is new or has another address. Errors: EEXIST another node has its name or its
// address; ENOSPC there are 65,536 nodes; EINVAL it was removed; those of commit().
enum class Entry { kNewMount, kAgain };  // kAgain: another worker of the mount that entered before
Result<Member> enter(MetaStore& store, Member self, Entry entry);
// It is not mounted any more.
Status leave(MetaStore& store, NodeId node);
// It is to get no new files, or is again. Errors: ENOENT there is no such node.
Status set_draining(MetaStore& store, NodeId node, bool is_draining);
// It belongs to the cluster no more; the epoch moves on. Its files are the caller's to look for.
// Errors: ENOENT; EBUSY it is mounted.
Status remove(MetaStore& store, NodeId node);

}  // namespace btd::cluster
