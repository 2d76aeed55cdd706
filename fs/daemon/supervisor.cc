// The supervisor: mounts, keeps what must outlive a worker (/dev/fuse, the pool's lock, the state
// memfd), and replaces the worker whenever it dies, and its notifier. It never touches its own
// mount; it sleeps in one poll without a timeout. Single-threaded, but for the thread in which it
// unmounts.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "fs/cluster/options.h"
#include "fs/daemon/backing_socket.h"
#include "fs/daemon/control.h"
#include "fs/daemon/daemon.h"
#include "fs/daemon/log.h"
#include "fs/daemon/metrics.h"
#include "fs/daemon/mounting.h"
#include "fs/daemon/notifier_keeper.h"
#include "fs/daemon/protocol.h"
#include "fs/daemon/spawn.h"
#include "fs/daemon/state_table.h"
#include "fs/pool/pool.h"

namespace btd {

namespace {

// So many deaths in such a time, none of the workers having served anything: there is no hope.
constexpr unsigned kMaxFutileDeaths = 10;
constexpr std::uint64_t kFutileWindowNs = 30'000'000'000;
// Of files at other nodes: as much as one request may be, for a network likes long ones.
constexpr unsigned kReadAheadKib = 1024;

std::string describe(const Error& error) {
  return error.message.empty() ? strerrordesc_np(error.code) : error.message;
}

Result<std::string> absolute(const std::string& path, const char* what) {
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr)
    return fail(errno, std::string("the ") + what + " " + path +
                           " cannot be used: " + strerrordesc_np(errno));
  std::string result(resolved);
  std::free(resolved);
  return result;
}

// A worker removes its socket unless it is killed.
class SocketRemover {
 public:
  explicit SocketRemover(std::string path) : path_(std::move(path)) {}
  ~SocketRemover() {
    if (!path_.empty()) unlink(path_.c_str());
  }
  SocketRemover(const SocketRemover&) = delete;
  SocketRemover& operator=(const SocketRemover&) = delete;

 private:
  const std::string path_;
};

class Supervisor {
 public:
  Supervisor(const MountOptions& options, std::function<void()> ready)
      : options_(options), tell_ready_(std::move(ready)) {}

  ~Supervisor() {
    if (unmounter_.joinable()) unmounter_.join();
    if (header_ != nullptr) munmap(header_, sizeof(StateHeader));
  }

  Result<int> run() {
    BTD_TRY(check_mount_options(options_.kernel_options));
    BTD_TRY(set_log_level(options_.log_level));
    BTD_ASSIGN(options_.pool, absolute(options_.pool, "pool"));
    BTD_ASSIGN(options_.mountpoint, absolute(options_.mountpoint, "mount point"));
    if (!options_.cluster.empty()) {
      BTD_ASSIGN(options_.cluster, absolute(options_.cluster, "cluster file"));
      BTD_TRY(cluster::load(options_.cluster));  // said before anything is mounted
    }
    BTD_ASSIGN(PoolLock lock, PoolLock::acquire(options_.pool));
    lock_fd_ = lock.fd();
    const SocketRemover remover(BackingSocket::path_of(lock_fd_));  // while the lock is held
    BTD_TRY(prepare());
    end_dead_connections(options_.pool);  // before anybody looks at programs that wait for them
    BTD_TRY(start_worker(false));
    while (!done_ && !start_error_) wait_for_events();
    notifiers_.wait_for_end();
    if (start_error_) return std::unexpected(*start_error_);
    return exit_code_;
  }

