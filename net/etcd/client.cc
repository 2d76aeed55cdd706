#include "net/etcd/client.h"

#include <algorithm>
#include <utility>

namespace btd::net {
namespace {

constexpr std::size_t kIdleConnections = 16;

std::chrono::milliseconds left(EtcdDeadline deadline) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(deadline - EtcdClock::now());
}

}  // namespace

Error etcd_error(const EtcdComplaint& complaint) {
  const std::string said = " (etcd said: " + complaint.text + ")";
  switch (complaint.refusal) {
    case EtcdRefusal::no_space:
      return {ENOSPC,
              "etcd's database has reached its quota. Free room: `etcdctl compact` the old "
              "revisions, `etcdctl defrag` each member, then `etcdctl alarm disarm`; or raise "
              "--quota-backend-bytes." +
                  said};
    case EtcdRefusal::too_large:
      return {E2BIG,
              "The commit is more than etcd takes in one request; split it, or raise "
              "--max-txn-ops and --max-request-bytes." +
                  said};
    case EtcdRefusal::busy:
      return {EHOSTUNREACH, "etcd has too many requests waiting; look at its disk." + said};
    case EtcdRefusal::login:
    case EtcdRefusal::denied:
      return {EACCES,
              "etcd refused the user; check name, password and the role's permission for "
              "the cluster's prefix." +
                  said};
    case EtcdRefusal::compacted:
      return {ESTALE, "etcd has compacted the revision that was asked for; read again." + said};
    case EtcdRefusal::unknown:
      break;
  }
  return {EIO, "etcd could not do it; look at its log." + said};
}

std::unique_ptr<HttpConnection> EtcdClient::take_connection() {
  const std::scoped_lock lock(mutex_);
  if (idle_.empty()) return std::make_unique<HttpConnection>(options_);
  auto connection = std::move(idle_.back());
  idle_.pop_back();
  return connection;
}

void EtcdClient::give_back(std::unique_ptr<HttpConnection> connection) {
  const std::scoped_lock lock(mutex_);
  if (idle_.size() < kIdleConnections) idle_.push_back(std::move(connection));
}

HttpAnswer EtcdClient::send(std::string_view path, const std::string& body,
                            const std::string& token, EtcdDeadline deadline) {
  HttpAnswer answer;
  const auto timeout = std::min(options_.request_timeout, left(deadline));
  if (stopped() || timeout.count() <= 0) {
    answer.kind = HttpAnswer::Kind::unsent;
    return answer;
  }
  const std::string at = endpoint();
  const std::string explanation = "a request was sent to " + at + " and is not answered";
  const EtcdWaits::Scope wait(waits_, "etcd request", explanation);
  auto connection = take_connection();
  answer = connection->post({at + std::string(path), body, token}, timeout);
  if (answer.kind == HttpAnswer::Kind::answered) {
    give_back(std::move(connection));
  } else {
    move_on(at, answer.trouble);  // and its connections go: they may all be dead
  }
  return answer;
}

Result<std::string> EtcdClient::token(EtcdDeadline deadline) {
  if (options_.user.empty()) return std::string();
  {
    const std::scoped_lock lock(mutex_);
    if (!token_.empty()) return token_;
  }
  const HttpAnswer answer = send("/v3/auth/authenticate",
                                 etcd_wire::login(options_.user, options_.password), {}, deadline);
  if (answer.kind != HttpAnswer::Kind::answered) return std::unexpected(unreachable("log in"));
  if (answer.status != 200) {
    const auto complaint = etcd_wire::parse_complaint(answer.body);
    return std::unexpected(etcd_error(complaint.value_or(EtcdComplaint{})));
  }
  BTD_ASSIGN(std::string fresh, etcd_wire::parse_token(answer.body));
  const std::scoped_lock lock(mutex_);
  token_ = fresh;
  return fresh;
}

void EtcdClient::forget_token(const std::string& token) {
  const std::scoped_lock lock(mutex_);
  if (token_ == token) token_.clear();
}

