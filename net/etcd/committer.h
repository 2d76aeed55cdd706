// EtcdCommitter: sends commits, several in one request, and finds out what became of each.
//
// Slots. A commit takes one of the client's slots: a row of its own in etcd. Its transaction
// requires that the row holds what this client last knew there, and puts a new id in. Thus a commit
// happens at most once however often it is sent. Where the answer is lost, a fence follows: a
// transaction that moves the row from the known id to a third one. Either the fence is applied,
// and the commit has not happened and never will; or the row holds the commit's id, and it has.
//
// Lanes. A thread whose commit finds a free lane sends it, with all waiting commits that touch
// none of the same keys; each keeps conditions of its own inside the request.
//
// Thread-safety: any thread. mutex_ is not held during requests; it is taken before the client's.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "net/etcd/client.h"
#include "net/etcd/wire.h"

namespace btd::net {

class EtcdCommitter {
 public:
  struct Outcome {
    // ok; or EAGAIN; EHOSTUNREACH and ENOSPC: nothing happened and nothing will; EIO: in doubt;
    // EBUSY: another store took this one's name; E2BIG, EACCES.
    Status status;
    std::int64_t revision = 0;  // ok: of the commit; EAGAIN: in which it was refused
    std::vector<std::optional<std::int64_t>> required;  // EAGAIN: see EtcdCommitResult
  };
  struct Counters {
    std::uint64_t requests = 0, commits = 0, fences = 0, in_doubt = 0;
  };

  EtcdCommitter(const EtcdOptions& options, EtcdClient& client);
  EtcdCommitter(const EtcdCommitter&) = delete;
  EtcdCommitter& operator=(const EtcdCommitter&) = delete;

  // Takes the slots over from whoever had the client's name.
  Status start(EtcdDeadline deadline);
  Outcome commit(const Batch& batch, std::span<const Batch::Change* const> changes,
                 EtcdDeadline deadline);
  // Removes the slots' rows, as far as etcd answers; only for a drawn name.
  void finish();
  [[nodiscard]] Counters counters() const;
  [[nodiscard]] const EtcdPlaces& places() const { return places_; }

 private:
  struct Slot {
    std::string key;
    std::string known;      // what the row held when it was last heard of
    std::string attempted;  // the id of a commit whose outcome is unknown; else empty
    std::string fence;      // the id of the fence against it
  };
  struct Pending {
    const Batch* batch;
    std::span<const Batch::Change* const> changes;
    EtcdDeadline deadline;
    std::size_t bytes = 0;
    bool taken = false, done = false;
    Slot* slot = nullptr;
    Outcome outcome;
  };
  using Group = std::vector<Pending*>;

  [[nodiscard]] std::string next_id();
  void gather(std::unique_lock<std::mutex>& lock);
  [[nodiscard]] Group take_group(Pending& first);
  void lead(std::unique_lock<std::mutex>& lock, Pending& first);
  void run(Group group, EtcdDeadline deadline);
  // One request; those that need another one stay in the group.
  void attempt(Group& group, EtcdDeadline deadline);
  void read_results(Group& group, const EtcdAnswer& answer, std::span<const EtcdCommit> commits,
                    EtcdDeadline deadline);
  // Of those that were refused, why: what their slots hold and what is required.
  Status look(EtcdCommitAnswer& answer, std::span<const EtcdCommit> commits, EtcdDeadline deadline);
  void decide(Pending& p, EtcdCommitResult& result, std::int64_t revision, bool maybe_twice);
  void refused(Group& group, const EtcdAnswer& answer, EtcdDeadline deadline);
  void resolve(Group& group, EtcdDeadline deadline);
  void after_no_space(Group& group, const EtcdAnswer& answer, EtcdDeadline deadline);
  Status settle(std::span<Slot* const> slots, EtcdDeadline deadline,
                std::vector<std::int64_t>& committed);
  Status settle_earlier(EtcdDeadline deadline);
  [[nodiscard]] std::vector<EtcdCommit> fences(std::span<Slot* const> slots);

  const EtcdOptions& options_;
  EtcdClient& client_;
  const std::string own_;  // prefix of the client's slots
  const EtcdPlaces places_;
  const std::string incarnation_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable gathered_;  // by the leaders that gather
  std::deque<Slot> slots_;
  std::vector<Slot*> free_, doubtful_;
  std::deque<Pending*> queue_;  // bounded by the number of committing threads
  unsigned busy_lanes_ = 0;
  // Who committed at once lately: those of the last request, and who waited when it ended.
  std::size_t crowd_ = 0;
  std::uint64_t last_id_ = 0;
  Counters counters_;
};

}  // namespace btd::net
