// The development cluster: N nodes and etcd on one machine, each in a network namespace that plays
// its host. What its commands share stands in the cluster_dev_*.h:
//
//   state    what was made, in DIR/state.json; written before it is made, so that `stop` finds it
//   network  namespaces, the bridge between them, delay, loss and cuts
//   process  programs in a namespace, and signals that reach no process of others
//   hosts    one member of etcd, one node: begin and end
//
// One process at a time changes a cluster: it holds the lock of DIR.
#pragma once

#include <memory>

#include "fs/cli/cluster_dev_state.h"
#include "fs/cli/command.h"

namespace btd::cli {

std::unique_ptr<Command> make_cluster_dev_command();

namespace dev {

inline constexpr const char* kDefaultDirectory = "/var/lib/bartender-dev";
inline constexpr const char* kDefaultMounts = "/mnt/bartender-dev";
inline constexpr const char* kDefaultSize = "256M";

struct StartOptions {
  std::uint64_t nodes = 0;
  std::uint64_t etcd = 1;   // members
  std::string directory;    // absolute
  std::string mounts;       // absolute
  std::uint64_t size = 0;   // of each pool, bytes
  std::uint64_t delay = 0;  // milliseconds, each way
  std::uint64_t loss = 0;   // percent
  bool has_daemons = true;  // false: network and etcd only
};

// Both or neither: a start that fails ends what it began.
Result<State> start_cluster(const StartOptions& options);

// Ends and removes what the state names. False: there was nothing.
Result<bool> stop_cluster(const std::string& directory);
// The same for who holds the lock. What is gone already is passed over.
Status clear_cluster(State& state);

// For people, and for programs.
std::string describe(const State& state);
std::string describe_as_json(const State& state);

// `target` as hosts_of() takes it.
Status kill_hosts(State& state, const std::string& target);
Status pause_hosts(State& state, const std::string& target);
Status resume_hosts(State& state, const std::string& target);
Status restart_hosts(State& state, const std::string& target);
// From all others, or from those of `from` alone.
Status cut_hosts(State& state, const std::string& target, const std::string& from);
// Empty: all.
Status heal_hosts(State& state, const std::string& target);

// Becomes the command, in the network of one host. Returns only with an error.
Status execute(const State& state, const std::string& target,
               const std::vector<std::string>& command);

}  // namespace dev
}  // namespace btd::cli
