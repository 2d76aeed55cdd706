// The commands of `btd cluster`.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "fs/cli/command.h"

namespace btd::cli {

std::unique_ptr<Command> make_cluster_init_command();
std::unique_ptr<Command> make_cluster_nodes_command();
std::unique_ptr<Command> make_cluster_health_command();
std::unique_ptr<Command> make_cluster_move_command();
std::unique_ptr<Command> make_cluster_drain_command();
std::unique_ptr<Command> make_cluster_remove_command();
std::unique_ptr<Command> make_cluster_rebalance_command();

}  // namespace btd::cli
