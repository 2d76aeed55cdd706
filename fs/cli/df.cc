// btd df: how full the pool of a mount is, and those of its cluster's other nodes. The numbers are
// those of statvfs(3), which the pool's own file system gives, so they agree with df(1).
#include <fmt/format.h>
#include <sys/statvfs.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "fs/cli/cluster_ask.h"
#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "fs/pool/sentences.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd df
  btd df /mnt/bartender --json | jq .available

Of a mount that is a node of a cluster, all nodes are shown: a file's data lie at its home.)";

struct Space {
  std::uint64_t size = 0, used = 0, available = 0;

  // As df(1) has it: of what users can have, rounded up.
  [[nodiscard]] std::uint64_t percent() const {
    const std::uint64_t all = used + available;
    return all == 0 ? 0 : (used * 100 + all - 1) / all;
  }
};

Result<Space> space_of(const std::string& directory) {
  struct statvfs info{};
  if (::statvfs(directory.c_str(), &info) != 0) {
    return errno_of(directory);
  }
  return Space{info.f_blocks * info.f_frsize, (info.f_blocks - info.f_bfree) * info.f_frsize,
               info.f_bavail * info.f_frsize};
}

struct NodeSpace {
  cluster::Member member;
  Space space;
  bool answers = false;  // else only its capacity is known
};

Space space_in(const nlohmann::json& said) {
  const auto space = said.value("space", nlohmann::json::object());
  return {space.value("size", std::uint64_t{0}), space.value("used", std::uint64_t{0}),
          space.value("available", std::uint64_t{0})};
}

NodeSpace node_in(const nlohmann::json& member) {
  NodeSpace node;
  node.member.id = member.at("id");
  node.member.name = member.at("name");
  node.member.address = member.at("address");
  node.member.domain = member.at("domain");
  node.member.is_mounted = member.at("mounted");
  node.space.size = member.at("capacity");
  return node;
}

// The others, by what this node knows of them: so etcd need not be there. Who may not read the
// cluster file sees no more than that.
Result<NodeAnswers> ask_others(const nlohmann::json& cluster, const std::vector<NodeSpace>& nodes) {
  BTD_ASSIGN(const cluster::Options options, cluster::load(cluster.at("file")));
  std::vector<cluster::Member> others;
  for (const NodeSpace& node : nodes)
    if (node.member.id != cluster.at("node").at("id")) others.push_back(node.member);
  return ask_members(options.security, cluster.at("epoch"), others);
}

// Empty where the mount is no node of a cluster.
Result<std::vector<NodeSpace>> nodes_of(const std::string& directory) {
  BTD_ASSIGN(const nlohmann::json status, daemon_status(directory));
  std::vector<NodeSpace> nodes;
  if (!status.is_object() || !status.contains("cluster")) return nodes;
  try {
    const nlohmann::json& cluster = status["cluster"];
    for (const auto& member : cluster.at("members")) nodes.push_back(node_in(member));
    const auto asked = ask_others(cluster, nodes);
    for (NodeSpace& node : nodes) {
      if (node.member.id == cluster.at("node").at("id")) {
        node.space = space_in(cluster);
        node.answers = true;
      } else if (asked && asked->contains(node.member.id)) {
        const NodeAnswer& answer = asked->at(node.member.id);
        node.answers = answer.said.has_value();
        if (node.answers) node.space = space_in(*answer.said);
      }
    }
  } catch (const nlohmann::json::exception&) {
    return fail(EBADMSG,
                "the daemons say something that is not understood; they are of another "
                "version");
  }
  return nodes;
}

class DfCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("DIR", directory_, "A mount, or any path in it; default: the only one there is");
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const MountEntry mount, find_mount(directory_));
    BTD_ASSIGN(const Space space, space_of(mount.directory));
    BTD_ASSIGN(const auto nodes, nodes_of(mount.directory));
    json_ ? print_json(mount, space, nodes) : print_table(mount, space, nodes);
    return kExitOk;
  }

 private:
  static nlohmann::ordered_json to_json(const Space& space) {
    return {{"size", space.size},
            {"used", space.used},
            {"available", space.available},
            {"used_percent", space.percent()}};
  }

  static void print_json(const MountEntry& mount, const Space& space,
                         const std::vector<NodeSpace>& nodes) {
    nlohmann::ordered_json row = {{"pool", mount.source}, {"directory", mount.directory}};
    row.update(to_json(space));
    for (const NodeSpace& node : nodes) {
      nlohmann::ordered_json one = {
          {"id", node.member.id}, {"name", node.member.name}, {"domain", node.member.domain}};
      if (node.answers) {
        one.update(to_json(node.space));
      } else {
        one["size"] = node.space.size;
      }
      one["answers"] = node.answers;
      row["nodes"].push_back(std::move(one));
    }
    fmt::print("{}\n", row.dump(2));
  }

  static std::vector<std::string> figures(const Space& space) {
    return {format_size(space.size), format_size(space.used), format_size(space.available),
            fmt::format("{}%", space.percent())};
  }

  static std::vector<std::string> unknown(const Space& space) {
    return {format_size(space.size), "-", "-", "-"};
  }

  static void print_table(const MountEntry& mount, const Space& space,
                          const std::vector<NodeSpace>& nodes) {
    std::vector<Column> head = {{"POOL"},       {"SIZE", true}, {"USED", true}, {"AVAILABLE", true},
                                {"USE%", true}, {"MOUNTED ON"}};
    std::vector<std::vector<std::string>> rows;
    if (nodes.empty()) {
      rows.push_back(figures(space));
      rows.back().insert(rows.back().begin(), mount.source);
      rows.back().push_back(mount.directory);
    } else {
      head.front() = {"NODE"};
      head.insert(head.begin() + 1, {"DOMAIN"});
      head.back() = {"STATE"};
    }
    for (const NodeSpace& node : nodes) {
      rows.push_back(node.answers ? figures(node.space) : unknown(node.space));
      rows.back().insert(rows.back().begin(), {node.member.name, node.member.domain});
      rows.back().emplace_back(node.answers             ? "mounted"
                               : node.member.is_mounted ? "not reached"
                                                        : "away");
    }
    fmt::print("{}", format_table(head, rows));
  }

  std::optional<std::string> directory_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_df_command() { return std::make_unique<DfCommand>(); }

}  // namespace btd::cli
