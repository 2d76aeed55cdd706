// DaemonHomeFiles: the files of this node, for the peers that use them (fs/remote/home_files.h).
// Thread-safety: any thread, once the parts are there.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>

#include "alloc/metastore.h"
#include "fs/cluster/placement.h"
#include "fs/daemon/files.h"
#include "fs/daemon/kernel_cache.h"
#include "fs/remote/home_files.h"

namespace btd {

class DaemonHomeFiles final : public remote::HomeFiles {
 public:
  // All outlive this.
  DaemonHomeFiles(Namespace& names, FileTable& files, const BackingStore& backing,
                  KernelCache& kernel)
      : names_(names), files_(files), backing_(backing), kernel_(kernel) {}

  Result<UniqueFd> open(InodeId id) override;
  Status hold(InodeId id) override;
  void unhold(InodeId id) override { files_.unhold(id); }
  Status prepare(InodeId id, int fd) override;
  Status resize(InodeId id, int fd, std::uint64_t size) override;
  Status allocate(InodeId id, int fd, int mode, std::uint64_t offset,
                  std::uint64_t length) override;
  Status sync(InodeId id, int /*fd*/, bool data_only) override {
    return backing_.sync(id, data_only);
  }
  Status wrote(InodeId id) override;
  void changed(InodeId id) override { kernel_.attributes_changed(id); }
  Status reserve(InodeId id, std::uint64_t number) override { return reserve_for(id, number, 1); }
  void used(InodeId id) override { files_.used(id); }
  Status yield(InodeId id, std::uint64_t number, NodeId to) override;
  Result<std::uint64_t> room() override { return backing_.room(); }

  // Lets an empty file that nobody uses lie at another node; as long as it is not known whether it
  // does, this waits. Errors: ETXTBSY somebody uses it; EBUSY it is not empty; those of
  // cluster::commit_gift().
  Status give(InodeId id, NodeId to);

  // Before the first call. `not_before`: until then peers may not have said what they have open.
  // `left`: told of each file that was moved away, whose bytes here are to be removed.
  struct Moving {
    MetaStore* store = nullptr;
    NodeId own = 0;
    std::chrono::steady_clock::time_point not_before;
    std::function<void(InodeId)> left;
  };
  void allow_moves(Moving moving) { moving_ = std::move(moving); }
  // A move whose outcome is unknown is not waited for any more.
  void stop() { stopping_.store(true); }

 private:
  Status reserve_for(InodeId id, std::uint64_t number, std::size_t holds);
  // What the namespace here does not have: ENOENT there is no such file; EAGAIN ask again.
  Status find_out(InodeId id);
  Result<bool> settle(InodeId id, NodeId to);
  // Commits that it lies elsewhere, if nobody used it since it was reserved. `is_gone`: asked where
  // that is in doubt.
  using Commit = Status(MetaStore& store, const cluster::Attempt& attempt);
  Status leave(const cluster::Attempt& attempt, Commit* commit,
               const std::function<Result<bool>()>& is_gone);

  Namespace& names_;
  FileTable& files_;
  const BackingStore& backing_;
  KernelCache& kernel_;
  Moving moving_;
  std::mutex asking_mutex_;
  std::mutex yield_mutex_;  // one is committed at a time: where etcd is away it takes long
  std::atomic<bool> stopping_{false};
};

}  // namespace btd