 private:
  Status prepare() {
    std::uint64_t session = 0;
    while (session == 0)
      if (getrandom(&session, sizeof session, 0) != sizeof session) return fail(errno);
    BTD_ASSIGN(const int fd, StateTable::create_memfd(session));
    state_fd_.reset(fd);
    void* page = mmap(nullptr, sizeof(StateHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) return fail(errno, "cannot map the worker's state");
    header_ = static_cast<StateHeader*>(page);
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2}) sigaddset(&set, signal);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    unmounted_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!signals_ || !unmounted_) return fail(errno, "cannot make descriptors for signals");
    return {};
  }

  // --- the worker --------------------------------------------------------------------------------

  WorkerArgs worker_args(int control_fd) const {
    WorkerArgs args;
    args.pool = options_.pool;
    args.mountpoint = options_.mountpoint;
    args.cluster = options_.cluster;
    args.log_level = options_.log_level;
    args.version = options_.version;
    args.foreground = options_.foreground;
    args.io_uring = options_.io_uring;
    args.passthrough = options_.passthrough;
    args.threads = options_.threads;
    args.spin_us = options_.spin_us;
    args.idle_ids = options_.idle_ids;
    args.share_processor = options_.share_processor;
    args.control_fd = control_fd;
    args.lock_fd = lock_fd_;
    args.state_fd = state_fd_.get();
    args.supervisor_pid = getpid();
    return args;
  }

  // `upgrade`: the program that is on the disk now, not the one that this process runs.
  static std::string worker_program(bool upgrade) {
    const std::string self = "/proc/self/exe";
    if (!upgrade) return self;
    char path[PATH_MAX];
    const ssize_t n = readlink(self.c_str(), path, sizeof path);
    if (n <= 0) return self;
    std::string name(path, static_cast<std::size_t>(n));
    if (const std::string gone = " (deleted)"; name.ends_with(gone))
      name.resize(name.size() - gone.size());
    return access(name.c_str(), X_OK) == 0 ? name : self;
  }

  Status start_worker(bool upgrade) {
    BTD_ASSIGN(auto pair, control_pair());
    const int theirs = pair.second.get();
    program_ = worker_program(upgrade);
    requests_at_start_ = requests();
    BTD_ASSIGN(Child child,
               spawn(program_, "worker", worker_args(theirs).to_argument(),
                     std::array{theirs, lock_fd_, state_fd_.get()}, !options_.foreground));
    worker_ = child.pid;
    worker_died_ = std::move(child.died);
    control_ = std::move(pair.first);
    if (fuse_fd_) (void)hand_over();
    return {};
  }

  // Gives the connection to the worker, and before it the way to its notifier.
  Status hand_over() {
    if (!options_.cluster.empty()) start_notifier();
    return send_control(control_.get(), Word::kServe, 0, {}, fuse_fd_.get());
  }

  // Of a mount without a cluster nothing is told that blocks.
  void start_notifier() {
    auto started = notifiers_.is_hopeless()
                       ? fail(EAGAIN, "it died again and again")
                       : notifiers_.start(program_, {.fuse_fd = fuse_fd_.get(),
                                                     .connection = connection_,
                                                     .mountpoint = options_.mountpoint,
                                                     .is_quiet = !options_.foreground});
    if (!started) {
      spdlog::error("there is no notifier: {}", describe(started.error()));
      (void)send_control(control_.get(), Word::kNotifier);
      return;
    }
    (void)send_control(control_.get(), Word::kNotifier, started->pid, {}, started->socket.get());
  }

  // One that dies before its worker is replaced.
  void reap_notifiers() {
    if (!notifiers_.reap() || !worker_died_ || stopping_ || connection_ended_) return;
    spdlog::error("the notifier died; starting another");
    start_notifier();
  }

  std::uint64_t requests() const {
    return std::atomic_ref<std::uint64_t>(header_->requests).load(std::memory_order_relaxed);
  }

  // The first worker has the pool open, so there is something to mount.
  Status mount_now() {
    // The worker has looked for programs that map files of these (mappers.h).
    for (const std::string& where : detach_dead_mounts(options_.pool))
      spdlog::warn("the mount at {} had no daemon any more; it is detached", where);
    MountRequest request;
    request.source = options_.pool;
    request.mountpoint = options_.mountpoint;
    request.allow_other = options_.allow_other;
    request.read_only = options_.read_only;
    request.options = options_.kernel_options;
    BTD_ASSIGN(fuse_fd_, mount_fuse(request));
    connection_ = connection_number(options_.mountpoint);
    auto init = read_init(fuse_fd_.get());
    if (!init || init->size() > kMaxInit) {
      detach();
      return init ? fail(EPROTO, "the kernel's INIT is too long; update this program")
                  : Status(std::unexpected(init.error()));
    }
    std::memcpy(header_->init, init->data(), init->size());
    header_->init_bytes = static_cast<std::uint32_t>(init->size());
    return hand_over();
  }

  void worker_said(const ControlMessage& message) {
    switch (message.word) {
      case Word::kPoolOpen:
        if (!fuse_fd_)
          if (auto mounted = mount_now(); !mounted) fail_start(mounted.error());
        break;
      case Word::kReady:
        worker_ready();
        break;
      case Word::kFailed:
        worker_error_ = Error{message.code, message.text};
        break;
      case Word::kEnded:
        connection_ended_ = true;
        break;
      default:
        break;
    }
  }

  void worker_ready() {
    spdlog::debug("worker {} serves {}", worker_, options_.mountpoint);
    if (announced_) return;
    announced_ = true;
    // The kernel has taken the worker's word for it now: later it only gets larger by hand.
    if (!options_.cluster.empty()) set_read_ahead(connection_, kReadAheadKib);
    spdlog::info("{} is mounted on {}", options_.pool, options_.mountpoint);
    sd_notifyf(0, "READY=1\nSTATUS=%s is mounted on %s\nMAINPID=%d", options_.pool.c_str(),
               options_.mountpoint.c_str(), getpid());
    tell_ready_();
  }

  void fail_start(const Error& error) {
    start_error_ = error;
    detach();
    (void)send_control(control_.get(), Word::kStop);
    while (waitpid(worker_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  void reap_worker() {
    int status = 0;
    while (auto message = receive_control(control_.get(), false)) worker_said(*message);
    while (waitpid(worker_, &status, 0) < 0 && errno == EINTR) {
    }
    worker_died_.reset();
    control_.reset();
    const bool clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!announced_) {
      start_error_ = worker_error_
                         ? *worker_error_
                         : Error{EIO, "the worker died before it could serve; see the log"};
      detach();
      return;
    }
    if (connection_ended_ || stopping_) return end(clean);
    if (upgrading_ && clean) {
      spdlog::info("replacing the worker as asked");
      upgrading_ = false;
      return restart(true);
    }
    upgrading_ = false;
    worker_died(status);
  }

  // Whether the kernel gives what a dead worker had read to the next one. Where it does not,
  // programs would wait for good.
  [[nodiscard]] bool sends_again() const {
    proto::InitIn init{};
    if (header_->init_bytes < sizeof init) return false;
    std::memcpy(&init, header_->init, sizeof init);
    return init.minor >= proto::kResendMinor;
  }

  void worker_died(int status) {
    const std::string how =
        WIFSIGNALED(status) ? std::string("was killed by signal ") + sigabbrev_np(WTERMSIG(status))
                            : "exited with code " + std::to_string(WEXITSTATUS(status));
    header_->restarts++;
    if (options_.io_uring) {
      spdlog::critical(
          "the worker {}; over io_uring its requests are lost, so the mount ends. "
          "Mount without -o io_uring to survive this",
          how);
      return give_up();
    }
    if (!sends_again()) {
      spdlog::critical(
          "the worker {}; this kernel does not send its requests again, as Linux 6.9 does, so the "
          "mount ends. Mount it anew",
          how);
      return give_up();
    }
    const std::uint64_t now = monotonic_ns();
    if (requests() != requests_at_start_ || now - first_futile_death_ > kFutileWindowNs) {
      futile_deaths_ = 0;
      first_futile_death_ = now;
    }
    if (++futile_deaths_ >= kMaxFutileDeaths) {
      spdlog::critical(
          "the worker {} for the {}th time without serving anything{}; the mount ends. "
          "Run 'btd check {}'",
          how, futile_deaths_, worker_error_ ? " (" + worker_error_->message + ")" : "",
          options_.pool);
      return give_up();
    }
    spdlog::error("the worker {}; starting another", how);
    restart(false);
  }

  void restart(bool upgrade) {
    worker_error_.reset();
    if (auto started = start_worker(upgrade); !started) {
      spdlog::critical("cannot start a worker: {}; the mount ends", describe(started.error()));
      give_up();
    }
  }

  // --- the end -----------------------------------------------------------------------------------

  void detach() {
    if (!fuse_fd_) return;
    end_connection(connection_, options_.mountpoint);
    fuse_fd_.reset();
    (void)unmount_fuse(options_.mountpoint, true);
  }

  void give_up() {
    detach();
    sd_notify(0, "STATUS=the worker cannot serve; the mount has ended");
    done_ = true;
    exit_code_ = 1;
  }

  void end(bool clean) {
    if (!connection_ended_) detach();
    spdlog::info("{} is unmounted", options_.mountpoint);
    done_ = true;
    exit_code_ = clean ? 0 : 1;
  }

  // Unmounting may wait for the worker, so it happens beside the loop that keeps one alive.
  void begin_unmount() {
    if (unmounter_.joinable()) return;
    sd_notify(0, "STOPPING=1");
    unmounter_ = std::thread([this] {
      const auto done = unmount_fuse(options_.mountpoint, false);
      unmount_error_ = done ? 0 : done.error().code;
      const std::uint64_t one = 1;
      (void)!write(unmounted_.get(), &one, sizeof one);
    });
  }

  void unmount_result() {
    std::uint64_t count = 0;
    (void)!read(unmounted_.get(), &count, sizeof count);
    unmounter_.join();
    // Once unmounted, the worker sees the connection end, closes the pool and says so.
    if (unmount_error_ == 0) return;
    if (unmount_error_ == EBUSY) {
      spdlog::warn(
          "{} is busy: a program has a file or its working directory there. Still serving; "
          "end that program (see 'fuser -vm {}') and stop again, or stop twice to detach",
          options_.mountpoint, options_.mountpoint);
      sd_notifyf(0, "STATUS=%s is busy; not unmounted", options_.mountpoint.c_str());
      refused_once_ = true;
      return;
    }
    spdlog::error("cannot unmount {}: {}", options_.mountpoint, strerrordesc_np(unmount_error_));
    stop_worker();  // it is not mounted there any more
  }

  void stop_worker() {
    stopping_ = true;
    (void)send_control(control_.get(), Word::kStop);
  }

  void stop_asked() {
    if (!announced_) return fail_start(Error{EINTR, "interrupted"});
    if (!refused_once_) return begin_unmount();
    spdlog::warn("detaching {} although it is busy", options_.mountpoint);
    (void)unmount_fuse(options_.mountpoint, true);
    stop_worker();
  }

  // --- events ------------------------------------------------------------------------------------

  void handle_signal() {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof info) != sizeof info) return;
    switch (static_cast<int>(info.ssi_signo)) {
      case SIGTERM:
      case SIGINT:
        stop_asked();
        break;
      case SIGHUP:
        reload();
        break;
      case SIGUSR2:
        if (!announced_ || upgrading_ || stopping_) break;
        if (options_.io_uring) {
          spdlog::warn("a worker over io_uring cannot be replaced; unmount and mount again");
          break;
        }
        upgrading_ = true;
        (void)send_control(control_.get(), Word::kStop, EAGAIN);
        break;
      default:
        break;
    }
  }

  void reload() {
    if (!options_.reload_log_level) return;
    const std::string level = options_.reload_log_level();
    if (auto set = set_log_level(level); !set) {
      spdlog::error("{}", set.error().message);
      return;
    }
    options_.log_level = level;
    (void)send_control(control_.get(), Word::kLogLevel, 0, level);
  }

  void wait_for_events() {
    std::vector<pollfd> fds{{worker_died_.get(), POLLIN, 0},
                            {control_.get(), POLLIN, 0},
                            {signals_.get(), POLLIN, 0},
                            {unmounted_.get(), POLLIN, 0}};
    notifiers_.add_to(fds);
    if (poll(fds.data(), fds.size(), -1) < 0) return;
    if (fds[0].revents != 0) return reap_worker();
    if (fds[1].revents != 0) {
      if (auto message = receive_control(control_.get(), false)) {
        worker_said(*message);
      } else if (message.error().code != EAGAIN) {
        control_.reset();  // it is dying; its pidfd says when it is dead
      }
    }
    if (start_error_) return;
    if (fds[2].revents != 0) handle_signal();
    if (fds[3].revents != 0) unmount_result();
    reap_notifiers();
  }

  MountOptions options_;
  std::function<void()> tell_ready_;
  int lock_fd_ = -1;
  UniqueFd state_fd_, fuse_fd_, signals_, control_, worker_died_, unmounted_;
  StateHeader* header_ = nullptr;
  pid_t worker_ = 0;
  std::string program_;  // what the worker runs
  NotifierKeeper notifiers_;
  unsigned connection_ = 0;
  std::uint64_t requests_at_start_ = 0, first_futile_death_ = 0;
  unsigned futile_deaths_ = 0;
  std::optional<Error> worker_error_, start_error_;
  std::thread unmounter_;
  int unmount_error_ = 0;  // written by unmounter_ before it signals
  bool announced_ = false, connection_ended_ = false, stopping_ = false, upgrading_ = false;
  bool refused_once_ = false, done_ = false;
  int exit_code_ = 0;
};

