// The two entry points of the FUSE daemon: the supervisor that mounts and outlives, and the worker
// that serves. The command line calls run_supervisor(); the supervisor starts the worker by
// executing its own program with the hidden command `worker`.
// Thread-safety: call each once in a process that has no other threads.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"

namespace btd {

struct MountOptions {
  std::string pool;
  std::string mountpoint;
  std::string
      cluster;  // the cluster file of a node of a cluster (fs/cluster/options.h); else empty
  bool foreground = false;
  std::string log_level = "info";  // trace, debug, info, warn, error, critical, off
  bool allow_other = true;         // without root it needs user_allow_other in /etc/fuse.conf
  bool read_only = false;
  bool io_uring = false;    // faster requests; the worker's death is then not survived
  bool passthrough = true;  // false: page-cache path, for comparison and for tests
  unsigned threads = 0;     // 0: by the number of processors
  int spin_us = -1;         // how long to look for the next request before sleeping; -1: default
  // Whether the worker shares the processor of a client that asks alone.
  bool share_processor = true;
  unsigned idle_ids = 0;  // registered backing files of closed files to keep; 0: default
  // Options as of mount(8): noatime, nosuid, nodev, noexec, ro, sync, …; unknown ones are refused.
  std::vector<std::string> kernel_options;
  // Called on SIGHUP; returns the level to use from then on.
  std::function<std::string()> reload_log_level;
  std::string version = "unknown";  // of the program, for `status`
};

// What the supervisor tells a worker on its command line; the rest comes over the control socket.
struct WorkerArgs {
  std::string pool;
  std::string mountpoint;
  std::string cluster;
  std::string log_level;
  std::string version;
  bool foreground = false;
  bool io_uring = false;
  bool passthrough = true;
  unsigned threads = 0;
  int spin_us = -1;
  unsigned idle_ids = 0;
  bool share_processor = true;
  int control_fd = -1;
  int lock_fd = -1;
  int state_fd = -1;
  int supervisor_pid = 0;

  [[nodiscard]] std::string to_argument() const;
  static Result<WorkerArgs> parse(std::string_view argument);
};

// Mounts and starts the worker. In the foreground it returns when the mount has ended, else when
// the mount is ready to be used. The value is the exit code of the program.
// Errors: EBUSY another process serves the pool; those of Pool::open; those of mount(2).
Result<int> run_supervisor(const MountOptions& options);

// Serves one worker's life: `btd worker ARGUMENT`. The value is the exit code.
Result<int> run_worker(const WorkerArgs& args);

}  // namespace btd
