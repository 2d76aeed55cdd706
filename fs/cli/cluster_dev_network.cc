#include "fs/cli/cluster_dev_network.h"

#include <fmt/format.h>
#include <unistd.h>

#include <vector>

#include "fs/pool/run_program.h"

namespace btd::cli::dev {
namespace {

constexpr const char* kBridge = "br0";
constexpr const char* kQueue = "100000";  // packets under way that a delay holds; more get lost
constexpr const char* kLink = "eth0";     // of each host
constexpr const char* kNobody = "02:00:00:00:00:00";  // a local hardware address

Status must(const std::vector<std::string>& command) {
  const RunResult done = run_program(command);
  if (done.code == 0) return {};
  if (!done.started)
    return fail(EOPNOTSUPP,
                fmt::format("{} is not there; `apt install iproute2` brings it", command.front()));
  return fail(EIO, fmt::format("`{}` failed: {}", fmt::join(command, " "), done.errors));
}

// The name of the host's port at the bridge is the host's.
Status set_port(const State& state, const Host& host, bool forwards) {
  return must({"bridge", "-n", state.hub(), "link", "set", "dev", host.name(), "state",
               forwards ? "3" : "0"});
}

Status add_netem(const State& state, const Host& host) {
  const RunResult done = run_program(
      {"tc", "-n", state.network(host), "qdisc", "add", "dev", kLink, "root", "netem", "limit",
       kQueue, "delay", fmt::format("{}ms", state.delay), "loss", fmt::format("{}%", state.loss)});
  if (done.code == 0) return {};
  if (done.errors.find("kind is unknown") == std::string::npos)
    return fail(EIO, "tc could not set delay and loss: " + done.errors);
  return fail(EOPNOTSUPP,
              "--delay and --loss need the kernel's sch_netem, and this one has it neither built "
              "in nor as a module that can be loaded; `modprobe sch_netem` tells more, or start "
              "without them");
}

Status remove_one(const std::string& network) {
  if (!has_network(network)) return {};
  return must({"ip", "netns", "delete", network});
}

}  // namespace

std::string network_path(const std::string& network) { return "/run/netns/" + network; }

bool has_network(const std::string& network) {
  return ::access(network_path(network).c_str(), F_OK) == 0;
}

Status make_hub(const State& state) {
  const std::string hub = state.hub();
  BTD_TRY(must({"ip", "netns", "add", hub}));
  BTD_TRY(must({"ip", "-n", hub, "link", "add", "name", kBridge, "type", "bridge", "stp_state", "0",
                "mcast_snooping", "0"}));
  return must({"ip", "-n", hub, "link", "set", "dev", kBridge, "up"});
}

Status join_network(const State& state, const Host& host) {
  const std::string hub = state.hub(), network = state.network(host), port = host.name();
  BTD_TRY(must({"ip", "netns", "add", network}));
  BTD_TRY(must({"ip", "-n", hub, "link", "add", "name", port, "type", "veth", "peer", "name", kLink,
                "netns", network}));
  BTD_TRY(must({"ip", "-n", hub, "link", "set", "dev", port, "master", kBridge, "up"}));
  BTD_TRY(must({"ip", "-n", network, "link", "set", "dev", "lo", "up"}));
  BTD_TRY(must({"ip", "-n", network, "address", "add", host.address() + "/24", "dev", kLink}));
  BTD_TRY(must({"ip", "-n", network, "link", "set", "dev", kLink, "up"}));
  return state.delay == 0 && state.loss == 0 ? Status() : add_netem(state, host);
}

Status remove_network(const State& state) {
  for (const Host& host : state.hosts) BTD_TRY(remove_one(state.network(host)));
  return remove_one(state.hub());
}

Status set_cut(const State& state, const Host& host, bool is_cut) {
  return set_port(state, host, !is_cut);
}

Status set_cut(const State& state, const Host& one, const Host& other, bool is_cut) {
  for (const auto& [from, to] : {std::pair{&one, &other}, std::pair{&other, &one}}) {
    const std::string network = state.network(*from), address = to->address();
    if (is_cut) {
      BTD_TRY(must({"ip", "-n", network, "neighbour", "replace", address, "lladdr", kNobody, "dev",
                    kLink, "nud", "permanent"}));
    } else {
      BTD_TRY(must({"ip", "-n", network, "neighbour", "delete", address, "dev", kLink}));
    }
  }
  return {};
}

}  // namespace btd::cli::dev
