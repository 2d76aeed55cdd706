// btd cluster nodes: who belongs to the cluster, as etcd has it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "fs/cli/cluster.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "fs/cluster/members.h"
#include "fs/cluster/options.h"
#include "net/etcd/etcd_store.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster nodes
  btd cluster nodes --cluster FILE --json | jq '.nodes[].name')";

std::string time_text(std::int64_t ns) {
  return fmt::format("{:%F %T}", fmt::localtime(static_cast<std::time_t>(ns / 1'000'000'000)));
}

class ClusterNodesCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("--cluster", file_, "The cluster file");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
    BTD_ASSIGN(const auto identity, cluster::identity(*store));
    if (!identity)
      return fail(ENOENT,
                  fmt::format("there is no cluster '{}' in etcd; found it with `btd cluster "
                              "init`",
                              options.name));
    BTD_ASSIGN(const std::uint64_t epoch, cluster::epoch(*store));
    BTD_ASSIGN(const auto members, cluster::members(*store));
    if (json_) {
      print_json(*identity, epoch, members);
    } else {
      print_table(members);
    }
    return kExitOk;
  }

 private:
  static void print_json(const cluster::Identity& identity, std::uint64_t epoch,
                         const std::vector<cluster::Member>& members) {
    nlohmann::ordered_json nodes = nlohmann::ordered_json::array();
    for (const cluster::Member& m : members)
      nodes.push_back({{"id", m.id},
                       {"name", m.name},
                       {"address", m.address},
                       {"domain", m.domain},
                       {"pool", m.pool},
                       {"capacity", m.capacity},
                       {"program", m.version},
                       {"mounted", m.is_mounted},
                       {"draining", m.is_draining},
                       {"since_ns", m.since_ns}});
    const nlohmann::ordered_json all = {{"cluster", identity.name},
                                        {"uuid", identity.uuid},
                                        {"epoch", epoch},
                                        {"nodes", std::move(nodes)}};
    fmt::print("{}\n", all.dump(2));
  }

  static void print_table(const std::vector<cluster::Member>& members) {
    std::vector<std::vector<std::string>> rows;
    rows.reserve(members.size());
    for (const cluster::Member& m : members)
      rows.push_back({std::to_string(m.id), m.name, m.address, m.domain, format_size(m.capacity),
                      fmt::format("{}{}", m.is_mounted ? "mounted" : "away",
                                  m.is_draining ? ", draining" : ""),
                      time_text(m.since_ns)});
    fmt::print("{}", format_table({{"ID", true},
                                   {"NAME"},
                                   {"ADDRESS"},
                                   {"DOMAIN"},
                                   {"CAPACITY", true},
                                   {"STATE"},
                                   {"SINCE"}},
                                  rows));
  }

  std::string file_ = cluster::kDefaultFile;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cluster_nodes_command() {
  return std::make_unique<ClusterNodesCommand>();
}

}  // namespace btd::cli
