// VerbsEngine's side of the connection manager: how links come up and end.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "net/address.h"
#include "net/verbs/engine.h"

namespace btd::net::verbs {

namespace {

using wire::bytes_of;

constexpr int kResolveMs = 2000;
constexpr int kBacklog = 128;
constexpr std::size_t kMostEvents = 64;     // of one round
constexpr std::size_t kMostStrangers = 64;  // connections of peers that have not proved themselves
constexpr Time kRefusalPatience = std::chrono::milliseconds(500);
constexpr std::uint8_t kRetries = 7;
constexpr int kNobodyListens = 8, kPeersReason = 28;  // of InfiniBand's manager

VerbsEndpoint& mine(SessionEndpoint& endpoint) { return static_cast<VerbsEndpoint&>(endpoint); }

template <class T>
rdma_conn_param parameters(const Device& device, const Link& link, const T& data) {
  rdma_conn_param param{};
  param.private_data = &data;
  param.private_data_len = sizeof(data);
  param.responder_resources = device.reads_in();
  param.initiator_depth = device.reads_out();
  param.flow_control = 1;
  param.retry_count = kRetries;
  param.rnr_retry_count = kRetries;
  param.srq = 1;
  param.qp_num = link.pair_number();
  return param;
}

Error why_rejected(const std::string& peer, int status, std::span<const std::byte> data) {
  if (status == kPeersReason) {
    if (const auto said = parse<RejectData>(data)) {
      if (said->error == EPROTONOSUPPORT)
        return {EPROTONOSUPPORT, peer + " speaks version " + std::to_string(said->version) +
                                     " of the protocol over RDMA and this node " +
                                     std::to_string(kVersion) + "; upgrade the older one."};
      return {EBUSY, peer + " has as many connections as it can have; try later."};
    }
  }
  if (status == kNobodyListens)
    return {ECONNREFUSED, "Nobody listens on " + peer + "; is its daemon running?"};
  return {ECONNREFUSED, peer + " rejected the connection (reason " + std::to_string(status) + ")."};
}

}  // namespace

// An event, copied: the manager's own must be given back before its connection can be destroyed.
struct VerbsEngine::Event {
  rdma_cm_event_type type;
  rdma_cm_id* id;
  int status;
  rdma_conn_param param;
  std::array<std::byte, 256> bytes;
  std::size_t size;

