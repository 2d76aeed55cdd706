// btd cluster init: founds a cluster with the namespace of a pool.
#include <fmt/format.h>

#include "fs/cli/cluster.h"
#include "fs/cli/paths.h"
#include "fs/cli/terminal.h"
#include "fs/cluster/join.h"
#include "net/etcd/etcd_store.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd cluster init /var/lib/bartender                  the cluster of /etc/bartender-cluster.toml
  btd cluster init --cluster FILE /var/lib/bartender

Moves the names of the pool's files into etcd: no file is lost, and from then on the pool is mounted
with --cluster only. Other nodes join by mounting a fresh pool with --cluster. If it is interrupted,
run it again. The pool must not be mounted.)";

class ClusterInitCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.required("POOL", pool_, "The pool of the first node, as made by `btd format`");
    take.option("--cluster", file_, "The cluster file");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::string path, absolute_path(pool_));
    BTD_ASSIGN(cluster::Options options, cluster::load(file_));
    BTD_ASSIGN(PoolLock lock, PoolLock::acquire(path));
    BTD_ASSIGN(const std::unique_ptr<Pool> pool, Pool::open(path, std::move(lock)));
    options.etcd.client = pool->facts().uuid;
    BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
    const std::uint64_t all = pool->meta().stats().entries;
    std::uint64_t moved = 0;
    {
      ProgressBar bar("Moving");
      const auto show = [&](std::uint64_t rows) { bar.show("names", rows, all); };
      BTD_ASSIGN(moved, cluster::found(*pool, *store, options, show));
    }
    BTD_TRY(pool->close());
    fmt::print("{} the cluster '{}' with {} rows of {}.\n",
               paint(stdout, Colour::kGreen, "Founded"), options.name, moved, path);
    fmt::print("Mount it with: btd mount --cluster {} {} DIR\n", file_, path);
    return kExitOk;
  }

 private:
  std::string pool_, file_ = cluster::kDefaultFile;
};

}  // namespace

std::unique_ptr<Command> make_cluster_init_command() {
  return std::make_unique<ClusterInitCommand>();
}

}  // namespace btd::cli
