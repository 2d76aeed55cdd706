// One host of a development cluster: how its member of etcd or its node begins and ends.
// Every wait has a deadline. Whoever calls holds the cluster's lock.
#pragma once

#include "alloc/result.h"
#include "fs/cli/cluster_dev_process.h"
#include "fs/cli/cluster_dev_state.h"

namespace btd::cli::dev {

Status make_etcd(const State& state, const Host& member);
// Starts a member without waiting, and writes its pid to the state.
Status launch_etcd(State& state, Host& member);
// Until it has a leader. Errors: those with the last line of its log.
Status wait_for_etcd(const State& state, const Host& member);

// A node's directories, its file and its pool.
Status make_node(State& state, const Host& node);
// Once for the cluster: moves the namespace of the first node's pool to etcd.
Status init_cluster(const State& state, const Host& first);
// Until its mount answers.
Status start_node(State& state, Host& node);

// Kills what `belongs` to the host, and returns when it has ended. What waits in the kernel for a
// request of its own mount ends with that mount's connection.
Status kill_host(const State& state, const Host& host, const Belongs& belongs);

[[nodiscard]] bool is_mounted(const State& state, const Host& node);
// Of a mount whose daemon is gone, and of the pool: whatever is ours there is detached. Errors:
// EBUSY what is mounted there is not ours.
Status detach_mount(const State& state, const Host& node);
Status detach_pool(const State& state, const Host& node);

// The directories to make for `path` to be there, outer ones first.
[[nodiscard]] std::vector<std::string> missing_directories(const std::string& path);
// Makes a directory with those above it; `made` has them before they are there.
Status make_directory(State& state, const std::string& path);

}  // namespace btd::cli::dev
