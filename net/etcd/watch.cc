#include "net/etcd/watch.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "net/etcd/grpc.h"

namespace btd::net {
namespace {

constexpr std::size_t kFirstPage = 512, kLargestPage = 8192;
constexpr std::size_t kGoodPageBytes = std::size_t{1} << 20U;

std::size_t bytes_of(const EtcdPage& page) {
  std::size_t bytes = 0;
  for (const EtcdRow& row : page.rows) bytes += row.key.size() + row.value->size();
  return bytes;
}

}  // namespace

EtcdWatch::EtcdWatch(const EtcdOptions& options, EtcdClient& client, EtcdMirror& mirror)
    : options_(options),
      client_(client),
      mirror_(mirror),
      from_(options.prefix + "k/"),
      to_(prefix_end(from_)),
      grpc_(options),
      stream_(options) {}

Status EtcdWatch::start(EtcdDeadline deadline) {
  BTD_TRY(load(deadline));
  thread_ = std::thread([this] { run(); });
  return {};
}

void EtcdWatch::stop() {
  stopping_.store(true);
  grpc_.stop();
  stream_.stop();
  if (thread_.joinable()) thread_.join();
}

void EtcdWatch::look_elsewhere() {
  {
    const std::scoped_lock lock(mutex_);
    if (!state_.live || EtcdClock::now() - state_.since < options_.lag_limit) return;
    state_.since = EtcdClock::now();
  }
  stop_stream();
}

EtcdWatch::State EtcdWatch::state() const {
  const std::scoped_lock lock(mutex_);
  return state_;
}

Status EtcdWatch::load(EtcdDeadline deadline) {
  const EtcdWaits::Scope wait(client_.waits(), "mirror load",
                              "all rows are read, as the watch cannot go on from where it was");
  for (;;) {
    const Status loaded = load_at_one_revision(deadline);
    // Compacted while its pages were read: the next round begins at a later revision.
    if (loaded || loaded.error().code != ESTALE || EtcdClock::now() >= deadline) return loaded;
  }
}

Status EtcdWatch::load_at_one_revision(EtcdDeadline deadline) {
  EtcdMirror::Rows rows;
  std::string from = from_;
  std::int64_t revision = 0;
  std::size_t limit = kFirstPage;
  for (bool more = true; more;) {
    BTD_ASSIGN(const std::string answer,
               client_.ask("/v3/kv/range", etcd_wire::range(from, to_, limit, revision),
                           std::min(deadline, EtcdClock::now() + 4 * options_.request_timeout)));
    BTD_ASSIGN(EtcdPage page, etcd_wire::parse_range(answer, from_));
    if (revision == 0) {
      revision = page.revision;
      cluster_ = page.cluster;
    }
    const std::size_t bytes = bytes_of(page);
    if (bytes < kGoodPageBytes) limit = std::min(limit * 2, kLargestPage);
    if (bytes > 4 * kGoodPageBytes) limit = std::max<std::size_t>(limit / 2, 16);
    more = page.more && !page.rows.empty();
    if (more) from = from_ + page.rows.back().key + '\0';
    for (EtcdRow& row : page.rows)
      rows.insert_or_assign(std::move(row.key), EtcdMirror::Row{*std::move(row.value), row.created,
                                                                row.modified, row.version});
  }
  mirror_.replace(std::move(rows), revision);
  const std::scoped_lock lock(mutex_);
  ++state_.loads;
  return {};
}

void EtcdWatch::run() {
  unsigned failures = 0;
  while (!stopping_.load()) {
    try {
      follow(failures);
    } catch (const std::exception& e) {  // no memory: what is half done is done again
      set_broken(e.what());
      must_load_ = true;
      ++failures;
    }
    if (!stopping_.load() && failures > 0)
      client_.pause(failures - 1, EtcdClock::now() + std::chrono::seconds(1));
  }
}

// One load if it is needed, and one stream until it ends.
void EtcdWatch::follow(unsigned& failures) {
  if (must_load_) {
    const Status loaded = load(EtcdClock::now() + options_.open_timeout);
    if (!loaded) {
      ++failures;
      return set_broken(loaded.error().message);
    }
    must_load_ = false;
  }
  const auto asked = request();
  if (!asked) {
    ++failures;
    return set_broken(asked.error().message);
  }
  pending_.clear();
  pending_bytes_ = 0;
  reason_.clear();
  lost_login_ = false;
  std::string trouble;
  was_foreign_ = !read_stream(*asked, trouble);
  if (stopping_.load() || was_foreign_) return;
  if (!reason_.empty()) trouble = reason_;
  if (lost_login_) client_.forget_token(asked->token);
  failures = state().live ? 1 : failures + 1;
  set_broken(stream_endpoint_ + ": " + trouble);
  if (!must_load_) client_.move_on(stream_endpoint_, trouble);
}

// False: it can't be had by gRPC, and was not tried otherwise yet.
bool EtcdWatch::read_stream(const HttpRequest& request, std::string& trouble) {
  const auto on_message = [&](std::string_view text) { return !stopping_.load() && take(text); };
  bool was_stopped = false;
  if (by_grpc_) {
    const GrpcStream::End end = grpc_.run(request, on_message, trouble);
    if (end == GrpcStream::End::foreign) return false;
    was_stopped = end == GrpcStream::End::stopped;
  } else {
    was_stopped = stream_.run(request, on_message, trouble) == HttpStream::End::stopped;
  }
  if (was_stopped) trouble = "it lagged behind";
  return true;
}

void EtcdWatch::stop_stream() { by_grpc_ ? grpc_.stop() : stream_.stop(); }

Result<HttpRequest> EtcdWatch::request() {
  BTD_ASSIGN(HttpRequest request,
             client_.stream_request({}, {}, EtcdClock::now() + options_.request_timeout));
  stream_endpoint_ = request.url;
  const std::int64_t next = mirror_.revision() + 1;
  by_grpc_ = options_.watch_by_grpc && !was_foreign_ && GrpcStream::can_reach(request.url);
  request.url += by_grpc_ ? etcd_grpc::kWatchPath : "/v3/watch";
  request.body = by_grpc_ ? etcd_grpc::watch(from_, to_, next) : etcd_wire::watch(from_, to_, next);
  return request;
}

bool EtcdWatch::take(std::string_view text) {
  auto message =
      by_grpc_ ? etcd_grpc::parse_watch(text, from_) : etcd_wire::parse_watch(text, from_);
  if (!message) {
    const auto complaint = by_grpc_ ? std::nullopt : etcd_wire::parse_complaint(text);
    lost_login_ = complaint && complaint->refusal == EtcdRefusal::login;
    reason_ = complaint ? complaint->text : message.error().message;
    return false;
  }
  if (message->cluster != cluster_) {
    reason_ = "it is another cluster, or one that was restored from a backup";
    must_load_ = true;
    return false;
  }
  if (message->canceled) {
    must_load_ = message->compacted > 0;
    reason_ = must_load_ ? "the revisions after the last one seen were compacted"
                         : "the watch was cancelled: " + message->reason;
    lost_login_ = !must_load_;
    return false;
  }
  if (message->created) set_live(stream_endpoint_);
  {
    const std::scoped_lock lock(mutex_);
    state_.last_heard = EtcdClock::now();
  }
  return take_events(*message);
}

// A revision's changes may be spread over the fragments of a message, but not over messages.
bool EtcdWatch::take_events(EtcdWatchMessage& message) {
  for (EtcdRow& event : message.events) {
    if (!pending_.empty() && pending_.front().modified != event.modified && !apply_pending())
      return false;
    pending_bytes_ += event.key.size() + (event.value ? event.value->size() : 0);
    if (pending_bytes_ > options_.max_answer) {
      reason_ = "a revision has more changes than a transaction can make";
      return false;
    }
    pending_.push_back(std::move(event));
  }
  return message.fragment || apply_pending();
}

bool EtcdWatch::apply_pending() {
  if (pending_.empty()) return true;
  const bool applied = mirror_.apply(pending_.front().modified, pending_);
  pending_.clear();
  pending_bytes_ = 0;
  if (applied) return true;
  reason_ = "a change was missing among the events";
  must_load_ = true;
  return false;
}

void EtcdWatch::set_live(const std::string& endpoint) {
  const std::scoped_lock lock(mutex_);
  state_.live = true;
  state_.endpoint = endpoint;
  state_.since = EtcdClock::now();
  ++state_.streams;
}

void EtcdWatch::set_broken(const std::string& trouble) {
  const std::scoped_lock lock(mutex_);
  if (state_.live || state_.trouble.empty()) state_.since = EtcdClock::now();
  state_.live = false;
  state_.trouble = trouble;
}

}  // namespace btd::net
