// btd cluster health: asks every node how it is.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fs/cli/cluster.h"
#include "fs/cli/cluster_ask.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster health
  btd cluster health --why                     what is waited for, and for how long
  btd cluster health --cluster FILE --json | jq '.nodes[] | select(.state != "well")'

Asks each node that is mounted. The exit code is 0 if all of them are well, else 69.)";

struct Health {
  cluster::Member member;
  std::string state;  // "well", "unwell", "away", "does not answer"
  std::vector<std::string> why;
  std::optional<double> ms;  // until it answered
};

// Sentences, of what a node said of itself. It may be of another version: what is not there is not
// looked at.
std::vector<std::string> troubles(const nlohmann::json& said) {
  std::vector<std::string> why;
  const auto etcd = said.value("etcd", nlohmann::json::object());
  if (!etcd.value("follows", false) || !etcd.value("answers", false))
    why.push_back("etcd is away: " + etcd.value("trouble", std::string("it does not answer")));
  for (const auto& wait : etcd.value("waits", nlohmann::json::array()))
    why.push_back(fmt::format("waits for {:.1f} s: {}", wait.value("seconds", 0.0),
                              wait.value("why", std::string())));
  for (const auto& wait : said.value("waits", nlohmann::json::array()))
    why.push_back(fmt::format("waits for {:.1f} s for node {}, the home of a file",
                              wait.value("seconds", 0.0), wait.value("home", 0)));
  return why;
}

Health judge(const cluster::Member& member, const ClusterNodes& nodes) {
  Health health{.member = member, .state = "away", .why = {}, .ms = {}};
  const auto found = nodes.answers.find(member.id);
  if (found == nodes.answers.end()) return health;
  const NodeAnswer& answer = found->second;
  if (!answer.said) {
    health.state = "does not answer";
    health.why = {answer.why_not};
    return health;
  }
  health.ms = answer.ms;
  try {
    health.why = troubles(*answer.said);
  } catch (const nlohmann::json::exception&) {
    health.why = {"it says something that is not understood; it is of another version"};
  }
  health.state = health.why.empty() ? "well" : "unwell";
  return health;
}

class ClusterHealthCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.option("--cluster", file_, "The cluster file");
    take.flag("--why", why_, "Say what is wrong, and what is waited for");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(const ClusterNodes nodes, ask_nodes(options));
    std::vector<Health> all;
    for (const cluster::Member& member : nodes.members) all.push_back(judge(member, nodes));
    json_ ? print_json(all) : print_table(all);
    const bool is_well = std::ranges::all_of(
        all, [](const Health& one) { return one.state == "well" || one.state == "away"; });
    return is_well ? kExitOk : kExitUnavailable;
  }

 private:
  static void print_json(const std::vector<Health>& all) {
    nlohmann::ordered_json nodes = nlohmann::ordered_json::array();
    for (const Health& one : all) {
      nodes.push_back({{"id", one.member.id},
                       {"name", one.member.name},
                       {"address", one.member.address},
                       {"state", one.state},
                       {"why", one.why}});
      if (one.ms) nodes.back()["answered_ms"] = *one.ms;
    }
    fmt::print("{}\n", nlohmann::ordered_json{{"nodes", std::move(nodes)}}.dump(2));
  }

  void print_table(const std::vector<Health>& all) const {
    std::vector<std::vector<std::string>> rows;
    rows.reserve(all.size());
    for (const Health& one : all)
      rows.push_back({std::to_string(one.member.id), one.member.name, one.member.address, one.state,
                      one.ms ? fmt::format("{:.1f} ms", *one.ms) : "-"});
    fmt::print("{}",
               format_table({{"ID", true}, {"NAME"}, {"ADDRESS"}, {"STATE"}, {"ANSWERED IN", true}},
                            rows));
    for (const Health& one : all)
      for (const std::string& why : one.why)
        if (why_) fmt::print("{}: {}\n", one.member.name, why);
    const bool is_hidden =
        !why_ && std::ranges::any_of(all, [](const Health& one) { return !one.why.empty(); });
    if (is_hidden) fmt::print("`btd cluster health --why` says what is wrong.\n");
  }

  std::string file_ = cluster::kDefaultFile;
  bool why_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cluster_health_command() {
  return std::make_unique<ClusterHealthCommand>();
}

}  // namespace btd::cli
