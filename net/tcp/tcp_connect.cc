// The part of TcpEngine that makes connections: listening, connecting, handshakes.
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/tcp/tcp_engine.h"

namespace btd::net {

namespace {

constexpr int kBacklog = 4096;
// An idle peer is asked whether it lives after that time; one that answers nothing is given up
// after as much again.
constexpr int kKeepAliveSeconds = 30;
constexpr int kKeepAliveInterval = 10;
constexpr int kKeepAliveProbes = 3;
// Bytes that a peer does not acknowledge for so long: it is gone.
constexpr int kUnacknowledgedMilliseconds = 30'000;

void set(int socket, int level, int name, int value) {
  static_cast<void>(::setsockopt(socket, level, name, &value, sizeof(value)));
}

void tune(int socket) {
  set(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveSeconds);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveInterval);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kUnacknowledgedMilliseconds);
}

std::string reason(int error) {
  switch (error) {
    case ECONNREFUSED:
      return "nobody listens there; is its daemon running?";
    case EMFILE:
    case ENFILE:
      return "too many files are open; raise the limit (ulimit -n).";
    default:
      return std::string(std::strerror(error)) + ".";
  }
}

}  // namespace

std::unique_ptr<SessionEndpoint> TcpEngine::make_endpoint(SessionEndpoint::Role role,
                                                          wire::SessionId id,
                                                          std::string peer_name) {
  return std::make_unique<TcpEndpoint>(*this, role, id, std::move(peer_name));
}

Status TcpEngine::judge_address(const Address& address) const {
  const auto* none = std::get_if<NoSecurity>(&security_);
  if (none == nullptr || none->is_everywhere || address.is_loopback()) return {};
  return btd::fail(EACCES, address.text() +
                               " is no loopback address, and the engine has no security: anybody "
                               "could read and write its memory. Give it a cluster key or TLS.");
}

// --- Listening ---

