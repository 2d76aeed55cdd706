#include "fs/cli/cluster_dev_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <sstream>
#include <string_view>
#include <thread>
#include <tuple>

#include "fs/cli/cluster_dev_network.h"
#include "fs/pool/run_program.h"
#include "fs/pool/sentences.h"
#include "fs/pool/text_file.h"

namespace btd::cli::dev {
namespace {

constexpr std::chrono::milliseconds kPause{5};

volatile sig_atomic_t interrupted = 0;

// A network namespace, as the kernel tells them apart.
struct Identity {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const Identity&) const = default;
};

std::optional<Identity> identity_of(const std::string& path) {
  struct stat file{};
  if (::stat(path.c_str(), &file) != 0) return std::nullopt;
  return Identity{file.st_dev, file.st_ino};
}

// None where the name's file is left over, and no namespace is mounted there.
std::optional<Identity> identity_of_network(const std::string& network) {
  const auto named = identity_of(network_path(network)), own = identity_of("/proc/self/ns/net");
  if (!named || !own || named->device != own->device) return std::nullopt;
  return named;
}

bool is_in(pid_t pid, const std::optional<Identity>& network) {
  return network && identity_of(fmt::format("/proc/{}/ns/net", pid)) == network;
}

bool has_exited(const ProcessFacts& facts) { return facts.state == 'Z' || facts.state == 'X'; }

// Its first thread may be gone while another one waits in the kernel.
bool is_ended(const ProcessFacts& facts) { return has_exited(facts) && facts.threads <= 1; }

bool is_same(pid_t pid, const ProcessFacts& facts, const Process& process) {
  return process.pid == pid && process.start == facts.start;
}

void send_signal(const UniqueFd& pidfd, int signal) {
  (void)::syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0);
}

struct Held {
  pid_t pid;
  UniqueFd fd;
};

// The second look is at the process that the descriptor holds: only then can the pid not have
// become another's.
std::optional<Held> hold(pid_t pid, const Belongs& belongs) {
  if (pid == ::getpid() || !belongs(pid)) return std::nullopt;
  UniqueFd fd = pidfd_of(pid);
  if (!fd || !belongs(pid)) return std::nullopt;
  return Held{pid, std::move(fd)};
}

std::vector<Held> hold_all(const Belongs& belongs) {
  std::vector<Held> held;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), &::closedir);
  if (!proc) return held;
  while (const dirent* entry = ::readdir(proc.get())) {  // NOLINT(concurrency-mt-unsafe): own DIR
    const std::string_view name = entry->d_name;
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.begin(), name.end(), pid);
    if (parsed.ec != std::errc{} || parsed.ptr != name.end()) continue;
    if (auto one = hold(pid, belongs)) held.push_back(*std::move(one));
  }
  return held;
}

bool wait_for(const UniqueFd& pidfd, Deadline deadline) {
  pollfd waiting{pidfd.get(), POLLIN, 0};
  for (;;) {
    const int ready = ::poll(&waiting, 1, milliseconds_until(deadline));
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

// What the child needs, made before the fork: after it only async-signal-safe calls are made.
struct Prepared {
  std::vector<char*> argv, environment;
  UniqueFd null, log, network, report_in, report_out;
  std::string program;
};

// Without settings of the user's own etcd.
std::vector<char*> environment_for_daemons() {
  std::vector<char*> kept;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (!std::string_view(*variable).starts_with("ETCD")) kept.push_back(*variable);
  kept.push_back(nullptr);
  return kept;
}

Result<Prepared> prepare(const Launch& what) {
  Prepared made;
  made.program = what.command.front().starts_with('/') ? what.command.front()
                                                       : find_program(what.command.front());
  if (made.program.empty())
    return fail(ENOENT, fmt::format("{} is not installed", what.command.front()));
  for (const std::string& word : what.command) made.argv.push_back(const_cast<char*>(word.c_str()));
  made.argv.push_back(nullptr);
  made.environment = environment_for_daemons();
  made.null.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  made.log.reset(
      ::open(what.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!made.log) return errno_of(what.log);
  made.network.reset(::open(network_path(what.network).c_str(), O_RDONLY | O_CLOEXEC));
  if (!made.network) return errno_of(network_path(what.network));
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) return errno_of("a pipe");
  made.report_in.reset(pipe[0]);
  made.report_out.reset(pipe[1]);
  return made;
}

[[noreturn]] void become(const Prepared& what) {
  ::setsid();
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(number, SIG_DFL);
  const bool ready = ::setns(what.network.get(), CLONE_NEWNET) == 0 &&
                     ::dup2(what.null.get(), 0) == 0 && ::dup2(what.log.get(), 1) == 1 &&
                     ::dup2(what.log.get(), 2) == 2 && ::chdir("/") == 0;
  // A daemon does not keep the cluster's lock, nor anything else of its parent.
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  if (ready) ::execve(what.program.c_str(), what.argv.data(), what.environment.data());
  const int code = errno;
  (void)!::write(what.report_out.get(), &code, sizeof code);
  ::_exit(127);
}

}  // namespace

Interruption::Interruption() {
  interrupted = 0;
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &action, &old_[i]);
}

Interruption::~Interruption() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) ::sigaction(kSignals[i], &old_[i], nullptr);
}

Status check_interrupted() {
  if (interrupted == 0) return {};
  return fail(EINTR, "the start was interrupted");
}

