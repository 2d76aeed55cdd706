#include "net/etcd/committer.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

namespace btd::net {
namespace {

constexpr std::size_t kSlots = 64;
constexpr std::size_t kGroupBytes = std::size_t{1} << 19U;  // a larger commit travels alone
constexpr std::size_t kRowOverhead = 64;

std::string random_name() {
  std::random_device source;
  std::string name;
  for (int i = 0; i < 16; ++i) name += "0123456789abcdef"[source() % 16];
  return name;
}

std::size_t request_bytes(const Batch& batch) {
  std::size_t bytes = 0;
  for (const auto& r : batch.requirements())  // named again to learn why it failed
    bytes += 2 * r.key.size() + (r.value ? r.value->size() : 0) + kRowOverhead;
  for (const auto& c : batch.changes())
    bytes += c.key.size() + (c.value ? c.value->size() : 0) + kRowOverhead;
  return bytes;
}

// The keys of a group: who changes a key that another one names must go in another request, since
// all conditions of a request are judged before its first change.
class Keys {
 public:
  [[nodiscard]] bool free_for(const Batch& batch) const {
    for (const auto& c : batch.changes())
      if (written_.contains(c.key) || read_.contains(c.key)) return false;
    for (const auto& r : batch.requirements())
      if (written_.contains(r.key)) return false;
    return true;
  }
  void add(const Batch& batch) {
    for (const auto& c : batch.changes()) written_.insert(c.key);
    for (const auto& r : batch.requirements()) read_.insert(r.key);
  }

 private:
  std::set<std::string_view> written_, read_;
};

std::size_t operations(const Batch& batch) {
  return 1 + std::max(batch.requirements().size(), batch.changes().size());
}

Error taken_over() {
  return {EBUSY,
          "Another store was opened under this one's client name, or its rows in etcd were "
          "removed; close this store and open it again, under a name of its own."};
}

}  // namespace

EtcdCommitter::EtcdCommitter(const EtcdOptions& options, EtcdClient& client)
    : options_(options),
      client_(client),
      own_(options.prefix + "t/" + (options.client.empty() ? random_name() : options.client) + "/"),
      places_{options.prefix + "k/", own_ + "r/", options.own_rows},
      incarnation_(random_name()) {}

std::string EtcdCommitter::next_id() { return incarnation_ + ":" + std::to_string(++last_id_); }

// Writing every slot fences off whatever an earlier store of this name may still have under way.
Status EtcdCommitter::start(EtcdDeadline deadline) {
  const std::string first = next_id();
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < kSlots; ++i) {
    keys.push_back(own_ + std::to_string(i));
    slots_.push_back({keys.back(), first, {}, {}});
    free_.push_back(&slots_.back());
  }
  const auto taken = client_.ask(
      "/v3/kv/txn", etcd_wire::take_over(own_ + "owner", incarnation_, keys, first), deadline);
  if (!taken) return std::unexpected(taken.error());
  return {};
}

void EtcdCommitter::finish() {
  if (!options_.client.empty()) return;
  (void)client_.post("/v3/kv/deleterange", etcd_wire::erase(own_, prefix_end(own_)),
                     EtcdClock::now() + options_.connect_timeout);
}

EtcdCommitter::Counters EtcdCommitter::counters() const {
  const std::scoped_lock lock(mutex_);
  return counters_;
}

EtcdCommitter::Outcome EtcdCommitter::commit(const Batch& batch,
                                             std::span<const Batch::Change* const> changes,
                                             EtcdDeadline deadline) {
  Pending self{&batch, changes, deadline, request_bytes(batch)};
  std::unique_lock lock(mutex_);
  queue_.push_back(&self);
  if (queue_.size() + 1 >= crowd_) gathered_.notify_all();
  while (!self.done) {
    if (!self.taken && busy_lanes_ < options_.lanes && !free_.empty()) {
      lead(lock, self);
      continue;
    }
    const auto turn = [&] {
      return self.done || (!self.taken && busy_lanes_ < options_.lanes && !free_.empty());
    };
    if (self.taken) {  // its leader's requests have deadlines
      changed_.wait(lock, turn);
    } else if (!changed_.wait_until(lock, deadline, turn) && !self.taken) {
      std::erase(queue_, &self);
      return {
          std::unexpected(client_.unreachable("take the commit; nothing changed, answer")), 0, {}};
    }
  }
  return std::move(self.outcome);
}

