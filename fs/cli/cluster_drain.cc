// btd cluster drain: moves all files of a node to the others.
#include <fmt/format.h>

#include <algorithm>
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
  btd cluster drain n1
  btd cluster drain n1 --json | jq '.not_moved[]'
  btd cluster drain --cancel n1      it may get new files again; what was moved stays where it is

From its begin on the node gets no new files. A file that is open or mapped stays, and is named with
who has it open. The exit code is 0 if no file is left, else 75: run it again for the rest.)";

class ClusterDrainCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("NODE", node_, "Its name or id");
    take.option("--cluster", file_, "The cluster file");
    take.flag("--cancel", cancel_, "Let the node get new files again; nothing is moved");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
    BTD_ASSIGN(const ClusterNodes nodes, ask_nodes(options, *store));
    BTD_ASSIGN(const cluster::Member from, find_node(nodes.members, node_));
    if (cancel_) {
      BTD_TRY(cluster::set_draining(*store, from.id, false));
      return kExitOk;
    }
    std::map<NodeId, NodeRoom> targets = rooms(nodes);
    targets.erase(from.id);
    BTD_TRY(judge(options, *store, nodes, from, targets));
    BTD_TRY(cluster::set_draining(*store, from.id, true));
    BTD_ASSIGN(const Moved moved, move_all(options, *store, nodes, from, targets));
    BTD_ASSIGN(const auto left, files_of_home(*store, from.id));
    BTD_ASSIGN(const auto paths, paths_of(*store, {left.begin(), left.end()}));
    json_ ? print_json(from, moved, left, paths) : print_text(from, moved, left, paths);
    return left.empty() ? kExitOk : kExitBusy;
  }

 private:
  using Targets = std::map<NodeId, NodeRoom>;
  using Ids = std::vector<InodeId>;
  using Paths = std::map<InodeId, std::string>;

  // Before anything is moved: whether all can be.
  static Status judge(const cluster::Options& options, const MetaStore& store,
                      const ClusterNodes& nodes, const cluster::Member& from,
                      const Targets& targets) {
    BTD_ASSIGN(const auto ids, files_of_home(store, from.id));
    if (ids.empty()) return {};
    BTD_TRY(must_answer(nodes, from));
    if (targets.empty()) return fail(ENOSPC, "no other node is mounted that could take the files");
    BTD_ASSIGN(const auto sizes, sizes_of(options.security, nodes.epoch, from, ids));
    std::uint64_t bytes = 0, room = 0;
    for (const cluster::FileSize& file : sizes) bytes += file.bytes;
    for (const auto& [node, target] : targets) room += target.available;
    if (bytes <= room) return {};
    return fail(ENOSPC, fmt::format("the files of {} have {}, and the other nodes have room for {}",
                                    from.name, format_size(bytes), format_size(room)));
  }

  // Files may come while it is at work, from requests that were under way.
  static Result<Moved> move_all(const cluster::Options& options, const MetaStore& store,
                                const ClusterNodes& nodes, const cluster::Member& from,
                                Targets& targets) {
    constexpr int kRounds = 3;
    Moved all;
    Bringing bringing(options.security, nodes.epoch, nodes.members);
    for (int round = 0; round < kRounds; ++round) {
      BTD_ASSIGN(const auto ids, files_of_home(store, from.id));
      BTD_ASSIGN(Moved moved, bringing.run(
                                  ids,
                                  [&](InodeId, const Bringing::Refused& refused) {
                                    return emptiest(targets, refused);
                                  },
                                  [&](NodeId node, const cluster::BringResponse& response) {
                                    targets[node].available = response.available;
                                  }));
      all.files += moved.files;
      all.bytes += moved.bytes;
      all.failures = std::move(moved.failures);
      if (ids.empty() || moved.files == 0) break;
    }
    return all;
  }

  static Result<NodeId> emptiest(const Targets& targets, const Bringing::Refused& refused) {
    const auto room = [&](const auto& one) {
      return refused.contains(one.first) ? 0 : one.second.available;
    };
    const auto best = std::ranges::max_element(targets, {}, room);
    if (best == targets.end() || room(*best) == 0)
      return fail(EDQUOT, "no other node has room for it");
    return best->first;
  }

  static std::string why_of(const Moved& moved, InodeId id) {
    const auto found = std::ranges::find(moved.failures, id, &MoveFailure::id);
    return found == moved.failures.end() ? "it came meanwhile" : found->error.message;
  }

  static void print_json(const cluster::Member& from, const Moved& moved, const Ids& left,
                         const Paths& paths) {
    nlohmann::ordered_json not_moved = nlohmann::ordered_json::array();
    for (const InodeId id : left)
      not_moved.push_back({{"id", id}, {"path", paths.at(id)}, {"why", why_of(moved, id)}});
    const nlohmann::ordered_json all = {{"node", from.name},
                                        {"moved", moved.files},
                                        {"bytes", moved.bytes},
                                        {"not_moved", std::move(not_moved)}};
    fmt::print("{}\n", all.dump(2));
  }

  static void print_text(const cluster::Member& from, const Moved& moved, const Ids& left,
                         const Paths& paths) {
    for (const InodeId id : left) print_error(paths.at(id), "not moved: " + why_of(moved, id));
    fmt::print("{} moved from {}; {} left\n", summary_of(moved), from.name, left.size());
  }

  std::string node_, file_ = cluster::kDefaultFile;
  bool cancel_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cluster_drain_command() {
  return std::make_unique<ClusterDrainCommand>();
}

}  // namespace btd::cli
