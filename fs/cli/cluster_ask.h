// Asks the nodes of a cluster how they are: what `btd cluster health` and `btd df` show.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "fs/cluster/members.h"
#include "fs/cluster/options.h"

namespace btd::cli {

// What a node said: the cluster's part of its status, or why it said nothing.
struct NodeAnswer {
  std::optional<nlohmann::json> said;
  std::string why_not;
  double ms = 0;  // until it answered
};

using NodeAnswers = std::map<NodeId, NodeAnswer>;

// Those of them that are mounted, all at once, for at most 16 seconds. Errors: those of the engine.
Result<NodeAnswers> ask_members(const net::Security& security, net::Epoch epoch,
                                const std::vector<cluster::Member>& members);

struct ClusterNodes {
  net::Epoch epoch = 0;
  std::vector<cluster::Member> members;
  NodeAnswers answers;
};

// Who they are etcd says. Errors: ENOENT there is no such cluster; those of etcd.
Result<ClusterNodes> ask_nodes(const cluster::Options& options);
// The same of a store that is open.
Result<ClusterNodes> ask_nodes(const cluster::Options& options, const MetaStore& store);

}  // namespace btd::cli
