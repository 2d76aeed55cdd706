#include "fs/daemon/cluster_node.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <future>

#include "fs/cluster/health.h"
#include "fs/cluster/join.h"
#include "fs/daemon/mappers.h"
#include "fs/daemon/server.h"
#include "fs/daemon/status_cluster.h"
#include "fs/namespace/layout.h"
#include "net/tcp/tcp.h"

namespace btd {

namespace {

// How long a request waits for another node. A home that restarts is back sooner.
constexpr net::Time kPatience = std::chrono::seconds(10);
// Peers come back within it to the files without a name that they had open before this worker, and
// to what they had locked.
constexpr net::Time kGrace = std::chrono::seconds(15);
// The same of coherent files after an earlier mount: nobody knows who used them.
constexpr net::Time kFirstGrace = std::chrono::seconds(2);
// Of answers to messages for something to go with.
constexpr net::Time kLate = std::chrono::milliseconds(1);
// Where the engine takes no task just now.
constexpr std::chrono::milliseconds kPause{10};

Result<std::unique_ptr<net::Engine>> tcp_engine(const net::Security& security, NodeId node,
                                                net::Epoch epoch, bool is_lent) {
  net::TcpOptions options;
  options.engine.is_lent = is_lent;  // its thread always waits in it
  if (is_lent) options.engine.late = kLate;
  options.security = security;
  options.engine.node = node;
  options.engine.epoch = epoch;
  options.engine.before_sleep = about_to_sleep;
  return net::make_tcp_engine(options);
}

// Before the node is a member again, and its pages others'.
Status end_last_mappers(Pool& pool, MetaStore& store) {
  BTD_ASSIGN(const auto noted, noted_mount(pool.meta()));
  if (!noted) return {};
  // The files of another cluster have the same numbers; join() says what is wrong.
  BTD_ASSIGN(const auto own, cluster::membership(pool.meta()));
  BTD_ASSIGN(const auto there, cluster::identity(store));
  if (!own || !there || own->uuid != there->uuid) return {};
  BTD_ASSIGN(const auto names, Namespace::open(store));
  return end_mappers(pool.meta(), pool.facts().path, *names);
}

}  // namespace

// --- Opening ---

ClusterNode::ClusterNode(std::string file, cluster::Options options,
                         std::unique_ptr<net::EtcdStore> store, const BackingStore& backing,
                         StateTable& state)
    : file_(std::move(file)),
      options_(std::move(options)),
      backing_(backing),
      etcd_(std::move(store)),
      placement_(*etcd_),
      kernel_(state),
      foreign_(
          *etcd_, [this](const WatchEvent& event) { heard(event); }, about_to_sleep),
      reached_(etcd_->watch_revisions([this](std::int64_t at) { kernel_.reached(at); })),
      state_(state),
      lock_records_(state.locks(), state.header()) {}

Result<std::unique_ptr<ClusterNode>> ClusterNode::open(const std::string& file,
                                                       const std::string& version, Pool& pool,
                                                       StateTable& state) {
  BTD_ASSIGN(cluster::Options options, cluster::load(file));
  options.etcd.client = pool.facts().uuid;
  options.etcd.own_rows = std::string_view(rows::result_key(0, 0)).substr(0, 1);
  BTD_ASSIGN(auto store, net::EtcdStore::open(options.etcd));
  const bool is_new = state.header().workers == 0;
  if (is_new) BTD_TRY(end_last_mappers(pool, *store));
  std::unique_ptr<ClusterNode> node(
      new ClusterNode(file, std::move(options), std::move(store), pool.backing(), state));
  BTD_ASSIGN(node->self_,
             cluster::join(pool, node->foreign_, node->options_, version,
                           is_new ? cluster::Entry::kNewMount : cluster::Entry::kAgain));
  node->draining_.store(node->self_.is_draining);
  node->take_epoch();
  return node;
}

ClusterNode::~ClusterNode() { end(false); }

// --- What others changed ---

// On the store's thread, and commits wait for it: it only notes.
void ClusterNode::heard(const WatchEvent& event) {
  const std::string_view key = event.key;
  constexpr std::size_t kOrphanKey = 1 + sizeof(InodeId), kMemberKey = 1 + sizeof(std::uint64_t);
  if (key.starts_with('o') && key.size() == kOrphanKey) {
    const InodeId id = rows::number_at(key, 1);
    if (placement_.home(id) != self_.id) return;
    kernel_.then([this, id, is_orphan = event.value.has_value()] {
      if (serving_.load()) heard_of_orphan(id, is_orphan);
    });
  } else if (key.starts_with(cluster::kMemberPrefix) && key.size() == kMemberKey) {
    heard_of_member(static_cast<NodeId>(rows::number_at(key, 1)));
  } else if (key == std::string_view(cluster::epoch_key())) {
    kernel_.then([this] { take_epoch(); });
  } else {
    kernel_.changed(event);
  }
}

void ClusterNode::heard_of_orphan(InodeId id, bool is_orphan) {
  is_orphan ? files_->orphaned(id) : files_->named(id);
}

// A node that left says so when its kernel has nothing of the mount any more; one that is mounted
// anew has ended who mapped what was of the mount before.
void ClusterNode::heard_of_member(NodeId node) {
  kernel_.then([this, node] {
    if (!serving_.load()) return;
    const auto member = cluster::member(*etcd_, node);
    if (node == self_.id && member && *member) draining_.store((*member)->is_draining);
    if (!member) return;
    if (!*member) return coherent_->gone(node, coherent::Node::kAllMounts);
    const std::uint64_t last = (*member)->mounts;
    (*member)->is_mounted ? coherent_->mounted(node, last) : coherent_->gone(node, last);
  });
}

void ClusterNode::take_epoch() {
  const auto now = cluster::epoch(*etcd_);
  if (!now) return spdlog::error("{}", now.error().message);
  epoch_.store(*now);
  if (!serving_.load()) return;
  remote_->set_epoch(*now);
  if (auto told = engine_->submit([this] { engine_->set_epoch(epoch_.load()); }); !told)
    spdlog::warn("the epoch {} is not served yet: {}", *now, told.error().message);
}

Result<std::vector<cluster::Member>> ClusterNode::others_for_new() const {
  BTD_ASSIGN(auto members, cluster::members(*etcd_));
  std::erase_if(members, [&](const cluster::Member& member) {
    return member.id == self_.id || !member.gets_new_files();
  });
  return members;
}

// One after the other, so that all get some.
std::optional<NodeId> ClusterNode::home_for_new(InodeId id) const {
  if (!draining_.load()) return std::nullopt;
  const auto members = others_for_new();
  if (!members || members->empty()) return std::nullopt;
  return (*members)[id % members->size()].id;
}

Result<NodeId> ClusterNode::emptiest() const {
  BTD_ASSIGN(const auto others, others_for_new());
  BTD_ASSIGN(const std::uint64_t own, backing_.room());
  NodeId best = self_.id;
  std::uint64_t most = draining_.load() ? 0 : own;
  for (const cluster::Member& member : others) {
    const auto room = remote_->room_at(member.id);
    if (!room || *room <= most) continue;  // one that does not answer is to get no files
    best = member.id;
    most = *room;
  }
  return best;
}

Status ClusterNode::give(InodeId id, NodeId to) {
  if (to == self_.id) return {};
  BTD_ASSIGN(const auto member, cluster::member(*etcd_, to));
  if (!member || !member->gets_new_files())
    return fail(EHOSTUNREACH, "node " + std::to_string(to) + " is not there to get files");
  if (service_->locks().is_used(id)) return fail(EBUSY, "a program has a lock on it");
  const auto given = std::make_shared<std::promise<Status>>();
  auto future = given->get_future();
  if (!mover_->run_later([this, id, to, given] { given->set_value(home_->give(id, to)); }))
    return fail(EBUSY, "too many files are to be moved here already");
  about_to_sleep();
  if (future.wait_for(kPatience) == std::future_status::ready) return future.get();
  return fail(EBUSY, "the node moves other files, or etcd does not answer");
}

// --- Serving ---

Result<std::string> ClusterNode::address_of(NodeId node) const {
  BTD_ASSIGN(const auto member, cluster::member(*etcd_, node));
  if (!member)
    return fail(EHOSTUNREACH, "node " + std::to_string(node) + " is no member of the cluster");
  return member->address;
}

// Peers' calls and connections; all else is the engine's.
class ClusterNode::Peers final : public net::Handler {
 public:
  Peers(net::Engine& engine, remote::HomeFiles& files, CoherentKernel& kernel,
        const coherent::Node::Options& options, net::Time lock_grace, remote::NameRevision names)
      : rpc_(engine, *this),
        coherent_(engine, rpc_, files, kernel, options),
        service_(engine, rpc_, files,
                 {.own = options.own,
                  .home_of = options.home_of,
                  .lock_grace = lock_grace,
                  .names = std::move(names)}) {}

