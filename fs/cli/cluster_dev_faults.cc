// Faults of a development cluster, and commands inside of one host.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "fs/cli/cluster_dev.h"
#include "fs/cli/cluster_dev_hosts.h"
#include "fs/cli/cluster_dev_network.h"
#include "fs/cli/cluster_dev_process.h"
#include "fs/pool/sentences.h"

namespace btd::cli::dev {
namespace {

constexpr std::chrono::seconds kPatience{10};

Status for_each(State& state, const std::string& target,
                const std::function<Status(Host&)>& action) {
  BTD_ASSIGN(const std::vector<Host*> hosts, hosts_of(state, target));
  for (Host* const host : hosts) BTD_TRY(action(*host));
  return save_state(state);
}

Status must_run(const State& state, const Host& host) {
  if (life_of(host.process) != Life::kNone) return {};
  if (!host.is_etcd && !state.has_daemons)
    return fail(ENOENT, fmt::format("{} has no daemon: the cluster was started --without-daemons",
                                    host.name()));
  return fail(ENOENT, fmt::format("{} does not run; `btd cluster dev start {}` starts it",
                                  host.name(), host.target()));
}

Status heal(State& state, Host& host) {
  if (host.is_cut) BTD_TRY(set_cut(state, host, false));
  host.is_cut = false;
  for (const std::string& name : std::exchange(host.cut_from, {})) {
    BTD_ASSIGN(const std::vector<Host*> others, hosts_of(state, name));
    for (Host* const other : others) {
      BTD_TRY(set_cut(state, host, *other, false));
      std::erase(other->cut_from, host.name());
    }
  }
  return {};
}

Status cut_from(State& state, Host& host, Host& other) {
  if (&host == &other) return fail(EINVAL, host.name() + " cannot be cut from itself");
  if (std::ranges::count(host.cut_from, other.name()) != 0) return {};
  BTD_TRY(set_cut(state, host, other, true));
  host.cut_from.push_back(other.name());
  other.cut_from.push_back(host.name());
  return {};
}

}  // namespace

Status kill_hosts(State& state, const std::string& target) {
  return for_each(state, target, [&](Host& host) -> Status {
    if (!host.is_etcd && !state.has_daemons) return must_run(state, host);
    BTD_TRY(kill_host(state, host, daemons_of(state, host)));
    host.process = {};
    return {};
  });
}

Status pause_hosts(State& state, const std::string& target) {
  return for_each(state, target, [&](Host& host) -> Status {
    BTD_TRY(must_run(state, host));
    return stop_all(daemons_of(state, host), after(kPatience));
  });
}

Status resume_hosts(State& state, const std::string& target) {
  return for_each(state, target, [&](Host& host) -> Status {
    BTD_TRY(must_run(state, host));
    continue_all(daemons_of(state, host));
    return {};
  });
}

Status restart_hosts(State& state, const std::string& target) {
  BTD_ASSIGN(std::vector<Host*> hosts, hosts_of(state, target));
  std::erase_if(hosts, [](const Host* host) { return life_of(host->process) != Life::kNone; });
  for (Host* const host : hosts) {
    if (!host->is_etcd && !state.has_daemons) return must_run(state, *host);
    // Whatever a daemon that died by itself has left.
    BTD_TRY(kill_host(state, *host, daemons_of(state, *host)));
    if (host->is_etcd) {
      BTD_TRY(launch_etcd(state, *host));
      continue;
    }
    BTD_TRY(detach_mount(state, *host));
    BTD_TRY(start_node(state, *host));
  }
  for (const Host* const host : hosts)
    if (host->is_etcd) BTD_TRY(wait_for_etcd(state, *host));
  return {};
}

Status cut_hosts(State& state, const std::string& target, const std::string& from) {
  return for_each(state, target, [&](Host& host) -> Status {
    if (from.empty()) {
      BTD_TRY(set_cut(state, host, true));
      host.is_cut = true;
      return {};
    }
    BTD_ASSIGN(const std::vector<Host*> others, hosts_of(state, from));
    for (Host* const other : others) BTD_TRY(cut_from(state, host, *other));
    return {};
  });
}

Status heal_hosts(State& state, const std::string& target) {
  if (!target.empty())
    return for_each(state, target, [&](Host& host) { return heal(state, host); });
  for (Host& host : state.hosts) BTD_TRY(heal(state, host));
  return save_state(state);
}

Status execute(const State& state, const std::string& target,
               const std::vector<std::string>& command) {
  State copy = state;
  BTD_ASSIGN(const std::vector<Host*> hosts, hosts_of(copy, target));
  BTD_TRY(enter_network(state.network(*hosts.front())));
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  ::execvp(words.front(), words.data());
  return errno_of(command.front());
}

}  // namespace btd::cli::dev
