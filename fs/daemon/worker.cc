// The worker: opens the pool, takes the connection over from the supervisor, serves, and closes the
// pool when it is told to stop or the connection ends. It may be killed at any instruction.
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "fs/cluster/join.h"
#include "fs/daemon/backing_socket.h"
#include "fs/daemon/cluster_node.h"
#include "fs/daemon/control.h"
#include "fs/daemon/lock_requests.h"
#include "fs/daemon/log.h"
#include "fs/daemon/loop.h"
#include "fs/daemon/mappers.h"
#include "fs/daemon/mounting.h"
#include "fs/daemon/notifier_client.h"
#include "fs/daemon/ops_coherent.h"
#include "fs/daemon/server.h"

namespace btd {

namespace {

constexpr unsigned kMaxThreads = 32;  // leaves slots for the requests of earlier workers
constexpr unsigned kMaxWrite = 1 << 20;
constexpr std::size_t kHeaderRoom = 4096;
constexpr unsigned kDefaultIdleIds = 4096;

// About what a wake-up across processors takes. A lone processor is left to the client.
unsigned default_spin_us() { return get_nprocs() > 1 ? 50 : 0; }

unsigned default_threads() { return std::clamp(2U * static_cast<unsigned>(get_nprocs()), 4U, 16U); }

// libfuse asks for the options of the connection while it answers INIT.
void on_init(void* userdata, fuse_conn_info* conn) {
  Server& s = *static_cast<Server*>(userdata);
  s.protocol_minor = conn->proto_minor;
  conn->no_interrupt = 1;
  conn->max_write = std::min(conn->max_write, kMaxWrite);
  conn->max_backing_stack_depth = FUSE_BACKING_STACKED_UNDER;
  for (std::uint64_t wanted :
       {FUSE_CAP_PASSTHROUGH, FUSE_CAP_HANDLE_KILLPRIV_V2, FUSE_CAP_NO_EXPORT_SUPPORT,
        FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_ATOMIC_O_TRUNC, FUSE_CAP_NO_OPENDIR_SUPPORT,
        FUSE_CAP_CACHE_SYMLINKS, FUSE_CAP_READDIRPLUS, FUSE_CAP_READDIRPLUS_AUTO})
    fuse_set_feature_flag(conn, wanted);
  for (std::uint64_t unwanted : {FUSE_CAP_WRITEBACK_CACHE, FUSE_CAP_SPLICE_READ,
                                 FUSE_CAP_SPLICE_WRITE, FUSE_CAP_SPLICE_MOVE, FUSE_CAP_POSIX_ACL})
    fuse_unset_feature_flag(conn, unwanted);
  if (s.coherent != nullptr) {
    fuse_set_feature_flag(conn, FUSE_CAP_DIRECT_IO_ALLOW_MMAP);
    // Only words of other nodes drop pages: a size or time that is new drops none.
    fuse_unset_feature_flag(conn, FUSE_CAP_AUTO_INVAL_DATA);
    fuse_set_feature_flag(conn, FUSE_CAP_EXPLICIT_INVAL_DATA);
  }
  if (!s.args.io_uring) {
    fuse_unset_feature_flag(conn, FUSE_CAP_OVER_IO_URING);
    return;
  }
  s.over_io_uring = fuse_get_feature_flag(conn, FUSE_CAP_OVER_IO_URING);
  if (!s.over_io_uring) {
    s.transport_note =
        "io_uring was asked for and the kernel does not offer it: "
        "echo 1 > /sys/module/fuse/parameters/enable_uring, then mount again";
    spdlog::warn("{}", s.transport_note);
  }
}

fuse_session* new_session(Server& s) {
  static fuse_lowlevel_ops ops{};
  ops.init = on_init;
  install_name_ops(ops);
  install_attr_ops(ops);
  install_xattr_ops(ops);
  install_dir_ops(ops);
  install_data_ops(ops);
  // Answers from other threads hang over io_uring; there the kernel keeps each node's locks.
  if (!s.args.cluster.empty() && !s.args.io_uring) install_lock_ops(ops);
  std::string program = "btd", option = "-oio_uring";
  char* argv[] = {program.data(), option.data(), nullptr};
  fuse_args args = FUSE_ARGS_INIT(s.args.io_uring ? 2 : 1, argv);
  fuse_session* session = fuse_session_new(&args, &ops, sizeof ops, &s);
  fuse_opt_free_args(&args);
  return session;
}

class Worker {
 public:
  explicit Worker(const WorkerArgs& args) : args_(args) {}
  ~Worker() {
    if (notifier_) notifier_->stop();
    if (cluster_) cluster_->end(false);
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Result<int> run() {
    BTD_TRY(prepare_signals());
    if (auto opened = open_pool(); !opened) return give_up(opened.error());
    BTD_TRY(send_control(args_.control_fd, Word::kPoolOpen));
    BTD_ASSIGN(const bool connected, connect());
    if (!connected) return finish();
    if (auto started = start(); !started) return give_up(started.error());
    if (supervised_ && !send_control(args_.control_fd, Word::kReady)) supervised_ = false;
    watch();
    return finish();
  }

 private:
  // A worker ends when its supervisor says so; the signals of a terminal or of a service manager
  // reach both, and the supervisor must unmount first.
  Status prepare_signals() {
    sigset_t set;
    sigemptyset(&set);
    // Of leases that meet an open (files_leaving.cc); the open waits for their end.
    ::signal(SIGIO, SIG_IGN);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGPIPE}) sigaddset(&set, signal);
    sigprocmask(SIG_SETMASK, &set, nullptr);
    signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    ended_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!signals_ || !ended_) return fail(errno, "cannot make descriptors for signals");
    return {};
  }