Result<UniqueFd> TcpEngine::listen_on(const Address& address) const {
  // Blocking, as all sockets of the engine: io_uring waits for those that are, and gives up others.
  UniqueFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return btd::fail(errno, "No socket can be made: " + reason(errno));
  set(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (::bind(socket.get(), address.get(), address.size) != 0 ||
      ::listen(socket.get(), kBacklog) != 0)
    return btd::fail(errno, "Can't listen on " + address.text() + ": " + reason(errno));
  return socket;
}

Result<std::string> TcpEngine::listen(std::string_view address, Acceptor acceptor) {
  BTD_ASSIGN(const std::vector<Address> addresses, parse_address(address, true));
  Error why;
  for (const Address& one : addresses) {
    BTD_TRY(judge_address(one));
    auto socket = listen_on(one);
    if (!socket) {
      why = std::move(socket).error();
      continue;
    }
    Listener& listener = listeners_.emplace_back();
    listener.socket = std::move(*socket);
    listener.acceptor = std::move(acceptor);
    return local_address(listener.socket.get()).text();
  }
  return std::unexpected(std::move(why));
}

void TcpEngine::arm_accept(Listener& listener) {
  io_uring_sqe* accept = entry();
  if (accept == nullptr) return;
  io_uring_prep_multishot_accept(accept, listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC);
  io_uring_sqe_set_data64(accept, user_data(&listener, Io::kAccept));
  listener.is_accepting = true;
}

void TcpEngine::accepted(Listener& listener, const io_uring_cqe& completion) {
  constexpr Time kAgain = std::chrono::milliseconds(100);  // when files may have been closed
  if ((completion.flags & IORING_CQE_F_MORE) == 0) listener.is_accepting = false;
  if (completion.res < 0) {
    listener.next = completion.res == -ECONNABORTED ? Time{} : now() + kAgain;
    return;
  }
  UniqueFd socket(completion.res);
  tune(socket.get());
  // Who came first has had the most time; a flood of strangers displaces only strangers.
  if (handshakes_.size() >= max_handshakes_)
    end(handshakes_.front(), {EBUSY, "Too many peers connect at once."});
  Link& link = handshakes_.emplace_back();
  link.self = std::prev(handshakes_.end());
  link.name = peer_address(socket.get()).text();
  link.socket = std::move(socket);
  link.listener = &listener;
  link.until = after(now(), options().patience.connect);
  link.state = Link::State::kHandshake;
  if (auto begun = begin_handshake(link, Side::kAccepting); !begun)
    end(link, std::move(begun).error());
}

void TcpEngine::end_overdue() {
  const Time at = now();
  while (!handshakes_.empty() && handshakes_.front().until <= at)
    end(handshakes_.front(), {ETIMEDOUT, "The peer took too long to say who it is."});
}

// --- Connecting ---

Result<Endpoint*> TcpEngine::connect(std::string_view address, Handler& handler) {
  BTD_ASSIGN(std::vector<Address> addresses, parse_address(address, false));
  for (const Address& one : addresses) BTD_TRY(judge_address(one));
  BTD_ASSIGN(Endpoint * endpoint, add_connecting(std::string(address), handler));
  static_cast<TcpEndpoint*>(endpoint)->addresses = std::move(addresses);
  return endpoint;
}

void TcpEngine::start_attempt(SessionEndpoint& endpoint) {
  auto& mine = static_cast<TcpEndpoint&>(endpoint);
  mine.tried = 0;
  try_address(mine, {});
}

// The next address that a socket can be made for; `last` is what was wrong with the one before.
void TcpEngine::try_address(TcpEndpoint& endpoint, Error last) {
  while (endpoint.tried < endpoint.addresses.size()) {
    ++endpoint.tried;
    const Address& address = endpoint.addresses[endpoint.next_address];
    endpoint.next_address = (endpoint.next_address + 1) % endpoint.addresses.size();
    UniqueFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    io_uring_sqe* connect = socket ? entry() : nullptr;
    if (connect == nullptr) {
      last = {socket ? EIO : errno, "No socket can be made: " + reason(errno)};
      continue;
    }
    tune(socket.get());
    Link& link = links_.emplace_back();
    link.self = std::prev(links_.end());
    link.name = endpoint.peer_name();
    link.socket = std::move(socket);
    link.endpoint = &endpoint;
    link.is_connecting = true;
    endpoint.link = &link;
    io_uring_prep_connect(connect, link.socket.get(), address.get(), address.size);
    io_uring_sqe_set_data64(connect, user_data(&link, Io::kConnect));
    return;
  }
  link_ended(endpoint, std::move(last));
}

void TcpEngine::connected(Link& link, int result) {
  link.is_connecting = false;
  if (link.state == Link::State::kEnding) return finish(link);
  if (result < 0)
    return end(link, {-result, "Can't connect to " + link.name + ": " + reason(-result)});
  link.state = Link::State::kHandshake;
  if (auto begun = begin_handshake(link, Side::kConnecting); !begun)
    end(link, std::move(begun).error());
}

// --- Handshakes ---

Status TcpEngine::begin_handshake(Link& link, Side side) {
  BTD_ASSIGN(std::unique_ptr<Guard> guard, guards_(side));
  link.handshake = std::make_unique<Handshake>(side, std::move(guard));
  if (side == Side::kConnecting)
    BTD_TRY(link.handshake->begin(link.endpoint->session().begin_attempt(node())));
  queue_receive(link);
  send(link);
  return {};
}

void TcpEngine::received_handshake(Link& link, std::span<const std::byte> bytes) {
  auto taken = link.handshake->take(bytes);
  if (!taken) {
    // The last word, a TLS alert, says why. It may be lost: nobody waits for a stranger.
    const Bytes& last = link.handshake->output();
    if (!link.is_sending && !last.empty())
      static_cast<void>(
          ::send(link.socket.get(), last.data(), last.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    return end(link, {taken.error().code, link.name + ": " + taken.error().message});
  }
  if (link.handshake->heard()) return heard(link);
  send(link);
  queue_receive(link);
}

void TcpEngine::heard(Link& link) {
  if (link.listener == nullptr) return heard_answer(link);
  accept_link(link);
}

void TcpEngine::heard_answer(Link& link) {
  const Handshake::Heard& heard = *link.handshake->heard();
  if (const auto* refuse = std::get_if<wire::Refuse>(&heard)) {
    Error why = refused(*refuse);
    return end(link, {why.code, link.name + ": " + why.message});
  }
  auto answered = link.endpoint->session().answered(std::get<wire::Hello>(heard));
  if (!answered)
    return end(link, {answered.error().code, link.name + ": " + answered.error().message});
  TcpEndpoint& endpoint = *link.endpoint;
  attempt_done(endpoint);
  open(link, endpoint);
}

void TcpEngine::accept_link(Link& link) {
  const auto& hello = std::get<wire::Hello>(*link.handshake->heard());
  const Acceptance acceptance = accept(hello, link.name, link.listener->acceptor);
  if (const auto* older = std::get_if<MustBreak>(&acceptance)) {
    if (link.state != Link::State::kWaiting) ++waiting_;
    link.state = Link::State::kWaiting;
    return fail_link(*older->endpoint, {ECONNRESET, "The peer has connected anew."});
  }
  if (link.state == Link::State::kWaiting) --waiting_;
  link.state = Link::State::kHandshake;
  if (const auto* refused = std::get_if<Refused>(&acceptance)) {
    // It goes to a buffer that is empty, so that no wait is needed for it to leave.
    if (link.handshake->refuse(refused->frame) && !link.is_sending) {
      const Bytes& out = link.handshake->output();
      static_cast<void>(
          ::send(link.socket.get(), out.data(), out.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    return end(link, {static_cast<int>(refused->frame.error), "The peer was refused."});
  }
  const auto& accepted = std::get<Accepted>(acceptance);
  auto& endpoint = static_cast<TcpEndpoint&>(*accepted.endpoint);
  links_.splice(links_.end(), handshakes_, link.self);
  link.endpoint = &endpoint;
  endpoint.link = &link;
  auto said = link.handshake->answer(accepted.answer);
  open(link, endpoint);
  if (!said) fail_link(endpoint, std::move(said).error());
}

// The endpoint is up: what follows are frames.
void TcpEngine::open(Link& link, TcpEndpoint& endpoint) {
  link.state = Link::State::kUp;
  const std::unique_ptr<Handshake> handshake = std::move(link.handshake);
  link.until = kNever;
  Bytes& said = handshake->output();
  link.output.insert(link.output.end(), said.begin(), said.end());
  if (!handshake->guard().is_transparent()) link.guard = handshake->release_guard();
  send(link);
  if (!handshake->rest().empty()) feed(endpoint, handshake->rest());
  queue_receive(link);
}

// An older link has ended: who waits for that, or for another, asks again.
void TcpEngine::accept_waiting() {
  if (waiting_ == 0) return;
  std::vector<Link*> waiting;
  for (Link& link : handshakes_)
    if (link.state == Link::State::kWaiting) waiting.push_back(&link);
  for (Link* link : waiting) accept_link(*link);
}

}  // namespace btd::net
