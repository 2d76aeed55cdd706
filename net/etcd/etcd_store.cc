#include "net/etcd/etcd_store.h"

#include <algorithm>
#include <utility>

#include "alloc/metastore_engine.h"
#include "alloc/raise_to.h"

namespace btd::net {
namespace {

constexpr std::size_t kMaxPrefixBytes = 256;
constexpr std::size_t kOwnPage = 256;  // rows of one answer

Status check_options(const EtcdOptions& o) {
  if (o.endpoints.empty())
    return fail(EINVAL, "No etcd endpoint is named; name at least one, as http://host:2379.");
  for (const std::string& endpoint : o.endpoints) {
    if (!endpoint.starts_with("http://") && !endpoint.starts_with("https://"))
      return fail(EINVAL, "The etcd endpoint \"" + endpoint +
                              "\" must begin with http:// or https://, as http://host:2379.");
    if (endpoint.ends_with('/'))
      return fail(EINVAL, "The etcd endpoint \"" + endpoint + "\" must not end with a slash.");
  }
  if (o.prefix.empty() || o.prefix.size() > kMaxPrefixBytes || !o.prefix.ends_with('/'))
    return fail(EINVAL, "The cluster's prefix in etcd must end with a slash and have at most " +
                            std::to_string(kMaxPrefixBytes) + " bytes, as /bartender/.");
  if (o.client.find('/') != std::string::npos || o.client.size() > kMaxPrefixBytes)
    return fail(EINVAL, "The client's name must be short and have no slash in it.");
  if (o.cert_file.empty() != o.key_file.empty())
    return fail(EINVAL, "A client certificate needs its key, and the key its certificate.");
  if (o.lanes == 0) return fail(EINVAL, "Commits need at least one lane.");
  return {};
}

}  // namespace

EtcdStore::EtcdStore(const EtcdOptions& options)
    : options_(options),
      client_(options_),
      watch_(options_, client_, mirror_),
      committer_(options_, client_) {}

Result<std::unique_ptr<EtcdStore>> EtcdStore::open(const EtcdOptions& options) {
  BTD_TRY(check_options(options));
  std::unique_ptr<EtcdStore> store(new EtcdStore(options));
  const EtcdDeadline deadline = EtcdClock::now() + options.open_timeout;
  BTD_TRY(store->committer_.start(deadline));
  BTD_TRY(store->watch_.start(deadline));
  raise_to(store->last_commit_, store->last_change());
  return store;
}

EtcdStore::~EtcdStore() {
  committer_.finish();
  client_.stop();
  mirror_.stop();
  watch_.stop();
}

Result<std::optional<std::string>> EtcdStore::get(std::string_view key) const {
  BTD_TRY(check_key(key));
  if (!committer_.places().is_own(key)) return mirror_.get(key);
  std::optional<std::string> found;
  BTD_TRY(scan_own(key, std::string(key) + '\0', [&](std::string_view, std::string_view value) {
    found = value;
    return true;
  }));
  return found;
}

Status EtcdStore::scan(std::string_view from, std::string_view to, const Visitor& visit) const {
  const std::string& own = options_.own_rows;
  const std::string own_end = prefix_end(own);
  const bool is_before = !to.empty() && to <= own;
  const bool is_behind = !own_end.empty() && from >= own_end;
  if (own.empty() || is_before || is_behind) {
    mirror_.scan(from, to, visit);
    return {};
  }
  bool more = true;
  const Visitor visit_more = [&](std::string_view key, std::string_view value) {
    return more = visit(key, value);
  };
  if (from < own) mirror_.scan(from, own, visit_more);
  const bool is_to_the_end = own_end.empty() || (!to.empty() && to <= own_end);
  if (more)
    BTD_TRY(
        scan_own(std::max<std::string_view>(from, own), is_to_the_end ? to : own_end, visit_more));
  if (more && !is_to_the_end) mirror_.scan(own_end, to, visit_more);
  return {};
}

// Page by page, at one revision.
Status EtcdStore::scan_own(std::string_view from, std::string_view to, const Visitor& visit) const {
  const std::string& place = committer_.places().own;
  const std::string end = to.empty() ? prefix_end(place) : place + std::string(to);
  const EtcdDeadline deadline = EtcdClock::now() + options_.commit_timeout;
  std::string at = place + std::string(from);
  std::int64_t revision = 0;
  for (bool more = true; more;) {
    BTD_ASSIGN(
        const std::string answer,
        client_.ask("/v3/kv/range", etcd_wire::range(at, end, kOwnPage, revision), deadline));
    BTD_ASSIGN(const EtcdPage page, etcd_wire::parse_range(answer, place));
    for (const EtcdRow& row : page.rows)
      if (!visit(row.key, *row.value)) return {};
    if (revision == 0) revision = page.revision;
    more = page.more && !page.rows.empty();
    if (more) at = place + page.rows.back().key + '\0';
  }
  return {};
}

// A stream that does not bring what etcd has committed is given up for another.
Status EtcdStore::wait_for(const EtcdMirror::Goal& goal, EtcdDeadline deadline) {
  while (EtcdClock::now() < deadline && !client_.stopped()) {
    if (mirror_.wait_visible(goal, std::min(deadline, EtcdClock::now() + options_.lag_limit)))
      return {};
    const EtcdWaits::Scope wait(client_.waits(), "mirror behind",
                                "a commit is in etcd, and the watch has not brought it yet");
    watch_.look_elsewhere();
  }
  return fail(EIO, "etcd has decided the commit, but its events do not arrive; look at health().");
}

Status EtcdStore::finish_commit(std::span<const Batch::Change* const> changes,
                                std::int64_t revision, EtcdDeadline deadline) {
  EtcdMirror::Goal goal{revision, {}};
  bool puts = false;
  for (const Batch::Change* c : changes) {
    if (committer_.places().is_own(c->key)) continue;
    puts |= c->value.has_value();
    goal.keys.emplace_back(c->key, std::nullopt);
  }
  if (goal.keys.empty()) return {};
  // Erasing what is absent makes no event to wait for.
  if (puts) goal.keys.clear();
  BTD_TRY(wait_for(goal, deadline));
  if (puts) raise_to(last_commit_, revision);
  if (mirror_.wait_delivered(std::min(revision, mirror_.revision()), deadline)) return {};
  return fail(EIO, "The commit is done, but a watcher that hears of it does not return in time.");
}

// The caller reads again next: it must see at least what refused it.
void EtcdStore::finish_refusal(const Batch& batch, const EtcdCommitter::Outcome& outcome,
                               EtcdDeadline deadline) {
  EtcdMirror::Goal goal{outcome.revision, {}};
  for (std::size_t i = 0; i < outcome.required.size(); ++i) {
    const std::string& key = batch.requirements()[i].key;
    if (!committer_.places().is_own(key)) goal.keys.emplace_back(key, outcome.required[i]);
  }
  if (!goal.keys.empty()) (void)wait_for(goal, deadline);
}

Status EtcdStore::commit(const Batch& batch) {
  BTD_TRY(check_batch(batch));
  if (batch.empty() && batch.requirements().empty()) return {};
  std::vector<const Batch::Change*> changes;
  effective_changes(batch, changes);
  const EtcdDeadline deadline = EtcdClock::now() + options_.commit_timeout;
  EtcdCommitter::Outcome outcome = committer_.commit(batch, changes, deadline);
  if (outcome.status) return finish_commit(changes, outcome.revision, deadline);
  if (outcome.status.error().code != EAGAIN) return std::move(outcome.status);
  finish_refusal(batch, outcome, deadline);
  return requirement_failed();
}

std::unique_ptr<WatchHandle> EtcdStore::watch(std::string_view prefix, Watcher watcher) {
  return mirror_.watch(prefix, std::move(watcher));
}

MetaStore::Stats EtcdStore::stats() const {
  Stats s;
  s.entries = mirror_.entries();
  s.used_bytes = mirror_.bytes();
  s.total_bytes = s.used_bytes;
  s.commits = committer_.counters().commits;
  return s;
}

EtcdHealth EtcdStore::health() {
  EtcdHealth h;
  h.waits = client_.waits().list();
  const EtcdWatch::State watch = watch_.state();
  h.live = watch.live;
  h.endpoint = watch.endpoint;
  h.trouble = watch.trouble;
  h.since = watch.since;
  h.last_heard = watch.last_heard;
  h.streams = watch.streams;
  h.loads = watch.loads;
  h.mirror_revision = mirror_.revision();
  h.commits = committer_.counters();
  const EtcdAnswer answer =
      client_.post("/v3/maintenance/status", "{}", EtcdClock::now() + options_.request_timeout);
  if (answer.kind != EtcdAnswer::Kind::ok) {
    h.trouble = client_.last_trouble() + answer.complaint.text;
    return h;
  }
  const auto status = etcd_wire::parse_status(answer.body);
  if (!status) {
    h.trouble = status.error().message;
    return h;
  }
  h.server_version = status->version;
  h.leader = status->leader;
  h.server_revision = status->revision;
  h.database_bytes = status->db_size;
  return h;
}

}  // namespace btd::net