EtcdCommitter::Group EtcdCommitter::take_group(Pending& first) {
  Group group;
  Keys keys;
  std::size_t bytes = 0;
  std::size_t longest = 0;  // operations of the longest commit
  const auto fits = [&](const Pending& p) {
    const std::size_t widest = std::max(longest, operations(*p.batch));
    return bytes + p.bytes <= kGroupBytes &&
           widest + group.size() + 2 <= etcd_wire::kMaxOperations && keys.free_for(*p.batch);
  };
  const auto take = [&](Pending& p) {
    keys.add(*p.batch);
    bytes += p.bytes;
    longest = std::max(longest, operations(*p.batch));
    p.taken = true;
    p.slot = free_.back();
    free_.pop_back();
    group.push_back(&p);
  };
  take(first);
  for (Pending* p : queue_) {
    if (free_.empty()) break;
    if (fits(*p)) take(*p);
  }
  std::erase_if(queue_, [](const Pending* p) { return p->taken; });
  return group;
}

// Threads that committed together come back together: to wait for them makes one request of
// several, which is what etcd and whoever watches it pay for.
void EtcdCommitter::gather(std::unique_lock<std::mutex>& lock) {
  const auto is_whole = [this] { return queue_.size() + 1 >= crowd_; };
  if (!is_whole()) gathered_.wait_until(lock, EtcdClock::now() + options_.gather, is_whole);
}

void EtcdCommitter::lead(std::unique_lock<std::mutex>& lock, Pending& first) {
  ++busy_lanes_;
  first.taken = true;
  std::erase(queue_, &first);
  gather(lock);
  const Group group = take_group(first);
  EtcdDeadline deadline = first.deadline;
  for (const Pending* p : group) deadline = std::min(deadline, p->deadline);
  lock.unlock();
  run(group, deadline);
  lock.lock();
  --busy_lanes_;
  crowd_ = group.size() + queue_.size();
  for (Pending* p : group) {
    (p->slot->attempted.empty() ? free_ : doubtful_).push_back(p->slot);
    p->done = true;
    counters_.commits += p->outcome.status.has_value();
  }
  changed_.notify_all();
}

void EtcdCommitter::run(Group group, EtcdDeadline deadline) {
  for (unsigned round = 0; !group.empty(); ++round) {
    Status ready = settle_earlier(deadline);
    if (ready && EtcdClock::now() >= deadline)
      ready = std::unexpected(client_.unreachable("take the commit; nothing changed, answer"));
    if (ready && client_.stopped()) ready = fail(ECANCELED, "The store is being closed.");
    if (!ready) {
      for (Pending* p : group) p->outcome.status = ready;
      return;
    }
    if (round > 0) client_.pause(round - 1, deadline);
    attempt(group, deadline);
  }
}

void EtcdCommitter::attempt(Group& group, EtcdDeadline deadline) {
  std::vector<EtcdCommit> commits;
  {
    const std::scoped_lock lock(mutex_);
    ++counters_.requests;
    for (Pending* p : group) {
      p->slot->attempted = next_id();
      commits.push_back(
          {p->batch->requirements(), p->changes, p->slot->key, p->slot->known, p->slot->attempted});
    }
  }
  const EtcdAnswer answer =
      client_.post("/v3/kv/txn", etcd_wire::commits(commits, places_, own_ + "together"), deadline);
  switch (answer.kind) {
    case EtcdAnswer::Kind::ok:
      return read_results(group, answer, commits, deadline);
    case EtcdAnswer::Kind::refused:
      return refused(group, answer, deadline);
    case EtcdAnswer::Kind::unsent:
      for (Pending* p : group) p->slot->attempted.clear();
      return;
    case EtcdAnswer::Kind::lost:
      return resolve(group, deadline);
  }
}

