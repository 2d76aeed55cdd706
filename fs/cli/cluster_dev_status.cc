// What a development cluster consists of and what of it lives, for people and for programs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "fs/cli/cluster_dev.h"
#include "fs/cli/cluster_dev_hosts.h"
#include "fs/cli/cluster_dev_network.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"

namespace btd::cli::dev {
namespace {

std::string life(const State& state, const Host& host) {
  switch (life_of(host.process)) {
    case Life::kRuns:
      return "runs";
    case Life::kPaused:
      return "paused";
    case Life::kNone:
      break;
  }
  return host.is_etcd || state.has_daemons ? "dead" : "none";
}

std::string network(const State& state, const Host& host) {
  if (!has_network(state.network(host))) return "missing";
  if (host.is_cut) return "cut";
  return host.cut_from.empty() ? "joined"
                               : fmt::format("cut from {}", fmt::join(host.cut_from, ", "));
}

nlohmann::ordered_json as_json(const State& state, const Host& host) {
  nlohmann::ordered_json json = {{"name", host.name()},
                                 {"address", host.address()},
                                 {"state", life(state, host)},
                                 {"pid", host.process.pid},
                                 {"network", network(state, host)},
                                 {"namespace", state.network(host)},
                                 {"log", state.log(host)}};
  if (host.is_etcd) {
    json["endpoint"] = host.endpoint();
  } else if (state.has_daemons) {
    json["pool"] = state.pool(host);
    json["cluster_file"] = state.cluster_file(host);
    json["mount"] = state.mount(host);
    json["mounted"] = is_mounted(state, host);
  }
  return json;
}

}  // namespace

std::string describe_as_json(const State& state) {
  nlohmann::ordered_json json = {{"directory", state.directory},
                                 {"complete", state.is_complete},
                                 {"hub", state.hub()},
                                 {"key", state.key()},
                                 {"size", state.size},
                                 {"delay_ms", state.delay},
                                 {"loss_percent", state.loss},
                                 {"etcd", nlohmann::ordered_json::array()},
                                 {"nodes", nlohmann::ordered_json::array()}};
  for (const Host& host : state.hosts)
    json[host.is_etcd ? "etcd" : "nodes"].push_back(as_json(state, host));
  return json.dump(2) + "\n";
}

std::string describe(const State& state) {
  std::vector<std::vector<std::string>> rows;
  for (const Host& host : state.hosts) {
    const bool has_mount = !host.is_etcd && state.has_daemons && is_mounted(state, host);
    rows.push_back({host.name(), host.address(), life(state, host),
                    host.process.pid == 0 ? "-" : std::to_string(host.process.pid),
                    network(state, host), has_mount ? state.mount(host) : "-"});
  }
  std::string text =
      format_table({{"HOST"}, {"ADDRESS"}, {"STATE"}, {"PID", true}, {"NETWORK"}, {"MOUNT"}}, rows);
  if (!state.is_complete)
    text += fmt::format("Its start was cut off; `btd cluster dev stop --dir {}` removes it.\n",
                        state.directory);
  return text;
}

}  // namespace btd::cli::dev
