// ClusterNode: what makes a worker a node of a cluster: the store in etcd, this node's membership,
// the files that lie at other nodes, and the service of those that lie here.
//
// Life: open(), then serve() when the namespace and the files are there, start_telling() when the
// connection is; end() before they go.
// Thread-safety: any thread, but open(), serve(), start_telling() and end() in this order by one.
#pragma once

#include <sys/statvfs.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "alloc/result.h"
#include "fs/cluster/foreign_changes.h"
#include "fs/cluster/members.h"
#include "fs/cluster/options.h"
#include "fs/cluster/placement.h"
#include "fs/coherent/node.h"
#include "fs/daemon/coherent_kernel.h"
#include "fs/daemon/home_files.h"
#include "fs/daemon/kernel_cache.h"
#include "fs/daemon/lock_records.h"
#include "fs/daemon/mover.h"
#include "fs/daemon/notifier_client.h"
#include "fs/remote/file_service.h"
#include "fs/remote/lock_calls.h"
#include "fs/remote/remote_files.h"
#include "net/etcd/etcd_store.h"

namespace btd {

struct Server;

class ClusterNode {
 public:
  using Unmapped = remote::FileService::Unmapped;

  // Reads the cluster file, opens the store and enters the cluster. Errors: those of
  // cluster::load(), EtcdStore::open() and cluster::join().
  static Result<std::unique_ptr<ClusterNode>> open(const std::string& file,
                                                   const std::string& version, Pool& pool,
                                                   StateTable& state);
  ~ClusterNode();
  ClusterNode(const ClusterNode&) = delete;
  ClusterNode& operator=(const ClusterNode&) = delete;

  [[nodiscard]] MetaStore& store() { return foreign_; }
  [[nodiscard]] NodeId id() const { return self_.id; }
  [[nodiscard]] HomeOf home_of() const {
    return [this](InodeId id) { return placement_.home(id); };
  }

  // Where the data of a new file are to lie, if not here: this node is being drained.
  [[nodiscard]] std::optional<NodeId> home_for_new(InodeId id) const;

  // The mounted node whose pool has the most room, of those that get new files.
  [[nodiscard]] Result<NodeId> emptiest() const;
  // Lets an empty file of this node, which nobody uses, lie at another. Errors: EHOSTUNREACH that
  // one is not mounted; EBUSY.
  Status give(InodeId id, NodeId to);

  // Lets peers reach the files. `recovering`: another worker served this mount before, so programs
  // have files of other nodes open. Errors: those of the engine; EADDRINUSE, …
  Status serve(Namespace& names, FileTable& files, bool recovering);
  void start_telling(fuse_session* session, NotifierClient& notifier, bool forget) {
    notifier_.store(&notifier);
    kernel_.start(session, notifier, forget);
  }
  [[nodiscard]] KernelCache& kernel() { return kernel_; }
  [[nodiscard]] remote::RemoteFiles& remote() { return *remote_; }
  [[nodiscard]] remote::LockCalls& locks() { return *locks_; }
  // Before the first request; `server` outlives end().
  CoherentKernel& coherent(Server& server);
  // As long as the value lives, no peer has the file mapped: it may become shorter.
  Result<Unmapped> unmapped(InodeId id) { return service_->before_shrink(id); }

  // Files of other nodes that programs had open when an earlier worker died. adopt() opens one as
  // often as it was, if that was not done yet; false: it is none of them, or can't be opened.
  // disown(): one open less of it, true if it was not adopted yet. All are adopted in the
  // background, for their homes keep what they know of the earlier worker for a while only.
  bool adopt(InodeId id);
  bool disown(InodeId id);

  // No peer is served any more. `leaves`: and the cluster is told that the node is not mounted.
  void end(bool leaves);

  struct Facts {
    cluster::Options options;
    cluster::Member self;
    std::uint64_t epoch = 0;
    bool is_draining = false;
    std::vector<cluster::Member> members;
    net::EtcdHealth etcd;
    KernelCache::Counts kernel;
    remote::RemoteFiles::Counters remote;
    remote::FileService::Counters service;
    std::uint64_t locks_lost = 0;
    coherent::Node::Facts coherent;
    NotifierClient::Counts notifier;
    std::vector<remote::Caller::Wait> waits;
    std::string file;        // the cluster file
    struct statvfs space{};  // of the pool
  };
  // Asks a server of etcd, for at most its timeout.
  [[nodiscard]] Facts facts();

 private:
  ClusterNode(std::string file, cluster::Options options, std::unique_ptr<net::EtcdStore> store,
              const BackingStore& backing, StateTable& state);
  class Peers;

  void heard(const WatchEvent& event);
  void take_epoch();
  [[nodiscard]] Result<std::vector<cluster::Member>> others_for_new() const;
  void heard_of_orphan(InodeId id, bool is_orphan);
  void heard_of_member(NodeId node);
  [[nodiscard]] coherent::Node::Options coherent_options();
  [[nodiscard]] std::vector<NodeId> former_users();
  void note_user(NodeId node);
  Result<std::string> address_of(NodeId node) const;
  void run(std::promise<Status>& started, std::vector<InodeId> held, bool recovering);
  void note_earlier_opens(const Namespace& names);
  void answer_health(net::Rpc::Reply reply);
  void bring(InodeId id, net::Rpc::Reply reply);
  Status settle_earlier_moves(const Namespace& names);
  [[nodiscard]] bool may_have_had_files(const Namespace& names) const;
  void adopt_all();

  const std::string file_;
  const cluster::Options options_;
  const BackingStore& backing_;
  const std::unique_ptr<net::EtcdStore> etcd_;
  const cluster::Placement placement_;
  KernelCache kernel_;
  cluster::ForeignChanges foreign_;
  const std::unique_ptr<WatchHandle> reached_;  // tells the kernel's cache
  cluster::Member self_;
  std::atomic<std::uint64_t> epoch_{0};
  std::atomic<bool> serving_{false}, stopping_{false};
  std::atomic<bool> draining_{false};
  std::atomic<const NotifierClient*> notifier_{nullptr};
  FileTable* files_ = nullptr;
  StateTable& state_;
  std::mutex earlier_mutex_;
  std::condition_variable earlier_changed_;
  struct Earlier {
    std::uint32_t opens = 0;
    bool is_open = false, is_under_way = false;
  };
  std::unordered_map<InodeId, Earlier> earlier_;  // complete before any request is served
  std::thread adopter_;

  std::unique_ptr<remote::RemoteFiles> remote_;
  std::unique_ptr<DaemonHomeFiles> home_;
  // Of the service: made, used and ended by thread_, but for what any thread may call.
  std::unique_ptr<net::Engine> engine_;
  remote::FileService* service_ = nullptr;
  coherent::Node* coherent_ = nullptr;
  CoherentKernel coherent_kernel_;
  std::thread thread_;
  LockRecords lock_records_;
  std::mutex locks_mutex_;  // of locks_, for facts(): it comes late and goes early
  std::unique_ptr<remote::LockCalls> locks_;                          // uses the service
  std::optional<net::Rpc::Reply> health_reply_;                       // thread_'s
  std::unordered_map<std::uint64_t, net::Rpc::Reply> bring_replies_;  // likewise
  std::uint64_t next_bring_ = 1;                                      // likewise
  std::unique_ptr<Mover> mover_;
  std::jthread health_;  // of one answer at a time
};

// As ClusterNode::unmapped(), also of a node of no cluster, which need not do anything.
Result<std::optional<ClusterNode::Unmapped>> unmapped_for_peers(const Server& s, InodeId id);

}  // namespace btd
