// The files of a cluster by their homes, as the namespace's rows and the homes tell, and who is to
// get one: what the commands that move files have in common.
// Reads only; one thread.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/cli/cluster_ask.h"
#include "fs/cluster/rebalance.h"

namespace btd::cli {

// Regular files with a name, whose data lie at `home`.
Result<std::vector<InodeId>> files_of_home(const MetaStore& store, NodeId home);
// One path of each, from the root of the mount; as "file ID" where none is found.
Result<std::map<InodeId, std::string>> paths_of(const MetaStore& store,
                                                const std::set<InodeId>& ids);

// What of the files takes space, as their home says; those it does not know any more are left out.
// Errors: EHOSTUNREACH it does not answer.
Result<std::vector<cluster::FileSize>> sizes_of(const net::Security& security, net::Epoch epoch,
                                                const cluster::Member& home,
                                                const std::vector<InodeId>& ids);

// Of what a node says: its pool.
struct NodeRoom {
  std::uint64_t size = 0, used = 0, available = 0;
};
NodeRoom room_in(const nlohmann::json& said);

// By name or by id. Errors: ENOENT with those that there are.
Result<cluster::Member> find_node(const std::vector<cluster::Member>& members,
                                  const std::string& node);
// Errors: EHOSTUNREACH it is not mounted, or does not answer, with why.
Status must_answer(const ClusterNodes& nodes, const cluster::Member& node);
// Those that files may be moved to: they answer, and are not draining.
std::map<NodeId, NodeRoom> rooms(const ClusterNodes& nodes);

}  // namespace btd::cli