  Status open_pool() {
    BTD_ASSIGN(state_, StateTable::attach(args_.state_fd));
    lock_fd_ = args_.lock_fd;
    BTD_ASSIGN(pool_, Pool::open(args_.pool, PoolLock::inherited(lock_fd_)));
    const unsigned idle = args_.idle_ids != 0 ? args_.idle_ids : kDefaultIdleIds;
    if (args_.cluster.empty()) {
      BTD_TRY(cluster::judge_alone(pool_->meta(), args_.pool));
      BTD_ASSIGN(names_, Namespace::open(pool_->meta()));
      files_ = std::make_unique<FileTable>(*state_, *names_, pool_->backing(), idle);
      return {};
    }
    BTD_TRY(enter_cluster());
    BTD_ASSIGN(names_, Namespace::open(cluster_->store(), cluster_->id()));
    files_ = std::make_unique<FileTable>(*state_, *names_, pool_->backing(), idle, cluster_->id(),
                                         cluster_->home_of());
    return cluster_->serve(*names_, *files_, state_->header().workers != 0);
  }

  // Programs have files open in the mount of a worker that died, and etcd may be away as long as it
  // likes: one that replaces it tries until it is told to stop.
  Status enter_cluster() {
    for (;;) {
      auto node = ClusterNode::open(args_.cluster, args_.version, *pool_, *state_);
      if (node) {
        cluster_ = *std::move(node);
        return {};
      }
      const bool is_away = node.error().code == EHOSTUNREACH || node.error().code == ETIMEDOUT;
      if (state_->header().workers == 0 || !is_away)
        return std::unexpected(std::move(node).error());
      spdlog::error("{}; trying again", node.error().message);
      pollfd told{args_.control_fd, POLLIN, 0};
      if (poll(&told, 1, 1000) > 0) return fail(EINTR, "it was told to stop");
    }
  }

  Result<int> give_up(const Error& error) {
    spdlog::error("{}", error.message.empty() ? strerrordesc_np(error.code) : error.message);
    (void)send_control(args_.control_fd, Word::kFailed, error.code, error.message);
    return 1;
  }

  // Waits until the supervisor hands the connection over. False: it wants no worker after all.
  Result<bool> connect() {
    for (;;) {
      auto message = receive_control(args_.control_fd, true);
      if (!message || message->word == Word::kStop) return false;
      if (message->word == Word::kLogLevel) (void)set_log_level(message->text);
      if (message->word == Word::kNotifier) notifier_link_ = link_in(*message);
      if (message->word != Word::kServe) continue;
      fuse_fd_ = message->fd.release();
      return true;
    }
  }

  static NotifierLink link_in(ControlMessage& message) {
    return {.socket = std::move(message.fd), .pid = message.code};
  }

