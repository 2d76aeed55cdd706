#include "fs/coherent/node.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

namespace btd::coherent {

namespace {

constexpr net::Time kRetry = std::chrono::milliseconds(200);
constexpr auto kPause = std::chrono::milliseconds(1);  // of an engine that has too many tasks
constexpr auto kLeavePatience = std::chrono::seconds(3);
constexpr net::Time kLook = std::chrono::milliseconds(5);
constexpr auto kFactsPatience = std::chrono::seconds(1);
constexpr unsigned kThreads = 2;
constexpr std::size_t kWaiting = 1024;

}  // namespace

Node::Node(net::Engine& engine, net::Handler& peers, remote::HomeFiles& files, Kernel& kernel,
           Options options)
    : engine_(engine),
      peers_(peers),
      options_(std::move(options)),
      thread_(engine),
      workers_(kThreads, kWaiting),
      homes_(
          engine, files, workers_,
          [this](NodeId node, const ClientMessage& message) { to_client(node, message); },
          [this](std::function<void()> task) { post(std::move(task)); }, options_.own,
          options_.home_of, options_.former, options_.grace),
      clients_(
          engine, kernel, options_.rules,
          [this](NodeId home, HomeMessage message) { to_home(home, std::move(message)); },
          [this](NodeId home) { reach(home); }, options_.mount, options_.home_of) {
  clients_.up(options_.own);
}

Node::~Node() {
  for (const auto& task : workers_.stop()) task();
  while (workers_.busy()) std::this_thread::sleep_for(kPause);
  *is_ended_ = true;
  thread_.end();
}

// --- From other threads ---

void Node::post(std::function<void()> task) {
  thread_.post([this, task = std::move(task), is_ended = is_ended_] {
    if (*is_ended) return;
    task();
    pump();
  });
}

void Node::ask(Ask what) {
  bool is_first = false;
  {
    const std::scoped_lock lock(mutex_);
    is_first = asked_.empty();
    asked_.push_back(std::move(what));
  }
  if (is_first) post([this] { drain(); });
}

void Node::drain() {
  std::vector<Ask> asked;
  {
    const std::scoped_lock lock(mutex_);
    asked = std::exchange(asked_, {});
  }
  for (Ask& each : asked) {
    const bool is_last_recovered = each.what == Ask::What::kForgotten && each.file == 0;
    if (is_last_recovered) {
      homes_.told(options_.own);  // all that an earlier worker had open is attached here
    } else {
      clients_.ask(std::move(each));
    }
    pump();
  }
}

void Node::gone(NodeId node, std::uint64_t mount) {
  post([this, node, mount] { homes_.gone(node, mount); });
}

void Node::mounted(NodeId node, std::uint64_t mount) {
  post([this, node, mount] { homes_.mounted(node, mount); });
}

void Node::leave() {
  const auto left = thread_.run(
      [this](const remote::EngineThread::Finish& finish) {
        clients_.detach_all();
        pump();
        finish_leaving(finish);
      },
      remote::Clock::now() + kLeavePatience);
  if (!left) spdlog::warn("not every home knows that this node has nothing of its files any more");
}

// Once homes have taken the words.
void Node::finish_leaving(const remote::EngineThread::Finish& finish) {
  const bool is_said = std::all_of(links_.begin(), links_.end(), [](const auto& each) {
    return !each.second->is_ours || each.second->link.is_empty();
  });
  if (is_said) return finish();
  engine_.at(engine_.now() + kLook, [this, finish, is_ended = is_ended_] {
    if (!*is_ended) finish_leaving(finish);
  });
}

Result<Node::Facts> Node::facts() {
  auto facts = std::make_shared<Facts>();
  BTD_TRY(thread_.run(
      [this, facts](const remote::EngineThread::Finish& finish) {
        facts->client = clients_.counters();
        facts->home = homes_.counters();
        finish();
      },
      remote::Clock::now() + kFactsPatience));
  return *facts;
}

// --- Messages ---

void Node::pump() {
  if (std::exchange(is_pumping_, true)) return;
  while (!local_.empty()) {
    auto message = std::move(local_.front());
    local_.pop_front();
    if (auto* to_here = std::get_if<HomeMessage>(&message)) {
      homes_.arrived(options_.own, std::move(*to_here));
    } else {
      clients_.arrived(options_.own, std::get<ClientMessage>(std::move(message)));
    }
  }
  is_pumping_ = false;
}

void Node::to_home(NodeId home, HomeMessage message) {
  if (home == options_.own) {
    if (local_.empty() && !is_pumping_)
      engine_.at(engine_.now(), [this, is_ended = is_ended_] {
        if (!*is_ended) pump();
      });
    local_.emplace_back(std::move(message));
    return;
  }
  const auto found = homes_reached_.find(home);
  if (found == homes_reached_.end()) return;  // it is said again when it is reached
  links_.at(found->second)->link.send(encode(message));
}

void Node::to_client(NodeId node, const ClientMessage& message) {
  if (node == options_.own) {
    if (local_.empty() && !is_pumping_)
      engine_.at(engine_.now(), [this, is_ended = is_ended_] {
        if (!*is_ended) pump();
      });
    local_.emplace_back(message);
    return;
  }
  const auto found = users_reached_.find(node);
  if (found == users_reached_.end()) return;  // it is told again when it attaches again
  links_.at(found->second)->link.send(encode(message));
}

int Node::on_message(net::Endpoint& endpoint, std::span<const std::byte> message) {
  auto found = links_.find(&endpoint);
  if (found == links_.end()) {
    found = links_.emplace(&endpoint, std::make_unique<Peer>(endpoint)).first;
    found->second->node = endpoint.peer();
  }
  Peer& peer = *found->second;
  if (peer.is_stale) return 0;
  auto whole = peer.link.take(message);
  if (!whole) return whole.error().code;
  if (!*whole) return 0;
  const int error = take(endpoint, peer, std::move(**whole));
  pump();
  return error;
}

int Node::take(net::Endpoint& endpoint, Peer& peer, Assembly::Whole whole) {
  if (auto* message = std::get_if<ClientMessage>(&whole)) {
    if (!peer.is_ours) return EPROTO;
    clients_.arrived(peer.node, std::move(*message));
    return 0;
  }
  if (peer.is_ours) return EPROTO;
  auto& message = std::get<HomeMessage>(whole);
  net::Endpoint*& latest = users_reached_[peer.node];
  if (latest != &endpoint) {
    if (latest != nullptr) links_.at(latest)->is_stale = true;
    latest = &endpoint;
    if (options_.used_by) options_.used_by(peer.node);
  }
  if (std::holds_alternative<wire::Told>(message.words)) {
    homes_.told(peer.node);
  } else {
    homes_.arrived(peer.node, std::move(message));
  }
  return 0;
}

void Node::on_completion(net::Endpoint& endpoint, const net::Completion& completion) {
  const auto found = links_.find(&endpoint);
  if (found != links_.end()) found->second->link.completed(completion);
}

// --- Connections to homes ---

void Node::reach(NodeId home) {
  if (home == options_.own || homes_reached_.contains(home) || connecting_.contains(home)) return;
  connect(home);
}

void Node::reach_later(NodeId home) {
  connecting_.insert(home);
  engine_.at(engine_.now() + kRetry, [this, home, is_ended = is_ended_] {
    if (*is_ended) return;
    connecting_.erase(home);
    if (clients_.uses(home)) reach(home);
  });
}

void Node::connect(NodeId home) {
  const auto address = options_.locate(home);
  if (!address) return reach_later(home);
  const auto endpoint = engine_.connect(*address, peers_);
  if (!endpoint) return reach_later(home);
  auto peer = std::make_unique<Peer>(**endpoint);
  peer->node = home;
  peer->is_ours = true;
  links_[*endpoint] = std::move(peer);
  connecting_.insert(home);
}

void Node::on_up(net::Endpoint& endpoint) {
  const auto found = links_.find(&endpoint);
  if (found == links_.end() || !found->second->is_ours) return;
  Peer& peer = *found->second;
  // Again: another worker of the home may be there, that knows nothing. Nothing says so.
  if (std::exchange(peer.is_up, true)) clients_.down(peer.node);
  connecting_.erase(peer.node);
  homes_reached_[peer.node] = &endpoint;
  clients_.up(peer.node);
  to_home(peer.node, {.words = wire::Told{}, .tail = {}});
  pump();
}

void Node::on_closed(net::Endpoint& endpoint) {
  const auto found = links_.find(&endpoint);
  if (found == links_.end()) return;
  const NodeId node = found->second->node;
  const bool is_ours = found->second->is_ours;
  links_.erase(found);
  auto& reached = is_ours ? homes_reached_ : users_reached_;
  if (const auto at = reached.find(node); at != reached.end() && at->second == &endpoint)
    reached.erase(at);
  if (!is_ours) return;
  clients_.down(node);
  reach_later(node);
}

}  // namespace btd::coherent