  void on_completion(net::Endpoint& endpoint, const net::Completion& completion) override {
    coherent_.on_completion(endpoint, completion);
  }
  int on_message(net::Endpoint& endpoint, std::span<const std::byte> message) override {
    return coherent_.on_message(endpoint, message);
  }
  void on_up(net::Endpoint& endpoint) override { coherent_.on_up(endpoint); }
  void on_closed(net::Endpoint& endpoint, const Error&) override {
    service_.closed(endpoint);
    coherent_.on_closed(endpoint);
  }
  [[nodiscard]] net::Handler& handler() { return rpc_; }
  [[nodiscard]] remote::FileService& service() { return service_; }
  [[nodiscard]] coherent::Node& coherent() { return coherent_; }
  void serve_health(std::function<void(net::Rpc::Reply)> answer) {
    rpc_.serve<cluster::HealthRequest, cluster::HealthResponse>(
        cluster::kHealth,
        [answer = std::move(answer)](const auto&, const auto&, auto, net::Rpc::Reply reply) {
          answer(std::move(reply));
        });
  }
  void serve_bring(std::function<void(InodeId, net::Rpc::Reply)> bring) {
    rpc_.serve<cluster::BringRequest, cluster::BringResponse>(
        cluster::kBring,
        [bring = std::move(bring)](const auto&, const cluster::BringRequest& asked, auto,
                                   net::Rpc::Reply reply) { bring(asked.id, std::move(reply)); });
  }

