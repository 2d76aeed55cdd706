// btd cluster remove: a node that was drained leaves for good.
#include <fmt/format.h>

#include "fs/cli/cluster.h"
#include "fs/cli/cluster_files.h"
#include "fs/namespace/namespace.h"
#include "net/etcd/etcd_store.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster drain n1
  btd umount /mnt/bartender          on n1
  btd cluster remove n1

The node must be unmounted, and no file's home. Its pool can't be mounted in the cluster any more;
a fresh one may have its name and address.)";

class ClusterRemoveCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("NODE", node_, "Its name or id");
    take.option("--cluster", file_, "The cluster file");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
    BTD_ASSIGN(const auto members, cluster::members(*store));
    BTD_ASSIGN(const cluster::Member node, find_node(members, node_));
    if (node.is_mounted)
      return fail(EBUSY, fmt::format("node {} is mounted, as far as the cluster knows; unmount it "
                                     "first",
                                     node.name));
    BTD_ASSIGN(const auto files, files_of_home(*store, node.id));
    if (!files.empty())
      return fail(ENOTEMPTY, fmt::format("node {} is the home of {} files; mount it and move them "
                                         "with `btd cluster drain {}`",
                                         node.name, files.size(), node.name));
    BTD_TRY(forget_nameless(*store, node.id));
    BTD_TRY(cluster::remove(*store, node.id));
    return kExitOk;
  }

 private:
  // Nobody can use them any more; their data go with the pool.
  static Status forget_nameless(MetaStore& store, NodeId node) {
    BTD_ASSIGN(const auto names, Namespace::open(store, node));
    BTD_ASSIGN(const std::vector<InodeId> orphans, names->orphans());
    for (const InodeId id : orphans) BTD_TRY(names->erase_orphan(id));
    return {};
  }

  std::string node_, file_ = cluster::kDefaultFile;
};

}  // namespace

std::unique_ptr<Command> make_cluster_remove_command() {
  return std::make_unique<ClusterRemoveCommand>();
}

}  // namespace btd::cli