  [[nodiscard]] std::span<const std::byte> data() const { return std::span{bytes}.first(size); }
};

Link& VerbsEngine::add_link(ConnectionId id) {
  const std::uint32_t number = next_link_++;
  if (next_link_ == 0) next_link_ = 1;
  auto& link = links_[number] = std::make_unique<Link>(*device_, *this, number, std::move(id));
  return *link;
}

Link* VerbsEngine::find(std::uint32_t number) {
  const auto found = links_.find(number);
  return found == links_.end() ? nullptr : found->second.get();
}

void VerbsEngine::end_pair(Link& link) {
  const std::uint32_t pair = link.pair_number();
  if (pair == 0) return;
  link.destroy_pair();
  // What it completed is noted now, before another one can have its number.
  collect();
  pairs_.erase(pair);
}

void VerbsEngine::drop(Link& link) {
  end_pair(link);
  rdma_disconnect(link.id());
  std::erase(young_, link.number());
  links_.erase(link.number());
}

void VerbsEngine::end_link(Link& link, Error why) {
  VerbsEndpoint* endpoint = link.endpoint;
  end_pair(link);
  if (endpoint != nullptr) {
    endpoint->link = nullptr;
    link_ended(*endpoint, std::move(why));
  }
  drop(link);
}

void VerbsEngine::end_late(Time now) {
  if (young_.empty()) return;
  const std::vector<std::uint32_t> young = young_;
  for (const std::uint32_t number : young)
    if (Link* link = find(number); link != nullptr && link->deadline <= now) drop(*link);
}

Result<std::string> VerbsEngine::listen(std::string_view address, Acceptor acceptor) {
  BTD_ASSIGN(Address at, parse_numeric_address(address, true));
  rdma_cm_id* raw = nullptr;
  if (rdma_create_id(events_.get(), &raw, nullptr, RDMA_PS_TCP) != 0)
    return fail(errno, "The RDMA connection manager makes no more identifiers.");
  ConnectionId id(raw);
  if (rdma_bind_addr(raw, at.get()) != 0 || rdma_listen(raw, kBacklog) != 0)
    return fail(errno, "The address " + std::string(address) + " can't be listened on: " +
                           std::strerror(errno) + "; it must be one of an RDMA device, and free.");
  listener_ = std::move(id);
  acceptor_ = std::move(acceptor);
  return address_text(*rdma_get_local_addr(raw));
}

Result<Endpoint*> VerbsEngine::connect(std::string_view address, Handler& handler) {
  BTD_TRY(parse_numeric_address(address, false));
  return add_connecting(std::string(address), handler);
}

void VerbsEngine::start_attempt(SessionEndpoint& endpoint) {
  rdma_cm_id* raw = nullptr;
  if (rdma_create_id(events_.get(), &raw, nullptr, RDMA_PS_TCP) != 0)
    return link_ended(endpoint, {errno, "The RDMA connection manager makes no more identifiers."});
  Link& link = add_link(ConnectionId(raw));
  link.endpoint = &mine(endpoint);
  link.peer_name = endpoint.peer_name();
  mine(endpoint).link = &link;
  auto at = parse_numeric_address(endpoint.peer_name(), false);
  if (!at) return end_link(link, at.error());
  if (rdma_resolve_addr(raw, nullptr, at->get(), kResolveMs) != 0)
    end_link(link, {errno, "No RDMA device leads to " + endpoint.peer_name() + "."});
}

std::size_t VerbsEngine::take_events() {
  std::size_t count = 0;
  rdma_cm_event* given = nullptr;
  while (count < kMostEvents && rdma_get_cm_event(events_.get(), &given) == 0) {
    Event event{.type = given->event,
                .id = given->id,
                .status = given->status,
                .param = given->param.conn,
                .bytes = {},
                .size = 0};
    if (given->param.conn.private_data != nullptr)
      event.size = std::min<std::size_t>(given->param.conn.private_data_len, event.bytes.size());
    std::memcpy(event.bytes.data(), given->param.conn.private_data, event.size);
    rdma_ack_cm_event(given);
    handle(event);
    ++count;
  }
  return count;
}

void VerbsEngine::handle(const Event& event) {
  if (event.type == RDMA_CM_EVENT_CONNECT_REQUEST) return got_request(event);
  auto* link = static_cast<Link*>(event.id->context);
  if (link == nullptr) return;
  switch (event.type) {
    case RDMA_CM_EVENT_ADDR_RESOLVED:
      return got_address(*link);
    case RDMA_CM_EVENT_ROUTE_RESOLVED:
      return got_route(*link);
    case RDMA_CM_EVENT_CONNECT_RESPONSE:
      return got_acceptance(*link, event);
    case RDMA_CM_EVENT_REJECTED:
      return end_link(*link, why_rejected(link->peer_name, event.status, event.data()));
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
      return end_link(*link, {EHOSTUNREACH, link->peer_name + " can't be reached over RDMA (" +
                                                std::strerror(std::abs(event.status)) +
                                                "); is its address one of an RDMA device?"});
    case RDMA_CM_EVENT_DISCONNECTED:
      return got_end(link->number());
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      is_broken_ = true;
      return;
    default:
      return;
  }
}

// What the peer said before it left has come already.
void VerbsEngine::got_end(std::uint32_t number) {
  take_completions();
  if (Link* link = find(number))
    end_link(*link, {ECONNRESET, link->peer_name + " ended the connection."});
}

void VerbsEngine::got_request(const Event& event) {
  ConnectionId id(event.id);
  const auto said = parse<ConnectData>(event.data());
  RejectData reason{.error = EBUSY};
  if (!said || said->version != kVersion) reason.error = EPROTONOSUPPORT;
  if (reason.error == EPROTONOSUPPORT || young_.size() >= kMostStrangers ||
      event.id->verbs != device_->context()) {
    rdma_reject(event.id, &reason, sizeof(reason));
    return;
  }
  Link& link = add_link(std::move(id));
  link.peer_nonce = said->nonce;
  link.peer_name = address_text(*rdma_get_peer_addr(event.id));
  if (auto accepted = accept_request(link, event); !accepted) {
    rdma_reject(event.id, &reason, sizeof(reason));
    drop(link);
  }
}

Status VerbsEngine::accept_request(Link& link, const Event& event) {
  BTD_ASSIGN(link.my_nonce, make_nonce());
  BTD_TRY(link.make_pair());
  pairs_[link.pair_number()] = link.number();
  BTD_TRY(link.connect_pair(event.param));
  AcceptData data;
  data.nonce = link.my_nonce;
  BTD_ASSIGN(data.proof, prove_accepting(options_.cluster_key, link.peer_nonce, link.my_nonce));
  rdma_conn_param param = parameters(*device_, link, data);
  param.responder_resources = std::min(param.responder_resources, event.param.responder_resources);
  param.initiator_depth = std::min(param.initiator_depth, event.param.initiator_depth);
  if (rdma_accept(link.id(), &param) != 0) return fail(errno, "rdma_accept");
  link.state = Link::State::kHandshake;
  link.deadline = now() + options().patience.connect;
  young_.push_back(link.number());
  return {};
}

void VerbsEngine::got_address(Link& link) {
  if (link.id()->verbs != device_->context())
    return end_link(link,
                    {EHOSTUNREACH, link.peer_name + " is reached through another device than " +
                                       device_->name() + ", which this engine uses."});
  if (rdma_resolve_route(link.id(), kResolveMs) != 0)
    end_link(link, {errno, "There is no route to " + link.peer_name + "."});
}

void VerbsEngine::got_route(Link& link) {
  auto nonce = make_nonce();
  if (!nonce) return end_link(link, nonce.error());
  link.my_nonce = *nonce;
  if (auto made = link.make_pair(); !made) return end_link(link, made.error());
  pairs_[link.pair_number()] = link.number();
  ConnectData data;
  data.nonce = link.my_nonce;
  rdma_conn_param param = parameters(*device_, link, data);
  link.state = Link::State::kConnecting;
  if (rdma_connect(link.id(), &param) != 0)
    end_link(link,
             {errno, link.peer_name + " can't be connected to: " + std::strerror(errno) + "."});
}

void VerbsEngine::got_acceptance(Link& link, const Event& event) {
  const auto said = parse<AcceptData>(event.data());
  if (!said || said->version != kVersion)
    return end_link(link, {EPROTO, link.peer_name + " does not speak bartender's protocol."});
  const std::string& key = options_.cluster_key;
  const auto expected = prove_accepting(key, link.my_nonce, said->nonce);
  if (!expected) return end_link(link, expected.error());
  if (!is_same(said->proof, *expected))
    return end_link(link, {EKEYREJECTED, link.peer_name + " does not have this cluster's key."});
  link.peer_nonce = said->nonce;
  auto connected = link.connect_pair(event.param);
  if (!connected) return end_link(link, connected.error());
  if (rdma_establish(link.id()) != 0)
    return end_link(link, {errno, link.peer_name + " can't be connected to."});
  FirstMessage first;
  first.hello = link.endpoint->session().begin_attempt(node());
  const auto proof = prove_connecting(key, link.my_nonce, link.peer_nonce, first.hello);
  if (!proof) return end_link(link, proof.error());
  first.proof = *proof;
  link.state = Link::State::kHandshake;
  if (auto sent = link.send(Message::kHandshake, bytes_of(first), true); !sent)
    end_link(link, sent.error());
}

void VerbsEngine::got_handshake(Link& link, std::span<const std::byte> bytes) {
  if (link.state != Link::State::kHandshake) return;
  if (link.endpoint == nullptr) return got_first(link, bytes);
  got_answer(link, bytes);
}

void VerbsEngine::got_first(Link& link, std::span<const std::byte> bytes) {
  const auto first = parse<FirstMessage>(bytes);
  if (!first) return drop(link);
  const auto expected =
      prove_connecting(options_.cluster_key, link.peer_nonce, link.my_nonce, first->hello);
  if (!expected || !is_same(first->proof, *expected)) {
    wire::Refuse frame;
    frame.error = EKEYREJECTED;
    return refuse(link, wire::sealed(frame));
  }
  const std::uint32_t number = link.number();
  const auto try_accept = [&] {
    accepting_ = &link;
    auto acceptance = accept(first->hello, link.peer_name, acceptor_);
    accepting_ = nullptr;
    return acceptance;
  };
  Acceptance acceptance = try_accept();
  if (const auto* older = std::get_if<MustBreak>(&acceptance)) {
    break_link(*older->endpoint);
    if (find(number) == nullptr) return;
    acceptance = try_accept();
  }
  if (const auto* refused = std::get_if<Refused>(&acceptance)) return refuse(link, refused->frame);
  if (std::holds_alternative<MustBreak>(acceptance)) return drop(link);
  const auto& accepted = std::get<Accepted>(acceptance);
  link.endpoint = &mine(*accepted.endpoint);
  link.endpoint->link = &link;
  link.state = Link::State::kUp;
  link.deadline = kNever;
  std::erase(young_, number);
  auto ready = trust(link, first->hello.epoch);
  if (ready) ready = link.send(Message::kHandshake, bytes_of(accepted.answer), true);
  if (!ready) end_link(link, ready.error());
}

void VerbsEngine::refuse(Link& link, wire::Refuse frame) {
  link.state = Link::State::kRefused;
  link.deadline = now() + kRefusalPatience;
  static_cast<void>(link.send(Message::kHandshake, bytes_of(frame), true));
}

void VerbsEngine::got_answer(Link& link, std::span<const std::byte> bytes) {
  if (!bytes.empty() && bytes[0] == static_cast<std::byte>(wire::FrameType::kRefuse)) {
    const auto refusal = parse<wire::Refuse>(bytes);
    if (!refusal) return end_link(link, {EPROTO, link.peer_name + " sent a damaged refusal."});
    if (wire::is_sound(*refusal) && refusal->error == EKEYREJECTED)
      return end_link(link,
                      {EKEYREJECTED, link.peer_name + " has another cluster key than this node."});
    return end_link(link, refused(*refusal));
  }
  const auto answer = parse<wire::Hello>(bytes);
  if (!answer) return end_link(link, {EPROTO, link.peer_name + " sent a damaged answer."});
  VerbsEndpoint& endpoint = *link.endpoint;
  if (auto answered = endpoint.session().answered(*answer); !answered)
    return end_link(link, answered.error());
  link.state = Link::State::kUp;
  if (auto trusted = trust(link, answer->epoch); !trusted) return end_link(link, trusted.error());
  open(link);
  attempt_done(endpoint);
  if (auto sent = link.send(Message::kReady, {}, false); !sent) end_link(link, sent.error());
}

void VerbsEngine::got_ready(Link& link) {
  open(link);
  mark(*link.endpoint);
}

Status VerbsEngine::trust(Link& link, Epoch peers) {
  if (peers != epoch()) return {};
  BTD_TRY(link.trust());
  link.is_trusted = true;
  link.epoch = peers;
  return {};
}

void VerbsEngine::open(Link& link) {
  if (!link.is_trusted) return;
  link.open(node().capabilities, link.endpoint->session().peer_capabilities());
}

}  // namespace btd::net::verbs
