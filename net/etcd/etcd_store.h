// EtcdStore: the MetaStore engine of a cluster, rows in etcd and a mirror of them in memory.
//
// Reads are answered from the mirror, so they cost what a map costs, go on while etcd is away, and
// show the state of one revision: at least that of this store's last commit, and soon that of
// others. A commit is one etcd transaction (net/etcd/committer.h); it returns when the mirror shows
// it and the watchers heard of it. docs/design/etcd.md tells the whole.
//
// Watchers run on a thread of the store's own. Thread-safety: any thread, any call.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "alloc/metastore.h"
#include "net/etcd/client.h"
#include "net/etcd/committer.h"
#include "net/etcd/mirror.h"
#include "net/etcd/options.h"
#include "net/etcd/watch.h"

namespace btd::net {

struct EtcdHealth {
  bool live = false;     // the mirror follows etcd
  std::string endpoint;  // that the watch is connected to
  std::string server_version;
  std::uint64_t leader = 0;           // 0: none, or unknown
  std::int64_t mirror_revision = 0;   // of the last change seen
  std::int64_t server_revision = -1;  // -1: no server answers. Other users of etcd raise it too
  std::int64_t database_bytes = 0;
  std::string trouble;  // the last one, or empty
  EtcdClock::time_point since, last_heard;
  std::uint64_t streams = 0, loads = 0;  // watches begun, and whole loads, since open
  EtcdCommitter::Counters commits;
  std::vector<EtcdWait> waits;  // what is waited for just now, and why
};

class EtcdStore final : public MetaStore {
 public:
  // Errors: EINVAL for options that cannot be; EHOSTUNREACH, EACCES, ENOSPC.
  static Result<std::unique_ptr<EtcdStore>> open(const EtcdOptions& options);
  ~EtcdStore() override;
  EtcdStore(const EtcdStore&) = delete;
  EtcdStore& operator=(const EtcdStore&) = delete;

  // Of own rows (EtcdOptions) they ask a server, for at most the commit's timeout: EHOSTUNREACH.
  [[nodiscard]] Result<std::optional<std::string>> get(std::string_view key) const override;
  Status scan(std::string_view from, std::string_view to, const Visitor& visit) const override;
  // Errors besides MetaStore's: EHOSTUNREACH no server answers, nothing changed; EACCES; EBUSY
  // another store was opened under this one's client name. After EIO the batch is in doubt: the
  // answer was lost and no server told in time, or the mirror does not follow.
  Status commit(const Batch& batch) override;
  [[nodiscard]] std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                   Watcher watcher) override;
  [[nodiscard]] Stats stats() const override;  // bytes are the mirror's keys and values

  // Revisions of etcd that are of changes of rows here, so that each store comes to them: of the
  // last change that is known here, and of the last one that a commit of this store made, or
  // somebody before it was opened.
  [[nodiscard]] std::int64_t last_change() const { return mirror_.last_change(); }
  [[nodiscard]] std::int64_t last_commit() const { return last_commit_.load(); }
  // EtcdMirror's.
  [[nodiscard]] std::unique_ptr<WatchHandle> watch_revisions(EtcdMirror::Reached reached) {
    return mirror_.watch_revisions(std::move(reached));
  }

  // Asks a server, for at most the request timeout.
  [[nodiscard]] EtcdHealth health();

 private:
  explicit EtcdStore(const EtcdOptions& options);
  Status scan_own(std::string_view from, std::string_view to, const Visitor& visit) const;
  Status wait_for(const EtcdMirror::Goal& goal, EtcdDeadline deadline);
  Status finish_commit(std::span<const Batch::Change* const> changes, std::int64_t revision,
                       EtcdDeadline deadline);
  void finish_refusal(const Batch& batch, const EtcdCommitter::Outcome& outcome,
                      EtcdDeadline deadline);

  const EtcdOptions options_;
  mutable EtcdClient client_;
  EtcdMirror mirror_;
  EtcdWatch watch_;
  EtcdCommitter committer_;
  std::atomic<std::int64_t> last_commit_{0};
};

}  // namespace btd::net