  Status start() {
    server_ = std::make_unique<Server>(Server{args_, *pool_, *names_, *state_, *files_, metrics_});
    virtual_tree_ = std::make_unique<VirtualTree>(*server_);
    server_->virtual_tree = virtual_tree_.get();
    server_->tickets = &tickets_;
    server_->started_ns = monotonic_ns();
    session_ = new_session(*server_);
    server_->session = session_;
    if (cluster_) {
      if (state_->header().workers == 0) BTD_TRY(note_mount(pool_->meta(), args_.mountpoint));
      server_->cluster = cluster_.get();
      server_->remote = &cluster_->remote();
      notifier_ =
          std::make_unique<NotifierClient>(fuse_fd_, args_.mountpoint, state_->header().workers);
      notifier_->start(std::move(notifier_link_));
      server_->notifier = notifier_.get();
      server_->coherent = &cluster_->coherent(*server_);
    }
    const std::string device = "/dev/fd/" + std::to_string(fuse_fd_);
    if (session_ == nullptr || fuse_session_mount(session_, device.c_str()) != 0)
      return fail(EIO, "libfuse cannot take the connection over");
    answer_init();
    choose_data_path();
    if (cluster_ && !args_.io_uring) {
      locks_ = std::make_unique<LockRequests>(
          cluster_->locks(), cluster_->remote(), cluster_->kernel(), session_, *notifier_,
          cluster_->id(), files_->passthrough(), cluster_->home_of());
      server_->locks = locks_.get();
    }
    open_backing_socket();
    BTD_ASSIGN(const auto orphans, names_->orphans());
    BTD_TRY(names_->collect_unnamed([this](InodeId id) { return pool_->backing().exists(id); },
                                    [this](InodeId id) { return remove_for_good(id); }));
    RequestLoop::Options options;
    options.threads = std::min(args_.threads != 0 ? args_.threads : default_threads(), kMaxThreads);
    options.spin_us = args_.spin_us >= 0 ? static_cast<unsigned>(args_.spin_us) : default_spin_us();
    options.share_processor = args_.share_processor;
    options.buffer_bytes = kMaxWrite + kHeaderRoom;
    if (cluster_) {
      options.node = cluster_->id();
      options.home_of = cluster_->home_of();
    }
    if (locks_) options.interrupted = [this](std::uint64_t unique) { locks_->interrupt(unique); };
    if (notifier_)
      options.notified = [this](std::uint64_t number, std::size_t bytes) {
        notifier_->retrieved(number, bytes);
      };
    if (cluster_) cluster_->start_telling(session_, *notifier_, state_->header().workers != 0);
    loop_ = std::make_unique<RequestLoop>(session_, fuse_fd_, *state_, options, [this] {
      const std::uint64_t one = 1;
      (void)!write(ended_.get(), &one, sizeof one);
    });
    if (server_->coherent != nullptr) coherent_ops::recover(*server_);
    ask_for_resend();
    loop_->execute_resent([&] { files_->recover(orphans); });
    loop_->start();
    return {};
  }

  // Durable, for the next start looks at other ids.
  Status remove_for_good(InodeId id) const {
    BTD_TRY(pool_->backing().remove(id));
    return pool_->backing().sync_removals({&id, 1});
  }

  // The first worker answers the kernel with this. For a later one it only sets libfuse up: the
  // kernel drops a second answer to the same request.
  void answer_init() {
    StateHeader& header = state_->header();
    fuse_buf buf{};
    buf.mem = header.init;
    buf.size = header.init_bytes;
    fuse_session_process_buf(session_, &buf);
  }

  void choose_data_path() {
    server_->passthrough_reason =
        args_.passthrough ? files_->enable_passthrough(fuse_fd_, lock_fd_) : "it was switched off";
    if (!files_->passthrough())
      spdlog::info("files go through the page cache: {}", server_->passthrough_reason);
    if (server_->protocol_minor >= proto::kPruneMinor) files_->enable_prune();
  }

  // Before any request is served: who gets a ticket from this worker finds this worker's socket.
  void open_backing_socket() {
    const std::string path = BackingSocket::path_of(lock_fd_);
    if (!files_->passthrough() || path.empty()) return;
    auto opened = BackingSocket::open(
        path, [this](const backing::Ticket& ticket) { return pass_backing(ticket); });
    if (!opened) {
      spdlog::warn("programs get no backing files: {}", opened.error().message);
      return;
    }
    backing_socket_ = std::move(*opened);
    server_->backing_socket = path;
  }

  Result<UniqueFd> pass_backing(const backing::Ticket& ticket) {
    const auto grant = tickets_.take(ticket, monotonic_ns());
    if (!grant) return fail(EKEYEXPIRED, "the ticket is unknown, used or too old; take another");
    const auto inode = names_->get(grant->id);
    if (!inode) return fail(ESTALE, "the file was removed");
    BTD_ASSIGN(const int flags, backing_flags(grant->handle, inode->mode));
    return files_->descriptor_to_pass(grant->id, flags);
  }

  void ask_for_resend() {
    StateHeader& header = state_->header();
    if (header.workers++ == 0) return;
    proto::OutHeader message{sizeof message, proto::kNotifyResend, 0};
    if (write(fuse_fd_, &message, sizeof message) < 0)
      spdlog::error("asking the kernel to send requests again: {}", strerrordesc_np(errno));
  }

