// btd cluster: the table of its commands.
#include "fs/cli/cluster.h"

#include <vector>

#include "fs/cli/cluster_dev.h"
#include "fs/cli/command_group.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster init --cluster FILE /var/lib/bartender
  btd cluster nodes --cluster FILE
  btd cluster health --why --cluster FILE
  btd cluster move /mnt/bartender/file --to n2
  btd cluster drain n1         then unmount it, and: btd cluster remove n1
  btd cluster dev 3            three nodes and etcd on this machine, to try and to test
  btd cluster dev status
  btd cluster dev stop

`btd cluster COMMAND --help` explains each; btd-cluster.1 explains the rest.)";

}  // namespace

std::unique_ptr<Command> make_cluster_command() {
  return std::make_unique<CommandGroup>(
      std::vector<CommandGroup::Entry>{
          {"init", "Found a cluster with the names of a pool", make_cluster_init_command},
          {"nodes", "Who belongs to the cluster", make_cluster_nodes_command},
          {"health", "How its nodes and etcd are, and why", make_cluster_health_command},
          {"move", "Give files another home", make_cluster_move_command},
          {"drain", "Move all files of a node to others", make_cluster_drain_command},
          {"rebalance", "Fill the pools alike", make_cluster_rebalance_command},
          {"remove", "Let a drained node leave for good", make_cluster_remove_command},
          {"dev", "A cluster on this machine, to try and to test", make_cluster_dev_command}},
      kExamples);
}

}  // namespace btd::cli