Deadline after(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

int milliseconds_until(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

UniqueFd pidfd_of(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

std::optional<ProcessFacts> facts_of(pid_t pid) {
  const Result<std::string> text = read_file(fmt::format("/proc/{}/stat", pid));
  if (!text) return std::nullopt;
  // The name in brackets may hold anything, brackets too.
  const std::size_t name_end = text->rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text->substr(name_end + 1));
  ProcessFacts facts;
  long skipped = 0;
  fields >> facts.state >> skipped >> skipped >> facts.session;
  constexpr int kBetween = 13;  // from the terminal to the nice value
  for (int i = 0; i < kBetween; ++i) fields >> skipped;
  fields >> facts.threads >> skipped >> facts.start;
  if (!fields) return std::nullopt;
  return facts;
}

Life life_of(const Process& process) {
  if (process.pid == 0) return Life::kNone;
  const auto facts = facts_of(process.pid);
  if (!facts || is_ended(*facts) || !is_same(process.pid, *facts, process)) return Life::kNone;
  return facts->state == 'T' || facts->state == 't' ? Life::kPaused : Life::kRuns;
}

Result<Process> launch(const Launch& what) {
  BTD_ASSIGN(Prepared prepared, prepare(what));
  const pid_t child = ::fork();
  if (child < 0) return errno_of("a new process");
  if (child == 0) become(prepared);
  prepared.report_out.reset();
  int code = 0;
  ssize_t got = 0;
  do {
    got = ::read(prepared.report_in.get(), &code, sizeof code);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof code) {
    ::waitpid(child, nullptr, 0);
    return errno_of(what.command.front(), code);
  }
  const auto facts = facts_of(child);  // it is ours to wait for, so it is there
  return Process{child, facts ? facts->start : 0};
}

bool wait_for_end(pid_t child, Deadline deadline, int& status) {
  const UniqueFd fd = pidfd_of(child);
  if (fd && !wait_for(fd, deadline)) return false;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return true;
}

Result<int> run(const Launch& what, Deadline deadline) {
  BTD_ASSIGN(const Process process, launch(what));
  int status = 0;
  if (!wait_for_end(process.pid, deadline, status)) {
    ::kill(process.pid, SIGKILL);
    ::waitpid(process.pid, nullptr, 0);
    return fail(ETIMEDOUT, fmt::format("{} was not done in time and was ended; {} may tell why",
                                       what.command.front(), what.log));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Status enter_network(const std::string& network) {
  const UniqueFd fd(::open(network_path(network).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd || ::setns(fd.get(), CLONE_NEWNET) != 0) return errno_of(network_path(network));
  return {};
}

Belongs daemons_of(const State& state, const Host& host) {
  return [network = identity_of_network(state.network(host)), process = host.process](pid_t pid) {
    if (process.pid == 0) return false;
    const auto facts = facts_of(pid);
    if (!facts || is_ended(*facts)) return false;
    return is_same(pid, *facts, process) ||
           (facts->session == process.pid && (has_exited(*facts) || is_in(pid, network)));
  };
}

Belongs all_of(const State& state, const Host& host) {
  return [network = identity_of_network(state.network(host)), process = host.process](pid_t pid) {
    const auto facts = facts_of(pid);
    if (!facts || is_ended(*facts)) return false;
    const bool is_its_child = process.pid != 0 && facts->session == process.pid;
    return is_same(pid, *facts, process) || is_in(pid, network) ||
           (is_its_child && has_exited(*facts));
  };
}

Status kill_all(const Belongs& belongs, Deadline deadline) {
  for (;;) {
    const std::vector<Held> held = hold_all(belongs);
    if (held.empty()) return {};
    for (const Held& one : held) send_signal(one.fd, SIGKILL);
    for (const Held& one : held)
      if (!wait_for(one.fd, deadline))
        return fail(ETIMEDOUT, fmt::format("process {} does not end although it was killed; what "
                                           "it waits for is in /proc/{}/stack",
                                           one.pid, one.pid));
  }
}

Status stop_all(const Belongs& belongs, Deadline deadline) {
  const Belongs runs = [&](pid_t pid) {
    const auto facts = facts_of(pid);
    return facts && facts->state != 'T' && !has_exited(*facts) && belongs(pid);
  };
  for (;;) {
    const std::vector<Held> held = hold_all(runs);
    if (held.empty()) return {};
    for (const Held& one : held) send_signal(one.fd, SIGSTOP);
    if (milliseconds_until(deadline) == 0)
      return fail(ETIMEDOUT, fmt::format("process {} does not stop; what it waits for is in "
                                         "/proc/{}/stack",
                                         held.front().pid, held.front().pid));
    std::this_thread::sleep_for(kPause);
  }
}

void continue_all(const Belongs& belongs) {
  for (const Held& one : hold_all(belongs)) send_signal(one.fd, SIGCONT);
}

void terminate(const Process& process) {
  const UniqueFd fd = process.pid == 0 ? UniqueFd() : pidfd_of(process.pid);
  if (fd && life_of(process) != Life::kNone) send_signal(fd, SIGTERM);
}

bool wait_until_gone(const Process& process, Deadline deadline) {
  const UniqueFd fd = process.pid == 0 ? UniqueFd() : pidfd_of(process.pid);
  return !fd || life_of(process) == Life::kNone || wait_for(fd, deadline);
}

}  // namespace btd::cli::dev
