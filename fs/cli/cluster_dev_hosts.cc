#include "fs/cli/cluster_dev_hosts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <toml++/toml.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>

#include "fs/cli/cluster_dev_network.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/paths.h"
#include "fs/daemon/mounting.h"
#include "fs/pool/pool.h"
#include "fs/pool/sentences.h"
#include "net/etcd/client.h"

namespace btd::cli::dev {
namespace {

constexpr std::chrono::seconds kEtcdPatience{30};
constexpr std::chrono::seconds kInitPatience{60};
constexpr std::chrono::seconds kMountPatience{60};
constexpr std::chrono::seconds kRequestPatience{2};
constexpr std::chrono::seconds kKillPatience{2}, kLastKillPatience{10};
constexpr std::chrono::milliseconds kPause{20};
constexpr int kMostMounts = 16;  // one above the other
constexpr const char* kSelf = "/proc/self/exe";

// How long a heartbeat takes to come back is part of etcd's patience.
constexpr std::uint64_t kHeartbeat = 100, kElection = 10;  // ms, and heartbeats

std::string last_line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line, last;
  while (std::getline(file, line))
    if (!line.empty()) last = line;
  constexpr std::size_t kShown = 400;
  return last.empty() ? "nothing" : last.substr(0, kShown);
}

std::unexpected<Error> ended_early(const State& state, const Host& host, const char* what) {
  return fail(
      EIO, fmt::format("{} of {} ended while it started; the last that it says in {} is: {}", what,
                       host.name(), state.log(host), last_line_of(state.log(host))));
}

std::string peer_of(const Host& member) { return fmt::format("http://{}:2380", member.address()); }

std::vector<std::string> etcd_command(const State& state, const Host& member) {
  std::string peers;
  for (const Host& one : state.hosts) {
    if (!one.is_etcd) continue;
    peers += fmt::format("{}{}={}", peers.empty() ? "" : ",", one.name(), peer_of(one));
  }
  const std::string clients = member.endpoint();
  const std::uint64_t heartbeat = kHeartbeat + 2 * state.delay;
  return {"etcd",
          "--name",
          member.name(),
          "--data-dir",
          state.home(member) + "/data",
          "--listen-client-urls",
          clients + ",http://127.0.0.1:2379",
          "--advertise-client-urls",
          clients,
          "--listen-peer-urls",
          peer_of(member),
          "--initial-advertise-peer-urls",
          peer_of(member),
          "--initial-cluster",
          peers,
          "--initial-cluster-token",
          state.id,
          "--heartbeat-interval",
          std::to_string(heartbeat),
          "--election-timeout",
          std::to_string(heartbeat * kElection),
          "--logger",
          "zap",
          "--log-outputs",
          "stderr",
          "--log-level",
          "warn"};
}

Status await_leader(const State& state, const Host& member, Deadline deadline) {
  BTD_TRY(enter_network(state.network(member)));
  net::EtcdOptions options;
  options.endpoints = {member.endpoint()};
  net::EtcdClient client(options);
  while (milliseconds_until(deadline) > 0) {
    const net::EtcdAnswer answer =
        client.post("/v3/maintenance/status", "{}", net::EtcdClock::now() + kRequestPatience);
    if (answer.kind == net::EtcdAnswer::Kind::ok) {
      const auto status = net::etcd_wire::parse_status(answer.body);
      if (status && status->leader != 0) return {};
    }
    if (life_of(member.process) == Life::kNone) return ended_early(state, member, "etcd");
    BTD_TRY(check_interrupted());
    std::this_thread::sleep_for(kPause);
  }
  return fail(ETIMEDOUT, fmt::format("{} has no leader after {} s; {} may tell why", member.name(),
                                     kEtcdPatience.count(), state.log(member)));
}

Status write_cluster_file(const State& state, const Host& node) {
  toml::array endpoints;
  for (const std::string& one : state.endpoints()) endpoints.push_back(one);
  const toml::table file{
      {"cluster", toml::table{{"name", "dev"}, {"etcd", endpoints}, {"key", state.key()}}},
      {"node",
       toml::table{{"name", node.name()}, {"listen", fmt::format("{}:7440", node.address())}}}};
  std::ofstream out(state.cluster_file(node));
  out << file << '\n';
  out.close();
  return out ? Status() : errno_of(state.cluster_file(node));
}

bool is_mount_of(const State& state, const Host& node, const MountEntry& mount) {
  return mount.is_of_pool(state.pool(node));
}

bool is_pool_in_ram(const MountEntry& mount) {
  return mount.type == "tmpfs" && mount.source == "bartender";
}

template <class IsOurs>
Status detach_all_at(const std::string& path, const IsOurs& is_ours) {
  for (int i = 0; i < kMostMounts; ++i) {
    const auto mount = uppermost_mount(path);
    if (!mount) return {};
    if (!is_ours(*mount))
      return fail(EBUSY, fmt::format("{} is mounted at {} and is not of this cluster; unmount it, "
                                     "then try again",
                                     mount->source, path));
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) return errno_of(path);
  }
  return fail(EBUSY,
              fmt::format("there are more than {} mounts at {}; unmount them, then try again",
                          kMostMounts, path));
}