  // Sleeps until there is a reason to stop.
  void watch() {
    for (;;) {
      pollfd fds[3] = {{ended_.get(), POLLIN, 0},
                       {signals_.get(), POLLIN, 0},
                       {supervised_ ? args_.control_fd : -1, POLLIN, 0}};
      if (poll(fds, 3, -1) < 0 && errno != EINTR) return;
      if (fds[0].revents != 0) {
        connection_ended_ = true;
        return;
      }
      // First whether there still is a supervisor: what a signal means depends on it.
      if (fds[2].revents != 0 && told_to_stop()) return;
      if (fds[1].revents != 0 && stop_signal()) return;
    }
  }

  bool stop_signal() {
    signalfd_siginfo info{};
    if (read(signals_.get(), &info, sizeof info) != sizeof info) return false;
    const auto signal = static_cast<int>(info.ssi_signo);
    if (supervised_ || (signal != SIGTERM && signal != SIGINT)) return false;
    spdlog::info("stopping; there is no supervisor to unmount {}, so it is detached",
                 args_.mountpoint);
    (void)unmount_fuse(args_.mountpoint, true);
    return true;
  }

  bool told_to_stop() {
    auto message = receive_control(args_.control_fd, false);
    if (!message) {
      if (message.error().code == EAGAIN) return false;
      spdlog::warn("the supervisor is gone; serving on, but nobody will replace this worker");
      supervised_ = false;
      if (notifier_) notifier_->last_one();
      return false;
    }
    if (message->word == Word::kLogLevel) (void)set_log_level(message->text);
    if (message->word == Word::kNotifier && notifier_) notifier_->use(link_in(*message));
    is_replaced_ = message->word == Word::kStop && message->code != 0;
    return message->word == Word::kStop;
  }

  Result<int> finish() {
    backing_socket_.reset();
    if (loop_) {
      loop_->stop();
      loop_->join();
    }
    if (notifier_) notifier_->stop();
    if (cluster_) leave_cluster();
    files_.reset();
    const Status closed = pool_->close();
    if (!closed) spdlog::error("closing the pool: {}", closed.error().message);
    if (connection_ended_ && supervised_) (void)send_control(args_.control_fd, Word::kEnded);
    return closed ? 0 : 1;
  }

  // A mount that was detached, or whose connection was ended, may still be mapped: as long as that
  // is so, other nodes are not to get its pages.
  void leave_cluster() {
    if (is_replaced_) return cluster_->end(false);
    end_connection_if_used();
    const Status ended =
        names_ ? end_mappers(pool_->meta(), pool_->facts().path, *names_) : Status{};
    if (!ended) spdlog::error("the node does not leave the cluster: {}", ended.error().message);
    cluster_->end(ended.has_value());
    if (!ended) return;
    if (auto forgotten = forget_mount(pool_->meta()); !forgotten)
      spdlog::warn("noting in the pool that it is unmounted: {}", forgotten.error().message);
  }

  // Of a mount that was detached and is in use: programs that wait in it could not be looked at.
  // The number is this connection's as long as that lives.
  void end_connection_if_used() const {
    pollfd connection{fuse_fd_, POLLIN, 0};
    if (fuse_fd_ < 0 || poll(&connection, 1, 0) < 0 || (connection.revents & POLLERR) != 0) return;
    if (const auto noted = noted_mount(pool_->meta()); noted && *noted)
      (void)abort_connection((*noted)->device);
  }

  const WorkerArgs& args_;
  bool supervised_ = true;
  bool connection_ended_ = false;
  bool is_replaced_ = false;  // by another worker, that serves the same mount
  int lock_fd_ = -1;
  int fuse_fd_ = -1;
  UniqueFd signals_, ended_;
  std::unique_ptr<StateTable> state_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<ClusterNode> cluster_;  // it uses the two below until its end()
  std::unique_ptr<Namespace> names_;
  std::unique_ptr<FileTable> files_;
  Metrics metrics_;
  Tickets tickets_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<VirtualTree> virtual_tree_;
  fuse_session* session_ = nullptr;  // lives until the process ends
  NotifierLink notifier_link_;       // until there is a client for it
  std::unique_ptr<NotifierClient> notifier_;
  std::unique_ptr<LockRequests> locks_;
  std::unique_ptr<RequestLoop> loop_;
  std::unique_ptr<BackingSocket> backing_socket_;  // its thread uses the parts above
};

}  // namespace

Result<int> run_worker(const WorkerArgs& args) {
  start_log("btd-worker", args.foreground, args.log_level);
  Worker worker(args);
  return worker.run();
}

}  // namespace btd