void EtcdCommitter::read_results(Group& group, const EtcdAnswer& answer,
                                 std::span<const EtcdCommit> commits, EtcdDeadline deadline) {
  auto results = etcd_wire::parse_commits(answer.body, commits);
  if (!results || !look(*results, commits, deadline)) return resolve(group, deadline);
  for (std::size_t i = 0; i < group.size(); ++i)
    decide(*group[i], results->results[i], results->revision, answer.maybe_twice);
  std::erase_if(group, [](const Pending* p) { return p->slot->attempted.empty(); });
  if (!group.empty()) resolve(group, deadline);
}

Status EtcdCommitter::look(EtcdCommitAnswer& answer, std::span<const EtcdCommit> commits,
                           EtcdDeadline deadline) {
  std::vector<EtcdCommit> refused;
  for (std::size_t i = 0; i < commits.size(); ++i)
    if (!answer.results[i].applied) refused.push_back(commits[i]);
  if (refused.empty()) return {};
  BTD_ASSIGN(const std::string seen,
             client_.ask("/v3/kv/txn", etcd_wire::looks(refused, places_), deadline));
  BTD_ASSIGN(EtcdCommitAnswer looked, etcd_wire::parse_looks(seen, refused));
  auto next = looked.results.begin();
  for (EtcdCommitResult& result : answer.results) {
    if (result.applied) continue;
    result = std::move(*next++);
    result.refused_at = looked.revision;
  }
  return {};
}

// Clears the slot's attempt where the outcome is known.
void EtcdCommitter::decide(Pending& p, EtcdCommitResult& result, std::int64_t revision,
                           bool maybe_twice) {
  Slot& slot = *p.slot;
  if (result.applied || result.slot == slot.attempted) {
    p.outcome.status = {};
    p.outcome.revision = result.applied ? revision : result.slot_modified;
    slot.known = std::exchange(slot.attempted, {});
    return;
  }
  if (result.slot != slot.known) {
    p.outcome.status = std::unexpected(taken_over());
    slot.attempted.clear();
    return;
  }
  if (maybe_twice) return;  // the other one may still be on its way
  p.outcome.status = fail(EAGAIN, "A requirement of the commit does not hold; read again.");
  p.outcome.revision = result.refused_at;
  p.outcome.required = std::move(result.required);
  slot.attempted.clear();
}

void EtcdCommitter::refused(Group& group, const EtcdAnswer& answer, EtcdDeadline deadline) {
  if (answer.complaint.refusal == EtcdRefusal::no_space)
    return after_no_space(group, answer, deadline);
  if (answer.maybe_twice) return resolve(group, deadline);
  for (Pending* p : group) p->slot->attempted.clear();
  if (answer.complaint.refusal == EtcdRefusal::busy) return;
  const Error error = etcd_error(answer.complaint);
  for (Pending* p : group) p->outcome.status = std::unexpected(error);
  group.clear();
}

// A server that just ran out of room may carry out the transaction it complains about, and refuses
// later ones. It has answered, so the row tells.
void EtcdCommitter::after_no_space(Group& group, const EtcdAnswer& answer, EtcdDeadline deadline) {
  const Error error = etcd_error(answer.complaint);
  for (Pending* p : group) {
    Slot& slot = *p->slot;
    const auto read = client_.ask("/v3/kv/range", etcd_wire::range(slot.key, {}, 1, 0), deadline);
    const auto page = read ? etcd_wire::parse_range(*read, slot.key)
                           : Result<EtcdPage>(std::unexpected(read.error()));
    const bool known = page && page->rows.size() == 1;
    if (known && page->rows[0].value == slot.attempted) {
      p->outcome.revision = page->rows[0].modified;
      slot.known = std::exchange(slot.attempted, {});
    } else if (known && !answer.maybe_twice) {
      p->outcome.status = std::unexpected(error);
      slot.attempted.clear();
    } else {
      p->outcome.status = fail(EIO, "Whether the commit happened is unknown. " + error.message);
    }
  }
  group.clear();
}