EtcdAnswer EtcdClient::post(std::string_view path, const std::string& body, EtcdDeadline deadline) {
  EtcdAnswer out;
  for (int logins = 0;; ++logins) {
    const auto user = token(deadline);
    if (!user) {
      if (user.error().code == EACCES) {
        out.kind = EtcdAnswer::Kind::refused;
        out.complaint = {EtcdRefusal::denied, user.error().message};
      }
      return out;
    }
    HttpAnswer answer = send(path, body, *user, deadline);
    out.maybe_twice |= answer.maybe_twice;
    if (answer.kind != HttpAnswer::Kind::answered) {
      out.kind = answer.kind == HttpAnswer::Kind::unsent && !out.maybe_twice
                     ? EtcdAnswer::Kind::unsent
                     : EtcdAnswer::Kind::lost;
      return out;
    }
    if (answer.status == 200) {
      out.kind = EtcdAnswer::Kind::ok;
      out.body = std::move(answer.body);
      return out;
    }
    out.complaint = etcd_wire::parse_complaint(answer.body).value_or(EtcdComplaint{});
    if (out.complaint.refusal == EtcdRefusal::login && !options_.user.empty() && logins == 0) {
      forget_token(*user);
      continue;
    }
    // What is not known as a refusal may hide anything: a timeout, a new leader, a proxy.
    out.kind = out.complaint.refusal == EtcdRefusal::unknown ? EtcdAnswer::Kind::lost
                                                             : EtcdAnswer::Kind::refused;
    if (out.kind == EtcdAnswer::Kind::lost)
      move_on(endpoint(), "status " + std::to_string(answer.status) + " " + out.complaint.text);
    return out;
  }
}

Result<std::string> EtcdClient::ask(std::string_view path, const std::string& body,
                                    EtcdDeadline deadline) {
  for (unsigned attempt = 0;; ++attempt) {
    EtcdAnswer answer = post(path, body, deadline);
    if (answer.kind == EtcdAnswer::Kind::ok) return std::move(answer.body);
    if (answer.kind == EtcdAnswer::Kind::refused && answer.complaint.refusal != EtcdRefusal::busy)
      return std::unexpected(etcd_error(answer.complaint));
    if (stopped() || left(deadline).count() <= 0)
      return std::unexpected(unreachable("answer a request"));
    pause(attempt, deadline);
  }
}

Result<HttpRequest> EtcdClient::stream_request(std::string_view path, std::string body,
                                               EtcdDeadline deadline) {
  BTD_ASSIGN(std::string user, token(deadline));
  return HttpRequest{endpoint() + std::string(path), std::move(body), std::move(user)};
}

void EtcdClient::move_on(const std::string& from_endpoint, std::string_view trouble) {
  const std::scoped_lock lock(mutex_);
  trouble_ = from_endpoint + ": " + std::string(trouble);
  if (options_.endpoints[current_] != from_endpoint) return;  // another request did it
  current_ = (current_ + 1) % options_.endpoints.size();
  idle_.clear();
}

void EtcdClient::pause(unsigned attempt, EtcdDeadline deadline) {
  // A full turn over the endpoints comes first.
  const std::size_t turn = attempt / options_.endpoints.size();
  if (attempt % options_.endpoints.size() + 1 < options_.endpoints.size()) return;
  const auto longest =
      std::chrono::milliseconds(std::min<std::size_t>(10UL << std::min<std::size_t>(turn, 6), 400));
  const std::string explanation = "no endpoint answers (" + last_trouble() + ")";
  const EtcdWaits::Scope wait(waits_, "etcd away", explanation);
  std::unique_lock lock(mutex_);
  stop_changed_.wait_until(lock, std::min(deadline, EtcdClock::now() + longest),
                           [&] { return stopped_; });
}

void EtcdClient::stop() {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  stop_changed_.notify_all();
}

bool EtcdClient::stopped() const {
  const std::scoped_lock lock(mutex_);
  return stopped_;
}

std::string EtcdClient::endpoint() const {
  const std::scoped_lock lock(mutex_);
  return options_.endpoints[current_];
}

std::string EtcdClient::last_trouble() const {
  const std::scoped_lock lock(mutex_);
  return trouble_;
}

Error EtcdClient::unreachable(std::string_view what) const {
  const std::string trouble = last_trouble();
  return {EHOSTUNREACH, "No etcd server could " + std::string(what) +
                            " in time; check that a majority of the cluster's etcd members run "
                            "and can be reached" +
                            (trouble.empty() ? "." : " (last: " + trouble + ").")};
}

}  // namespace btd::net
