// Starting a development cluster: first what may be refused, then the state, then what it names.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "fs/cli/cluster_dev.h"
#include "fs/cli/cluster_dev_hosts.h"
#include "fs/cli/cluster_dev_network.h"
#include "fs/cli/cluster_dev_process.h"
#include "fs/cli/terminal.h"
#include "fs/pool/run_program.h"
#include "fs/pool/sentences.h"
#include "fs/pool/text_file.h"

namespace btd::cli::dev {
namespace {

namespace files = std::filesystem;

constexpr std::size_t kKeyBytes = 32;

Status check_machine(const StartOptions& options) {
  if (::geteuid() != 0)
    return fail(EPERM,
                "a development cluster makes network namespaces and mounts; run btd as root");
  if (find_program("ip").empty() || find_program("bridge").empty())
    return fail(EOPNOTSUPP, "ip and bridge are not there; `apt install iproute2` brings them");
  if ((options.delay != 0 || options.loss != 0) && find_program("tc").empty())
    return fail(EOPNOTSUPP, "--delay and --loss need tc; `apt install iproute2` brings it");
  if (find_program("etcd").empty())
    return fail(EOPNOTSUPP, "etcd is not there; `apt install etcd-server` brings it");
  return {};
}

Result<std::string> random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (::getrandom(bytes.data(), count, 0) != static_cast<ssize_t>(count))
    return errno_of("random bytes");
  return bytes;
}

Result<State> plan(const StartOptions& options) {
  State state;
  state.directory = options.directory;
  state.mounts = options.mounts;
  state.size = options.size;
  state.delay = options.delay;
  state.loss = options.loss;
  state.has_daemons = options.has_daemons;
  state.made = missing_directories(options.directory);
  BTD_ASSIGN(state.boot, boot_id());
  BTD_ASSIGN(const std::string random, random_bytes(3));
  for (const char byte : random)
    state.id += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  for (unsigned i = 1; i <= options.etcd; ++i)
    state.hosts.push_back({.is_etcd = true, .number = i});
  for (unsigned i = 1; i <= options.nodes; ++i) state.hosts.push_back({.number = i});
  return state;
}

// What an earlier cluster, or the first write of a start that was cut off, leaves in a directory.
bool is_remnant(const files::path& path) {
  return path.extension() == ".log" || path.filename() == "state.json.new";
}

Status check_directory(const std::string& directory) {
  std::error_code error;
  if (files::exists(state_file(directory), error))
    return fail(EEXIST, fmt::format("a development cluster is in {} already; `btd cluster dev stop "
                                    "--dir {}` ends it, or choose another --dir",
                                    directory, directory));
  files::directory_iterator entries(directory, error), end;
  for (; !error && entries != end; entries.increment(error))
    if (!is_remnant(entries->path()))
      return fail(ENOTEMPTY, fmt::format("{} is in use: it has {}; choose another --dir", directory,
                                         entries->path().filename().string()));
  return error ? errno_of(directory, error.value()) : Status();
}

Status check_mounts(const State& state) {
  for (const Host& host : state.hosts) {
    std::error_code error;
    const std::string path = state.mount(host);
    if (host.is_etcd || !files::exists(path, error)) continue;
    if (error || !files::is_empty(path, error) || error)
      return fail(ENOTEMPTY,
                  fmt::format("{} is in use; choose another directory with --mounts", path));
  }
  return {};
}

Status remove_old_logs(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : files::directory_iterator(directory, error))
    if (entry.path().extension() == ".log") files::remove(entry.path(), error);
  return error ? errno_of(directory, error.value()) : Status();
}

Status write_key(const State& state) {
  BTD_ASSIGN(const std::string key, random_bytes(kKeyBytes));
  const UniqueFd file(::open(state.key().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file || ::write(file.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size()))
    return errno_of(state.key());
  return {};
}

// The steps of a start, with a line of progress before each.
class Start {
 public:
  explicit Start(State& state) : state_(state), total_(3 * state.hosts.size() + 1) {}

  Status run() {
    BTD_TRY(next("network"));
    BTD_TRY(make_hub(state_));
    for (const Host& host : state_.hosts) {
      BTD_TRY(next("network of " + host.name()));
      BTD_TRY(join_network(state_, host));
    }
    BTD_TRY(write_key(state_));
    BTD_TRY(start_etcd());
    if (state_.has_daemons) BTD_TRY(start_nodes());
    BTD_TRY(check_interrupted());
    state_.is_complete = true;
    return save_state(state_);
  }

 private:
  Status next(const std::string& what) {
    BTD_TRY(check_interrupted());
    progress_.show(what, done_++, total_);
    return {};
  }

  // Several members need each other, so all are begun before one is waited for.
  Status start_etcd() {
    for (Host& host : state_.hosts) {
      if (!host.is_etcd) continue;
      BTD_TRY(next(host.name()));
      BTD_TRY(make_etcd(state_, host));
      BTD_TRY(launch_etcd(state_, host));
    }
    for (const Host& host : state_.hosts) {
      if (!host.is_etcd) continue;
      BTD_TRY(next(host.name() + " to be ready"));
      BTD_TRY(wait_for_etcd(state_, host));
    }
    return {};
  }

  Status start_nodes() {
    bool is_first = true;
    for (Host& host : state_.hosts) {
      if (host.is_etcd) continue;
      BTD_TRY(next("pool of " + host.name()));
      BTD_TRY(make_node(state_, host));
      if (std::exchange(is_first, false)) BTD_TRY(init_cluster(state_, host));
      BTD_TRY(next("daemon of " + host.name()));
      BTD_TRY(start_node(state_, host));
    }
    return {};
  }

  State& state_;
  ProgressBar progress_{"Starting"};
  std::size_t done_ = 0;
  const std::size_t total_;
};

std::unexpected<Error> start_failed(State& state, Error error) {
  const Status cleared = clear_cluster(state);
  if (!cleared)
    error.message += fmt::format(
        "; and not all of it could be removed: {}; `btd cluster dev stop "
        "--dir {}` tries again",
        cleared.error().message, state.directory);
  return std::unexpected(std::move(error));
}

}  // namespace

Result<State> start_cluster(const StartOptions& options) {
  BTD_TRY(check_machine(options));
  BTD_ASSIGN(State state, plan(options));
  BTD_TRY(check_mounts(state));
  const Interruption interruption;
  std::error_code error;
  files::create_directories(options.directory, error);
  if (error) return errno_of(options.directory, error.value());
  BTD_ASSIGN(const UniqueFd lock, lock_directory(options.directory));
  BTD_TRY(check_directory(options.directory));
  BTD_TRY(remove_old_logs(options.directory));
  BTD_TRY(save_state(state));
  if (Status done = Start(state).run(); !done) return start_failed(state, std::move(done).error());
  return state;
}

}  // namespace btd::cli::dev
