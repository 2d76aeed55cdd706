// The network of a development cluster: a namespace for each host, and one more with the bridge
// that joins them. Nothing of it is in the machine's own network, so it meets no address of others.
//
// A host is cut off by the bridge, which then passes nothing through its port: the host's side
// looks as ever. Two hosts are cut from each other by a hardware address that nobody has. Uses
// iproute2 (`ip`, `bridge`, `tc`); keeps nothing.
#pragma once

#include <string>

#include "alloc/result.h"
#include "fs/cli/cluster_dev_state.h"

namespace btd::cli::dev {

[[nodiscard]] std::string network_path(const std::string& network);
[[nodiscard]] bool has_network(const std::string& network);

// Errors: EOPNOTSUPP the kernel has no netem for a delay or a loss.
Status make_hub(const State& state);
Status join_network(const State& state, const Host& host);

// Also what is there in part, or is gone already.
Status remove_network(const State& state);

Status set_cut(const State& state, const Host& host, bool is_cut);
Status set_cut(const State& state, const Host& one, const Host& other, bool is_cut);

}  // namespace btd::cli::dev