// What the background process tells the one that the user started.
struct Report {
  std::int32_t code;
  std::uint32_t length;
  char text[480];
};

void send_report(int fd, int code, const std::string& text) {
  Report report{};
  report.code = code;
  report.length = static_cast<std::uint32_t>(std::min(text.size(), sizeof report.text));
  std::copy_n(text.data(), report.length, report.text);
  (void)!write(fd, &report, sizeof report);
}

Result<int> wait_for_report(int fd) {
  Report report{};
  ssize_t n = 0;
  do {
    n = read(fd, &report, sizeof report);
  } while (n < 0 && errno == EINTR);
  if (n != sizeof report) return fail(EIO, "the supervisor died while it was starting; see syslog");
  if (report.code == 0) return 0;
  return fail(report.code, std::string(report.text, std::min<std::size_t>(report.length, 480)));
}

[[noreturn]] void run_in_background(const MountOptions& options, int report_fd) {
  setsid();
  start_log("btd", false, options.log_level);
  bool reported = false;
  Supervisor supervisor(options, [&] {
    send_report(report_fd, 0, {});
    reported = true;
    redirect_standard_streams();
    (void)!chdir("/");
    close(report_fd);
  });
  const auto result = supervisor.run();
  if (!reported && !result) send_report(report_fd, result.error().code, describe(result.error()));
  _exit(result ? *result : 1);
}

}  // namespace

Result<int> run_supervisor(const MountOptions& options) {
  if (options.foreground) {
    start_log("btd", true, options.log_level);
    Supervisor supervisor(options, [] {});
    return supervisor.run();
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return fail(errno);
  UniqueFd ours(fds[0]), theirs(fds[1]);
  const pid_t pid = fork();
  if (pid < 0) return fail(errno, "cannot start the supervisor");
  if (pid == 0) run_in_background(options, theirs.release());
  theirs.reset();
  return wait_for_report(ours.get());
}

}  // namespace btd
