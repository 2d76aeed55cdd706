// The part of the status that tells of the node's cluster.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace btd {

class ClusterNode;

[[nodiscard]] nlohmann::json status_of(ClusterNode& node);
// Lines of `btd status`, of what status_of() said.
[[nodiscard]] std::string cluster_text(const nlohmann::json& cluster);

}  // namespace btd
