// Ending a development cluster: processes, then mounts, pools and namespaces, then files. Each step
// passes over what is gone already, so it may be cut off anywhere and done again.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <ranges>

#include "fs/cli/cluster_dev.h"
#include "fs/cli/cluster_dev_hosts.h"
#include "fs/cli/cluster_dev_network.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/terminal.h"
#include "fs/pool/sentences.h"

namespace btd::cli::dev {
namespace {

// To write what they have and unmount; whoever takes longer is killed, as it all goes anyway. A
// daemon whose mount is busy detaches it when it is asked a second time.
constexpr std::chrono::seconds kFirstPatience{1}, kSecondPatience{4};

// All together. True: they have ended.
bool ask_nodes_to_end(const State& state, std::chrono::seconds patience) {
  const Deadline deadline = after(patience);
  bool all_gone = true;
  for (const Host& host : state.hosts)
    if (!host.is_etcd) terminate(host.process);
  for (const Host& host : state.hosts)
    if (!host.is_etcd) all_gone = wait_until_gone(host.process, deadline) && all_gone;
  return all_gone;
}

// Etcd is not asked: members that end together wait for each other, and nobody needs their data.
Status end_processes(State& state) {
  (void)heal_hosts(state, "");  // where there is a network left to be healed
  for (const Host& host : state.hosts) continue_all(daemons_of(state, host));
  if (!ask_nodes_to_end(state, kFirstPatience)) (void)ask_nodes_to_end(state, kSecondPatience);
  for (Host& host : state.hosts) {
    BTD_TRY(kill_host(state, host, all_of(state, host)));
    host.process = {};
  }
  return {};  // not written down: a full disk must not keep a cluster
}

// Nothing is removed through a mount.
Status check_unmounted(const std::string& directory) {
  BTD_ASSIGN(const auto mounts, mounts_now());
  for (const MountEntry& mount : mounts)
    if (mount.directory == directory || mount.directory.starts_with(directory + "/"))
      return fail(EBUSY, fmt::format("{} is mounted at {} and is not of this cluster; unmount it, "
                                     "then stop again",
                                     mount.source, mount.directory));
  return {};
}

Status remove_files(const State& state) {
  std::error_code error;
  for (const Host& host : state.hosts) {
    BTD_TRY(check_unmounted(state.home(host)));
    std::filesystem::remove_all(state.home(host), error);
    if (error) return errno_of(state.home(host), error.value());
  }
  ::unlink(state.key().c_str());
  if (::unlink(state_file(state.directory).c_str()) != 0) return errno_of(state.directory);
  // Only empty ones: a log or another's file in them keeps them.
  for (const std::string& made : std::views::reverse(state.made)) ::rmdir(made.c_str());
  return {};
}

}  // namespace

Status clear_cluster(State& state) {
  ProgressBar progress("Stopping");
  progress.show("daemons and etcd", 0, 0);
  BTD_TRY(end_processes(state));
  progress.show("mounts and pools", 0, 0);
  for (const Host& host : state.hosts) {
    if (host.is_etcd) continue;
    BTD_TRY(detach_mount(state, host));
    BTD_TRY(detach_pool(state, host));
  }
  progress.show("network", 0, 0);
  BTD_TRY(remove_network(state));
  return remove_files(state);
}

Result<bool> stop_cluster(const std::string& directory) {
  if (::geteuid() != 0)
    return fail(EPERM, "ending a development cluster needs root, as starting it did");
  const Result<UniqueFd> lock = lock_directory(directory);
  if (!lock && (lock.error().code == ENOENT || lock.error().code == ENOTDIR)) return false;
  if (!lock) return std::unexpected(lock.error());
  Result<State> state = load_state(directory);
  if (!state && state.error().code == ENOENT) return false;
  if (!state) return std::unexpected(state.error());
  BTD_TRY(clear_cluster(*state));
  return true;
}

}  // namespace btd::cli::dev