 private:
  net::Rpc rpc_;
  coherent::Node coherent_;
  remote::FileService service_;  // last: its end polls the engine, which calls the others
};

coherent::Node::Options ClusterNode::coherent_options() {
  const bool is_first = state_.header().workers == 0;
  return {.own = self_.id,
          .home_of = home_of(),
          .mount = self_.mounts,
          .former = former_users(),
          .grace = is_first ? kFirstGrace : kGrace,
          .rules = {},
          .locate = [this](NodeId node) { return address_of(node); },
          .used_by = [this](NodeId node) { note_user(node); }};
}

// Whose kernels may have pages of the files that lie here: those that an earlier worker noted, and
// this one's. After an earlier mount nobody knows, so it may be any node.
std::vector<NodeId> ClusterNode::former_users() {
  const StateHeader& header = state_.header();
  std::vector<NodeId> nodes;
  if (header.workers != 0) {
    nodes.assign(header.user, header.user + header.users);
    nodes.push_back(self_.id);
  } else if (const auto members = cluster::members(*etcd_)) {
    for (const cluster::Member& member : *members)
      if (member.is_mounted && member.id != self_.id) nodes.push_back(member.id);
  }
  return nodes;
}

// On the engine's thread alone. The number is written after the name that it counts.
void ClusterNode::note_user(NodeId node) {
  StateHeader& header = state_.header();
  const auto end = header.user + header.users;
  if (header.users >= kMaxUsers || std::find(header.user, end, node) != end) return;
  *end = node;
  std::atomic_ref(header.users).store(header.users + 1, std::memory_order_release);
}

CoherentKernel& ClusterNode::coherent(Server& server) {
  coherent_kernel_.start(server, *coherent_);
  return coherent_kernel_;
}

Status ClusterNode::serve(Namespace& names, FileTable& files, bool recovering) {
  files_ = &files;
  home_ = std::make_unique<DaemonHomeFiles>(names, files, backing_, kernel_);
  const auto engines = [this] {
    return tcp_engine(options_.security, self_.id, epoch_.load(), false);
  };
  const auto locate = [this](NodeId node) { return address_of(node); };
  const remote::Homes homes{.home_of = home_of(), .own = self_.id};
  remote_ = std::make_unique<remote::RemoteFiles>(engines, locate, kPatience,
                                                  remote::RemoteLimits{}, homes);
  BTD_TRY(settle_earlier_moves(names));
  mover_ = std::make_unique<Mover>(Mover::Parts{.store = foreign_,
                                                .names = names,
                                                .files = files,
                                                .backing = backing_,
                                                .placement = placement_,
                                                .own = self_.id,
                                                .connect =
                                                    [engines, locate, homes] {
                                                      return std::make_unique<remote::RemoteFiles>(
                                                          engines, locate, kPatience,
                                                          remote::RemoteLimits{}, homes);
                                                    },
                                                .epoch = [this] { return epoch_.load(); }});
  const auto now = std::chrono::steady_clock::now();
  home_->allow_moves({.store = &foreign_,
                      .own = self_.id,
                      .not_before = may_have_had_files(names) ? now + kGrace : now,
                      .left = [this](InodeId id) { mover_->clean(id); }});
  if (recovering) note_earlier_opens(names);
  BTD_ASSIGN(std::vector<InodeId> held, names.orphans());
  std::erase_if(held, [&](InodeId id) { return !files.hold(id); });
  // A region would keep the space of a file that was removed.
  files.tell_gone([this](InodeId id) {
    if (serving_.load()) service_->data_gone(id);
  });
  std::promise<Status> started;
  thread_ = std::thread([&] { run(started, std::move(held), recovering); });
  BTD_TRY(started.get_future().get());
  auto locks = std::make_unique<remote::LockCalls>(
      self_.id, service_->locks(), lock_records_, engines, locate, kPatience, home_of(),
      [this] { return static_cast<std::uint64_t>(etcd_->last_commit()); });
  BTD_TRY(locks->restore(lock_records_.take_over()));
  {
    const std::scoped_lock lock(locks_mutex_);
    locks_ = std::move(locks);
  }
  BTD_ASSIGN(const std::vector<InodeId> copies, cluster::copies_at(*etcd_, self_.id));
  for (const InodeId id : copies) mover_->clean(id);
  serving_.store(true);
  take_epoch();  // it may have moved on meanwhile, and members come and gone
  BTD_ASSIGN(const auto members, cluster::all_members(*etcd_));
  for (const cluster::Member& member : members) heard_of_member(member.id);
  if (!earlier_.empty()) adopter_ = std::thread([this] { adopt_all(); });
  return {};
}

// A commit that an earlier worker began could still arrive, after programs use the file here again.
Status ClusterNode::settle_earlier_moves(const Namespace& names) {
  BTD_ASSIGN(const auto copies, cluster::copies(*etcd_));
  for (const cluster::Copy& copy : copies) {
    if (copy.is_fenced || copy.node == self_.id) continue;
    BTD_ASSIGN(const NodeId home, names.home(copy.id));
    if (home == self_.id) BTD_TRY(cluster::settle_copy(foreign_, copy.id, copy.node));
  }
  return {};
}

// Else nobody has any of them open.
bool ClusterNode::may_have_had_files(const Namespace& names) const {
  return !names.is_new() || placement_.is_home(self_.id);
}

// --- After another worker ---

// Those of coherent files are coherent_ops::recover()'s.
void ClusterNode::note_earlier_opens(const Namespace& names) {
  state_.for_each([this](const StateEntry& entry) {
    if (entry.opens != 0 && placement_.home(entry.id) != self_.id)
      earlier_[entry.id].opens = entry.opens;
  });
  std::erase_if(earlier_, [&](const auto& one) {
    const auto inode = names.get(one.first);
    return inode && (inode->flags & kInodeCoherent) != 0;
  });
}

bool ClusterNode::adopt(InodeId id) {
  std::unique_lock lock(earlier_mutex_);
  const auto found = earlier_.find(id);
  if (found == earlier_.end()) return false;
  Earlier& earlier = found->second;
  earlier_changed_.wait(lock, [&] { return !earlier.is_under_way; });
  if (earlier.is_open || earlier.opens == 0) return earlier.is_open;
  earlier.is_under_way = true;
  lock.unlock();
  const bool is_open = remote_->open(id, true).has_value();
  lock.lock();
  earlier.is_under_way = false;
  earlier.is_open = is_open && earlier.opens > 0;
  // These ask nobody.
  if (earlier.is_open)
    for (std::uint32_t i = 1; i < earlier.opens; ++i) (void)remote_->open(id, true);
  const bool is_closed = is_open && !earlier.is_open;  // meanwhile
  lock.unlock();
  earlier_changed_.notify_all();
  if (is_closed) remote_->close(id);
  return is_open && !is_closed;
}

bool ClusterNode::disown(InodeId id) {
  const std::scoped_lock lock(earlier_mutex_);
  const auto found = earlier_.find(id);
  if (found == earlier_.end() || found->second.is_open || found->second.opens == 0) return false;
  --found->second.opens;
  return true;
}

void ClusterNode::adopt_all() {
  std::vector<InodeId> ids;
  for (const auto& [id, earlier] : earlier_) ids.push_back(id);
  for (const InodeId id : ids) {
    if (stopping_.load()) return;
    (void)adopt(id);
  }
}

// --- The service's thread ---

// The service's thread: the engine is its own from the first to the last.
void ClusterNode::run(std::promise<Status>& started, std::vector<InodeId> held, bool recovering) {
  auto engine = tcp_engine(options_.security, self_.id, epoch_.load(), true);
  if (!engine) return started.set_value(std::unexpected(std::move(engine).error()));
  engine_ = *std::move(engine);
  Peers peers(*engine_, *home_, coherent_kernel_, coherent_options(),
              recovering && state_.header().peers_locked != 0 ? kGrace : net::Time{},
              [this] { return static_cast<std::uint64_t>(etcd_->last_change()); });
  peers.serve_health([this](net::Rpc::Reply reply) { answer_health(std::move(reply)); });
  peers.serve_bring([this](InodeId id, net::Rpc::Reply reply) { bring(id, std::move(reply)); });
  service_ = &peers.service();
  coherent_ = &peers.coherent();
  auto listening =
      engine_->listen(options_.listen, [&](net::Endpoint&) { return &peers.handler(); });
  if (!listening)
    return started.set_value(
        fail(listening.error().code, "peers can't reach this node at " + options_.listen +
                                         " ([node] listen): " + listening.error().message));
  if (!held.empty())
    engine_->at(engine_->now() + kGrace, [this, held = std::move(held)] {
      kernel_.then([this, held] {
        for (const InodeId id : held) files_->unhold(id);
      });
    });
  started.set_value({});
  while (!stopping_.load()) {
    if (auto done = engine_->wait(net::kNever); !done) {
      spdlog::critical("peers can't be served any more, so another worker takes over: {}",
                       done.error().message);
      std::_Exit(1);
    }
  }
  health_ = {};
  (void)engine_->poll();  // what it still had to say
  health_reply_.reset();
  bring_replies_.clear();
}

// On the engine's thread, but the status asks etcd, for which no peer should wait.
void ClusterNode::answer_health(net::Rpc::Reply reply) {
  if (health_reply_) return reply.fail({EBUSY, "somebody else asks for it just now"});
  health_reply_.emplace(std::move(reply));
  health_ = std::jthread([this] {
    const auto text = std::make_shared<const std::string>(status_of(*this).dump());
    const auto answer = [this, text] {
      health_reply_->answer(cluster::HealthResponse{}, std::as_bytes(std::span(*text)));
      health_reply_.reset();
    };
    while (!stopping_.load() && !engine_->submit(answer)) std::this_thread::sleep_for(kPause);
  });
}

// On the engine's thread; the mover's answers.
void ClusterNode::bring(InodeId id, net::Rpc::Reply reply) {
  if (draining_.load()) return reply.fail({EROFS, "the node is being drained"});
  const std::uint64_t number = next_bring_++;
  const auto found = bring_replies_.emplace(number, std::move(reply)).first;
  const auto told = [this, number](const Result<cluster::BringResponse>& result) {
    const auto answer = [this, number, result] {
      const auto waiting = bring_replies_.find(number);
      if (waiting == bring_replies_.end()) return;
      if (result) {
        waiting->second.answer(*result);
      } else {
        waiting->second.fail(result.error());
      }
      bring_replies_.erase(waiting);
    };
    while (!stopping_.load() && !engine_->submit(answer)) std::this_thread::sleep_for(kPause);
  };
  if (mover_->bring(id, told)) return;
  found->second.fail({EBUSY, "too many files are to be moved here already"});
  bring_replies_.erase(found);
}

// What it tells and does for others may need the service, so that goes last.
void ClusterNode::end(bool leaves) {
  std::unique_ptr<remote::LockCalls> locks;
  {
    const std::scoped_lock lock(locks_mutex_);
    locks.swap(locks_);
  }
  kernel_.end_asks();
  locks.reset();
  coherent_kernel_.stop();
  if (home_) home_->stop();
  if (mover_) mover_->stop();
  if (leaves && thread_.joinable() && serving_.load()) coherent_->leave();
  kernel_.stop();
  serving_.store(false);
  stopping_.store(true);
  if (adopter_.joinable()) adopter_.join();
  if (thread_.joinable()) {
    engine_->wake();
    thread_.join();
  }
  if (!leaves) return;
  if (auto left = cluster::leave(*etcd_, self_.id); !left)
    spdlog::warn("the cluster still takes this node for mounted: {}", left.error().message);
}

ClusterNode::Facts ClusterNode::facts() {
  Facts facts{
      .options = options_, .self = self_, .epoch = epoch_.load(), .is_draining = draining_.load()};
  if (auto members = cluster::members(*etcd_)) facts.members = *std::move(members);
  facts.etcd = etcd_->health();
  facts.kernel = kernel_.counts();
  facts.remote = remote_->counters();
  facts.service = service_->counters();
  {
    const std::scoped_lock lock(locks_mutex_);
    if (locks_) facts.locks_lost = locks_->lost();
  }
  if (auto coherent = coherent_->facts()) facts.coherent = *std::move(coherent);
  if (const NotifierClient* notifier = notifier_.load()) facts.notifier = notifier->counts();
  facts.waits = remote_->waits();
  facts.file = file_;
  if (const auto space = backing_.statfs()) facts.space = *space;
  return facts;
}

Result<std::optional<ClusterNode::Unmapped>> unmapped_for_peers(const Server& s, InodeId id) {
  if (s.cluster == nullptr) return std::optional<ClusterNode::Unmapped>{};
  about_to_sleep();
  BTD_ASSIGN(auto unmapped, s.cluster->unmapped(id));
  return std::optional(std::move(unmapped));
}

}  // namespace btd
