#include "fs/cli/cluster_dev_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "fs/pool/sentences.h"
#include "fs/pool/text_file.h"

namespace btd::cli::dev {
namespace {

constexpr int kVersion = 1;
constexpr unsigned kMostHosts = 9;  // of a kind
constexpr std::chrono::seconds kLockPatience{10};
constexpr std::chrono::milliseconds kPause{20};

using Json = nlohmann::ordered_json;

Json as_json(const Host& host) {
  return {{"etcd", host.is_etcd},        {"number", host.number}, {"pid", host.process.pid},
          {"start", host.process.start}, {"cut", host.is_cut},    {"cut_from", host.cut_from}};
}

Host host_from(const Json& json) {
  Host host;
  host.is_etcd = json.at("etcd").get<bool>();
  host.number = json.at("number").get<unsigned>();
  host.process = {json.at("pid").get<pid_t>(), json.at("start").get<std::uint64_t>()};
  host.is_cut = json.at("cut").get<bool>();
  host.cut_from = json.at("cut_from").get<std::vector<std::string>>();
  return host;
}

Json as_json(const State& state) {
  Json json = {{"version", kVersion},
               {"id", state.id},
               {"boot", state.boot},
               {"mounts", state.mounts},
               {"size", state.size},
               {"delay", state.delay},
               {"loss", state.loss},
               {"daemons", state.has_daemons},
               {"complete", state.is_complete},
               {"made", state.made},
               {"hosts", Json::array()}};
  for (const Host& host : state.hosts) json["hosts"].push_back(as_json(host));
  return json;
}

State state_from(const Json& json) {
  State state;
  state.id = json.at("id").get<std::string>();
  state.boot = json.at("boot").get<std::string>();
  state.mounts = json.at("mounts").get<std::string>();
  state.size = json.at("size").get<std::uint64_t>();
  state.delay = json.at("delay").get<std::uint64_t>();
  state.loss = json.at("loss").get<std::uint64_t>();
  state.has_daemons = json.at("daemons").get<bool>();
  state.is_complete = json.at("complete").get<bool>();
  state.made = json.at("made").get<std::vector<std::string>>();
  for (const Json& host : json.at("hosts")) state.hosts.push_back(host_from(host));
  return state;
}

bool is_digit_of_id(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

// Names and signals are made of what is read here.
bool is_sound(const State& state) {
  return state.id.size() == 6 && std::ranges::all_of(state.id, is_digit_of_id) &&
         state.mounts.starts_with('/') && std::ranges::all_of(state.hosts, [](const Host& host) {
           return host.number >= 1 && host.number <= kMostHosts && host.process.pid >= 0 &&
                  host.process.pid != 1;
         });
}

Status write_file(const std::string& path, const std::string& text) {
  const UniqueFd file(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file) return errno_of(path);
  const ssize_t written = ::write(file.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size()))
    return errno_of(path, written < 0 ? errno : ENOSPC);
  if (::fsync(file.get()) != 0) return errno_of(path);
  return {};
}

}  // namespace

std::string Host::name() const { return fmt::format("{}{}", is_etcd ? "etcd" : "n", number); }

std::string Host::address() const { return fmt::format("10.93.0.{}", number + (is_etcd ? 0 : 10)); }

std::string Host::endpoint() const { return fmt::format("http://{}:2379", address()); }

std::string Host::target() const { return is_etcd ? fmt::format("etcd:{}", number) : name(); }

std::string State::hub() const { return fmt::format("btd-{}-hub", id); }
std::string State::network(const Host& host) const {
  return fmt::format("btd-{}-{}", id, host.name());
}
std::string State::home(const Host& host) const { return directory + "/" + host.name(); }
std::string State::log(const Host& host) const {
  const bool is_only = host.is_etcd && etcd_members() == 1;
  return directory + (is_only ? "/etcd.log" : "/" + host.name() + ".log");
}
std::string State::pool(const Host& host) const { return home(host) + "/pool"; }
std::string State::mount(const Host& host) const { return mounts + "/" + host.name(); }
std::string State::cluster_file(const Host& host) const { return home(host) + "/cluster.toml"; }
std::string State::key() const { return directory + "/cluster.key"; }

std::vector<std::string> State::endpoints() const {
  std::vector<std::string> all;
  for (const Host& host : hosts)
    if (host.is_etcd) all.push_back(host.endpoint());
  return all;
}

std::size_t State::etcd_members() const {
  return static_cast<std::size_t>(std::ranges::count(hosts, true, &Host::is_etcd));
}

std::string state_file(const std::string& directory) { return directory + "/state.json"; }

Result<State> load_state(const std::string& directory) {
  const std::string path = state_file(directory);
  const Result<std::string> text = read_file(path);
  if (!text && (text.error().code == ENOENT || text.error().code == ENOTDIR))
    return fail(ENOENT, fmt::format("there is no development cluster in {}; `btd cluster dev 3` "
                                    "starts one of three nodes",
                                    directory));
  if (!text) return std::unexpected(text.error());
  State state;
  try {
    const Json json = Json::parse(*text);
    if (json.at("version") == kVersion) state = state_from(json);
  } catch (const Json::exception&) {
    state = {};
  }
  if (!is_sound(state))
    return fail(EUCLEAN, fmt::format("{} is damaged or of another version; `ip netns list` shows "
                                     "namespaces that are left, then remove {}",
                                     path, directory));
  state.directory = directory;
  BTD_ASSIGN(const std::string boot, boot_id());
  if (state.boot != boot)
    for (Host& host : state.hosts) host.process = {};
  return state;
}

Status save_state(const State& state) {
  const std::string path = state_file(state.directory), fresh = path + ".new";
  BTD_TRY(write_file(fresh, as_json(state).dump(2) + "\n"));
  if (::rename(fresh.c_str(), path.c_str()) != 0) return errno_of(path);
  return {};
}

Result<UniqueFd> lock_directory(const std::string& directory) {
  UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY));  // inherited on purpose
  if (!fd) return errno_of(directory);
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_of(directory);
    if (std::chrono::steady_clock::now() > deadline)
      return fail(EBUSY, fmt::format("another `btd cluster dev` works on {}; try again when it is "
                                     "done",
                                     directory));
    std::this_thread::sleep_for(kPause);
  }
  return fd;
}

Result<std::vector<Host*>> hosts_of(State& state, const std::string& target) {
  std::vector<Host*> found;
  std::string names;
  for (Host& host : state.hosts) {
    if (target == host.name() || target == host.target() || (host.is_etcd && target == "etcd"))
      found.push_back(&host);
    names += (names.empty() ? "" : ", ") + host.target();
  }
  if (found.empty()) return fail(EINVAL, fmt::format("'{}' is none of {}", target, names));
  return found;
}

}  // namespace btd::cli::dev
