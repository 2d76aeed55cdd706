// Programs in a network namespace: starting them, and signals to them and to nobody else.
//
// A signal goes through a pidfd, after a look at who that process is: one that was started here is
// told by pid and start time, all else by the namespace that it is in.
// Thread-safety: launch() and run() fork, so no other thread may hold a lock; the rest, any.
#pragma once

#include <signal.h>

#include <array>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "fs/cli/cluster_dev_state.h"

namespace btd::cli::dev {

using Deadline = std::chrono::steady_clock::time_point;
[[nodiscard]] Deadline after(std::chrono::milliseconds time);
// For poll(2): rounded up, 0 when it is over.
[[nodiscard]] int milliseconds_until(Deadline deadline);

struct ProcessFacts {
  char state = 'X';  // as in proc(5): T stopped, Z ended and not waited for
  pid_t session = 0;
  long threads = 1;
  std::uint64_t start = 0;
};
[[nodiscard]] std::optional<ProcessFacts> facts_of(pid_t pid);

// While it lives, Ctrl-C and the like end nothing, but check_interrupted() fails: what was begun
// can be undone. A second one ends the program as ever.
class Interruption {
 public:
  Interruption();
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

 private:
  static constexpr std::array<int, 3> kSignals{SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, kSignals.size()> old_{};
};
// Errors: EINTR.
Status check_interrupted();

enum class Life { kNone, kRuns, kPaused };
[[nodiscard]] Life life_of(const Process& process);

// `command.front()` is looked for in PATH; "/proc/self/exe" is btd. Its output is appended to
// `log`. It leads a session of its own.
struct Launch {
  std::vector<std::string> command;
  std::string network;
  std::string log;
};
Result<Process> launch(const Launch& what);
// To its end. Errors: ETIMEDOUT, after which it is killed. The value is the exit code.
Result<int> run(const Launch& what, Deadline deadline);
// Waits for a child. False: it still runs at the deadline.
bool wait_for_end(pid_t child, Deadline deadline, int& status);

[[nodiscard]] UniqueFd pidfd_of(pid_t pid);

// This thread's network becomes that of the namespace.
Status enter_network(const std::string& network);

// Which processes are meant.
using Belongs = std::function<bool(pid_t)>;
// What a host runs: its daemon's session in its namespace.
[[nodiscard]] Belongs daemons_of(const State& state, const Host& host);
// Those and whatever else is in its namespace.
[[nodiscard]] Belongs all_of(const State& state, const Host& host);

// Both repeat until no process, or no running one, is left. Errors: ETIMEDOUT.
Status kill_all(const Belongs& belongs, Deadline deadline);
Status stop_all(const Belongs& belongs, Deadline deadline);
void continue_all(const Belongs& belongs);
// A request to end, to one process that was started here.
void terminate(const Process& process);
// False: it is still there at the deadline.
bool wait_until_gone(const Process& process, Deadline deadline);

}  // namespace btd::cli::dev