// Those that did not happen stay in the group, to be sent again.
void EtcdCommitter::resolve(Group& group, EtcdDeadline deadline) {
  std::vector<Slot*> slots;
  for (const Pending* p : group) slots.push_back(p->slot);
  std::vector<std::int64_t> committed;
  const Status settled = settle(slots, deadline, committed);
  Group again;
  for (std::size_t i = 0; i < group.size(); ++i) {
    Outcome& outcome = group[i]->outcome;
    if (!settled) {
      const std::scoped_lock lock(mutex_);
      ++counters_.in_doubt;
      outcome.status = settled.error().code == EBUSY
                           ? settled
                           : fail(EIO,
                                  "Whether the commit happened is unknown, and will be found out "
                                  "before the next one; read again when etcd answers. " +
                                      settled.error().message);
    } else if (committed[i] > 0) {
      outcome.status = {};
      outcome.revision = committed[i];
    } else {
      again.push_back(group[i]);
    }
  }
  group = std::move(again);
}

std::vector<EtcdCommit> EtcdCommitter::fences(std::span<Slot* const> slots) {
  const std::scoped_lock lock(mutex_);
  ++counters_.fences;
  std::vector<EtcdCommit> out;
  for (Slot* slot : slots) {
    if (slot->fence.empty()) slot->fence = next_id();
    out.push_back({{}, {}, slot->key, slot->known, slot->fence});
  }
  return out;
}

// Finds out whether each slot's attempt happened, and makes sure that it does not happen later.
// `committed`: the revision of each that did, else 0.
Status EtcdCommitter::settle(std::span<Slot* const> slots, EtcdDeadline deadline,
                             std::vector<std::int64_t>& committed) {
  const EtcdWaits::Scope wait(client_.waits(), "commit in doubt",
                              "an answer was lost, and whether the commit happened is being asked");
  const std::vector<EtcdCommit> asked = fences(slots);
  const std::string body = etcd_wire::commits(asked, places_, own_ + "together");
  for (unsigned round = 0;; ++round) {
    BTD_ASSIGN(const std::string answer, client_.ask("/v3/kv/txn", body, deadline));
    auto results = etcd_wire::parse_commits(answer, asked);
    const Status looked =
        results ? look(*results, asked, deadline) : std::unexpected(results.error());
    if (!looked) {
      if (EtcdClock::now() >= deadline || client_.stopped()) return std::unexpected(looked.error());
      client_.pause(round, deadline);
      continue;
    }
    committed.assign(slots.size(), 0);
    bool lost = false;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      Slot& slot = *slots[i];
      const EtcdCommitResult& result = results->results[i];
      const bool happened = !result.applied && result.slot == slot.attempted;
      lost |= !happened && !result.applied && result.slot != slot.fence;
      if (happened) committed[i] = result.slot_modified;
      slot.known = happened ? slot.attempted : slot.fence;
      slot.attempted.clear();
      slot.fence.clear();
    }
    if (lost) return std::unexpected(taken_over());
    return {};
  }
}

// Commits that were given up in doubt come first, so that none of them happens after a later one.
Status EtcdCommitter::settle_earlier(EtcdDeadline deadline) {
  std::vector<Slot*> slots;
  {
    const std::scoped_lock lock(mutex_);
    slots.swap(doubtful_);
  }
  if (slots.empty()) return {};
  std::vector<std::int64_t> committed;
  Status settled = settle(slots, deadline, committed);
  const std::scoped_lock lock(mutex_);
  for (Slot* slot : slots) (slot->attempted.empty() ? free_ : doubtful_).push_back(slot);
  return settled;
}

}  // namespace btd::net
