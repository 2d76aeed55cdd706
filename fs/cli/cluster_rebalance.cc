// btd cluster rebalance: moves files until the pools are filled alike.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "fs/cli/cluster.h"
#include "fs/cli/cluster_bring.h"
#include "fs/cli/cluster_files.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "net/etcd/etcd_store.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster rebalance --dry-run    what would be moved
  btd cluster rebalance

Pools whose used share is within 2 % of the mean are left alone, and so are nodes that are draining
or away. A file that is open or mapped stays. The exit code is 0 if all that were to move did, else
75.)";

class ClusterRebalanceCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("--cluster", file_, "The cluster file");
    take.flag("--dry-run", dry_run_, "Only show what would be moved");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
    BTD_ASSIGN(const ClusterNodes nodes, ask_nodes(options, *store));
    std::map<NodeId, cluster::PoolShare> pools;
    std::map<NodeId, std::vector<cluster::FileSize>> files;
    for (const auto& [node, room] : rooms(nodes)) {
      pools[node] = {.size = room.used + room.available, .used = room.used};
      const auto member = std::ranges::find(nodes.members, node, &cluster::Member::id);
      BTD_ASSIGN(const auto ids, files_of_home(*store, node));
      BTD_ASSIGN(files[node], sizes_of(options.security, nodes.epoch, *member, ids));
    }
    const auto plan = cluster::plan_rebalance(std::move(pools), std::move(files));
    std::map<InodeId, NodeId> targets;
    std::vector<InodeId> ids;
    for (const cluster::PlannedMove& move : plan) {
      targets[move.id] = move.to;
      ids.push_back(move.id);
    }
    BTD_ASSIGN(const auto paths, paths_of(*store, {ids.begin(), ids.end()}));
    Moved moved;
    if (!dry_run_) {
      Bringing bringing(options.security, nodes.epoch, nodes.members);
      BTD_ASSIGN(moved, bringing.run(ids, [&](InodeId id, const auto&) -> Result<NodeId> {
        return targets.at(id);
      }));
    }
    json_ ? print_json(nodes, plan, paths, moved) : print_text(nodes, plan, paths, moved);
    return moved.failures.empty() ? kExitOk : kExitBusy;
  }

 private:
  using Plan = std::vector<cluster::PlannedMove>;
  using Paths = std::map<InodeId, std::string>;

  static std::string name_of(const ClusterNodes& nodes, NodeId node) {
    const auto member = std::ranges::find(nodes.members, node, &cluster::Member::id);
    return member == nodes.members.end() ? std::to_string(node) : member->name;
  }

  void print_json(const ClusterNodes& nodes, const Plan& plan, const Paths& paths,
                  const Moved& moved) const {
    nlohmann::ordered_json planned = nlohmann::ordered_json::array(),
                           failures = nlohmann::ordered_json::array();
    for (const cluster::PlannedMove& move : plan)
      planned.push_back({{"path", paths.at(move.id)},
                         {"bytes", move.bytes},
                         {"from", name_of(nodes, move.from)},
                         {"to", name_of(nodes, move.to)}});
    for (const MoveFailure& one : moved.failures)
      failures.push_back({{"path", paths.at(one.id)}, {"why", one.error.message}});
    const nlohmann::ordered_json all = {{"planned", std::move(planned)},
                                        {"dry_run", dry_run_},
                                        {"moved", moved.files},
                                        {"bytes", moved.bytes},
                                        {"not_moved", std::move(failures)}};
    fmt::print("{}\n", all.dump(2));
  }

  void print_text(const ClusterNodes& nodes, const Plan& plan, const Paths& paths,
                  const Moved& moved) const {
    if (dry_run_) {
      std::vector<std::vector<std::string>> rows;
      for (const cluster::PlannedMove& move : plan)
        rows.push_back({paths.at(move.id), format_size(move.bytes), name_of(nodes, move.from),
                        name_of(nodes, move.to)});
      fmt::print("{}", format_table({{"FILE"}, {"SIZE", true}, {"FROM"}, {"TO"}}, rows));
      return;
    }
    for (const MoveFailure& one : moved.failures)
      print_error(paths.at(one.id), "not moved: " + one.error.message);
    fmt::print("{} moved\n", summary_of(moved));
  }

  std::string file_ = cluster::kDefaultFile;
  bool dry_run_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cluster_rebalance_command() {
  return std::make_unique<ClusterRebalanceCommand>();
}

}  // namespace btd::cli
