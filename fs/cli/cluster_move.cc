// btd cluster move: gives files another home.
#include <fmt/format.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "fs/cli/cluster.h"
#include "fs/cli/cluster_bring.h"
#include "fs/cli/cluster_files.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "fs/pool/sentences.h"
#include "net/etcd/etcd_store.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster move /mnt/bartender/file --to n2
  btd cluster move -r /mnt/bartender/directory --to n2 --json

Names, hard links, attributes and holes stay as they are. A file that is open or mapped anywhere is
not moved. The exit code is 0 if all were moved, else 75: run it again for the rest.)";

struct Found {
  std::string path;  // one of its names
  std::uint64_t bytes = 0;
};
using Files = std::map<InodeId, Found>;

// nftw(3) knows no argument.
thread_local Files* collecting = nullptr;

void collect(Files& files, const char* path, const struct stat& facts) {
  if (!S_ISREG(facts.st_mode)) return;
  files.try_emplace(facts.st_ino, Found{path, static_cast<std::uint64_t>(facts.st_blocks) * 512U});
}

int visit(const char* path, const struct stat* facts, int, FTW*) {
  collect(*collecting, path, *facts);
  return 0;
}

Result<Files> files_below(const std::string& path, bool is_recursive) {
  constexpr int kDescriptors = 32;
  struct stat facts{};
  if (::lstat(path.c_str(), &facts) != 0) return errno_of(path);
  Files files;
  if (S_ISREG(facts.st_mode)) {
    collect(files, path.c_str(), facts);
    return files;
  }
  if (!S_ISDIR(facts.st_mode))
    return fail(EINVAL, path + ": only regular files have a home that can be moved");
  if (!is_recursive) return fail(EINVAL, path + ": is a directory; -r moves the files in it");
  collecting = &files;
  if (::nftw(path.c_str(), visit, kDescriptors, FTW_PHYS | FTW_MOUNT) != 0) return errno_of(path);
  return files;
}

// As user.btd.home says; nullopt: the file is gone meanwhile.
std::optional<NodeId> home_of(const std::string& path) {
  char text[16] = {};
  if (::lgetxattr(path.c_str(), "user.btd.home", text, sizeof text - 1) <= 0) return std::nullopt;
  return static_cast<NodeId>(std::strtoul(text, nullptr, 10));
}

// The cluster that the mount is of.
Result<cluster::Options> options_of(const MountEntry& mount) {
  BTD_ASSIGN(const nlohmann::json status, daemon_status(mount.directory));
  if (!status.is_object() || !status.contains("cluster"))
    return fail(EINVAL, fmt::format("{} is no mount of a cluster, so its files have no other home",
                                    mount.directory));
  const nlohmann::json& file = status["cluster"].value("file", nlohmann::json());
  if (!file.is_string()) return fail(EBADMSG, "the daemon of the mount is of another version");
  return cluster::load(file.get<std::string>());
}

class ClusterMoveCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("PATH", path_, "A file in a mount of the cluster, or with -r a directory");
    take.option("--to", to_, "The node, by name or id, that is to be their home");
    take.flag("-r,--recursive", recursive_, "All files below the directory");
    take.flag("--json", json_, "As JSON");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    if (to_.empty()) return fail(EINVAL, "say with --to NODE which node is to be the home");
    BTD_ASSIGN(const MountEntry mount, find_mount(path_));
    BTD_ASSIGN(const cluster::Options options, options_of(mount));
    BTD_ASSIGN(Files files, files_below(path_, recursive_));
    BTD_ASSIGN(const ClusterNodes nodes, ask_nodes(options));
    BTD_ASSIGN(const cluster::Member to, find_node(nodes.members, to_));
    BTD_TRY(must_answer(nodes, to));
    std::erase_if(files, [&](const auto& one) { return home_of(one.second.path) == to.id; });
    BTD_TRY(judge_room(files, to, room_in(*nodes.answers.at(to.id).said)));
    std::vector<InodeId> ids;
    for (const auto& [id, file] : files) ids.push_back(id);
    Bringing bringing(options.security, nodes.epoch, nodes.members);
    BTD_ASSIGN(const Moved moved,
               bringing.run(ids, [&](InodeId, const auto&) -> Result<NodeId> { return to.id; }));
    json_ ? print_json(files, to, moved) : print_text(files, to, moved);
    return moved.failures.empty() ? kExitOk : kExitBusy;
  }

 private:
  static Status judge_room(const Files& files, const cluster::Member& to, const NodeRoom& room) {
    std::uint64_t bytes = 0;
    for (const auto& [id, file] : files) bytes += file.bytes;
    if (bytes <= room.available) return {};
    return fail(ENOSPC, fmt::format("the files have {}, and node {} has room for {}",
                                    format_size(bytes), to.name, format_size(room.available)));
  }

  static void print_json(const Files& files, const cluster::Member& to, const Moved& moved) {
    nlohmann::ordered_json failures = nlohmann::ordered_json::array();
    for (const MoveFailure& one : moved.failures)
      failures.push_back({{"path", files.at(one.id).path}, {"why", one.error.message}});
    const nlohmann::ordered_json all = {{"to", to.name},
                                        {"moved", moved.files},
                                        {"bytes", moved.bytes},
                                        {"not_moved", std::move(failures)}};
    fmt::print("{}\n", all.dump(2));
  }

  static void print_text(const Files& files, const cluster::Member& to, const Moved& moved) {
    for (const MoveFailure& one : moved.failures)
      print_error(files.at(one.id).path, "not moved: " + one.error.message);
    fmt::print("{} moved to {}\n", summary_of(moved), to.name);
  }

  std::string path_, to_;
  bool recursive_ = false, json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_cluster_move_command() {
  return std::make_unique<ClusterMoveCommand>();
}

}  // namespace btd::cli