// The kernel tells of each change of the mount table.
Status await_mount(const State& state, const Host& node, Deadline deadline) {
  const UniqueFd table(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  const UniqueFd end(pidfd_of(node.process.pid));
  if (!table) return errno_of("/proc/self/mountinfo");
  while (!is_mounted(state, node)) {
    if (life_of(node.process) == Life::kNone) return ended_early(state, node, "the daemon");
    pollfd waiting[] = {{table.get(), POLLPRI, 0}, {end.get(), POLLIN, 0}};
    const int ready = ::poll(waiting, 2, milliseconds_until(deadline));
    if (ready < 0) return errno_of("the start of " + node.name());
    if (ready == 0)
      return fail(ETIMEDOUT, fmt::format("{} has not mounted after {} s; {} may tell why",
                                         node.name(), kMountPatience.count(), state.log(node)));
  }
  const auto left = std::chrono::milliseconds(milliseconds_until(deadline));
  const auto answer = read_file_within(state.mount(node) + "/.btd/status.json", left);
  if (answer) return {};
  if (life_of(node.process) == Life::kNone) return ended_early(state, node, "the daemon");
  return std::unexpected(answer.error());
}

}  // namespace

Status make_etcd(const State& state, const Host& member) {
  if (::mkdir(state.home(member).c_str(), 0755) != 0) return errno_of(state.home(member));
  return {};
}

Status launch_etcd(State& state, Host& member) {
  BTD_ASSIGN(member.process, launch({.command = etcd_command(state, member),
                                     .network = state.network(member),
                                     .log = state.log(member)}));
  return save_state(state);
}

// A thread enters the member's network, as a thread can and a process need not.
Status wait_for_etcd(const State& state, const Host& member) {
  Status done;
  std::thread([&] { done = await_leader(state, member, after(kEtcdPatience)); }).join();
  return done;
}

Status make_node(State& state, const Host& node) {
  if (::mkdir(state.home(node).c_str(), 0755) != 0) return errno_of(state.home(node));
  BTD_TRY(make_directory(state, state.mount(node)));
  BTD_TRY(write_cluster_file(state, node));
  return Pool::format(state.pool(node), {.emulate = Emulation::kRam, .capacity = state.size});
}

Status init_cluster(const State& state, const Host& first) {
  BTD_ASSIGN(const int code, run({.command = {kSelf, "cluster", "init", "--cluster",
                                              state.cluster_file(first), state.pool(first)},
                                  .network = state.network(first),
                                  .log = state.log(first)},
                                 after(kInitPatience)));
  if (code == 0) return {};
  return fail(EIO, fmt::format("the cluster could not be begun; the last line of {} is: {}",
                               state.log(first), last_line_of(state.log(first))));
}

Status start_node(State& state, Host& node) {
  BTD_ASSIGN(node.process,
             launch({.command = {kSelf, "mount", "--cluster", state.cluster_file(node),
                                 state.pool(node), state.mount(node), "--foreground"},
                     .network = state.network(node),
                     .log = state.log(node)}));
  BTD_TRY(save_state(state));
  return await_mount(state, node, after(kMountPatience));
}

Status kill_host(const State& state, const Host& host, const Belongs& belongs) {
  if (kill_all(belongs, after(kKillPatience))) return {};
  const std::string mount = state.mount(host);
  if (!host.is_etcd && is_mounted(state, host)) end_connection(connection_number(mount), mount);
  return kill_all(belongs, after(kLastKillPatience));
}

bool is_mounted(const State& state, const Host& node) {
  const auto mount = uppermost_mount(state.mount(node));
  return mount && is_mount_of(state, node, *mount);
}

Status detach_mount(const State& state, const Host& node) {
  return detach_all_at(state.mount(node),
                       [&](const MountEntry& mount) { return is_mount_of(state, node, mount); });
}

Status detach_pool(const State& state, const Host& node) {
  return detach_all_at(state.pool(node), is_pool_in_ram);
}

std::vector<std::string> missing_directories(const std::string& path) {
  std::vector<std::string> missing;
  std::error_code ignored;
  for (std::filesystem::path at = path; at.has_relative_path(); at = at.parent_path()) {
    if (std::filesystem::exists(at, ignored)) break;
    missing.insert(missing.begin(), at.string());
  }
  return missing;
}

Status make_directory(State& state, const std::string& path) {
  const std::vector<std::string> missing = missing_directories(path);
  if (missing.empty()) return {};
  state.made.insert(state.made.end(), missing.begin(), missing.end());
  BTD_TRY(save_state(state));
  for (const std::string& one : missing)
    if (::mkdir(one.c_str(), 0755) != 0 && errno != EEXIST) return errno_of(one);
  return {};
}

}  // namespace btd::cli::dev
