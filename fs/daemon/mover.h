// Mover: brings files here from their homes, and removes what moves left here: a step after the
// other (fs/cluster/move.h), one file at a time, on a thread of its own that sleeps while there is
// nothing to do. What could not be removed, since etcd was away, is tried again; what is cut by the
// end of the worker is removed by the next one. Thread-safety: any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "alloc/metastore.h"
#include "fs/cluster/health.h"
#include "fs/cluster/placement.h"
#include "fs/daemon/files.h"
#include "fs/remote/remote_files.h"

namespace btd {

class Mover {
 public:
  static constexpr std::size_t kMost = 256;  // tasks that wait, of others

  struct Parts {  // all outlive it
    MetaStore& store;
    Namespace& names;
    FileTable& files;
    const BackingStore& backing;
    const cluster::Placement& placement;
    NodeId own = 0;
    // By which it alone uses the files of other nodes: theirs tell it from programs by that.
    std::function<std::unique_ptr<remote::RemoteFiles>()> connect;
    std::function<net::Epoch()> epoch;
  };
  explicit Mover(Parts parts);
  ~Mover() { stop(); }
  Mover(const Mover&) = delete;
  Mover& operator=(const Mover&) = delete;

  // `told` is called on the mover's thread, once, unless it is stopped. False: too many wait.
  using Told = std::function<void(const Result<cluster::BringResponse>&)>;
  bool bring(InodeId id, Told told);
  // Something else that may wait for etcd, in turn with that. False: too many wait.
  bool run_later(std::function<void()> task);
  // This node may have bytes of it that are not the file.
  void clean(InodeId id);
  void stop();

 private:
  struct Task {
    std::function<void()> run;
    bool is_asked = false;  // by others, of which a bounded number wait
  };
  class Actions;
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kPause{10};

  void run();
  Result<cluster::BringResponse> bring_now(InodeId id);
  void clean_now(InodeId id);
  void clean_later(InodeId id);
  remote::RemoteFiles& remote();

  const Parts parts_;
  std::unique_ptr<remote::RemoteFiles> remote_;  // the thread's, while there is something to bring
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  struct Later {
    Clock::time_point when;
    InodeId id = 0;
  };
  std::deque<Later> to_clean_;  // what failed, in the order of the times; the thread's
  std::size_t asked_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace btd
