// NotifierKeeper: the supervisor's side of the notifiers (notifier.h): starts one for each worker,
// and another one where it dies before its worker. Those of workers that died may take their time
// to end.
//
// Thread-safety: the supervisor's thread.
#pragma once

#include <poll.h>

#include <cstdint>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "fs/daemon/spawn.h"

namespace btd {

class NotifierKeeper {
 public:
  struct Mount {
    int fuse_fd = -1;
    unsigned connection = 0;
    std::string mountpoint;
    bool is_quiet = true;
  };
  struct Started {
    pid_t pid = 0;
    UniqueFd socket;  // the worker's end
  };
  // Errors: those of fork(2) and socketpair(2).
  Result<Started> start(const std::string& program, const Mount& mount);

  // Adds what wait_for_events() is to poll for.
  void add_to(std::vector<pollfd>& fds) const;
  // Takes note of those that ended. True: the latest did, though its worker had not let it go.
  bool reap();
  // Whether so many died lately that another one would too.
  [[nodiscard]] bool is_hopeless() const;
  // Waits for all of them, but not for long. What is left ends by itself.
  void wait_for_end();

 private:
  Status make_lifeline();

  UniqueFd lifeline_, their_lifeline_;  // the first closes with this process
  std::vector<Child> children_;         // the latest is the last
  std::uint64_t first_death_ns_ = 0;
  unsigned deaths_ = 0;
};

}  // namespace btd
