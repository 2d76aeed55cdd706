// Node: the coherent files of one node, those of other homes and those that lie here, with the
// connections between them. Its own programs reach its own files without a connection.
//
// It lives on the engine that serves peers: the owner passes on what that engine's handler hears.
// Each home that is used has a connection that this node opened; homes answer by it.
// Thread-safety: ask(), gone(), mounted() and facts() from any thread; all else on the engine's.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "fs/coherent/clients.h"
#include "fs/coherent/homes.h"
#include "fs/coherent/link.h"
#include "fs/remote/engine_thread.h"

namespace btd::coherent {

class Node {
 public:
  struct Options {
    NodeId own = 0;
    HomeOf home_of = node_of;
    std::uint64_t mount = 0;     // the number of this node's mount
    std::vector<NodeId> former;  // see Homes
    net::Time grace{};           // and how long they have
    coherence::Rules rules;
    std::function<Result<std::string>(NodeId)> locate;
    std::function<void(NodeId)> used_by;  // told of each node that uses files here
  };

  // `peers`: the handler of the connections that this opens. All outlive this.
  Node(net::Engine& engine, net::Handler& peers, remote::HomeFiles& files, Kernel& kernel,
       Options options);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  // On the engine's thread, or while nobody polls the engine. What waits is not answered.
  ~Node();

  void ask(Ask what);
  // See Homes.
  static constexpr std::uint64_t kAllMounts = std::numeric_limits<std::uint64_t>::max();
  void gone(NodeId node, std::uint64_t mount);
  void mounted(NodeId node, std::uint64_t mount);
  // The mount has ended: what its kernel had is given back, as far as homes are reached soon.
  void leave();

  // From the engine's handler, of all its endpoints.
  int on_message(net::Endpoint& endpoint, std::span<const std::byte> message);
  void on_completion(net::Endpoint& endpoint, const net::Completion& completion);
  void on_up(net::Endpoint& endpoint);
  void on_closed(net::Endpoint& endpoint);

  struct Facts {
    Clients::Counters client;
    Homes::Counters home;
  };
  // Errors: ETIMEDOUT the engine has too much to do.
  Result<Facts> facts();

 private:
  struct Peer {
    explicit Peer(net::Endpoint& endpoint) : link(endpoint) {}
    Link link;
    NodeId node = 0;
    bool is_ours = false;  // this node opened it, to a home
    bool is_up = false;
    bool is_stale = false;  // the node has a newer one
  };

  void post(std::function<void()> task);
  void drain();
  void pump();
  void to_home(NodeId home, HomeMessage message);
  void to_client(NodeId node, const ClientMessage& message);
  void reach(NodeId home);
  void finish_leaving(const remote::EngineThread::Finish& finish);
  void connect(NodeId home);
  void reach_later(NodeId home);
  int take(net::Endpoint& endpoint, Peer& peer, Assembly::Whole whole);

  net::Engine& engine_;
  net::Handler& peers_;
  const Options options_;
  const std::shared_ptr<bool> is_ended_ = std::make_shared<bool>(false);
  remote::EngineThread thread_;
  remote::Workers workers_;
  std::map<const net::Endpoint*, std::unique_ptr<Peer>> links_;
  std::map<NodeId, net::Endpoint*> homes_reached_, users_reached_;
  std::unordered_set<NodeId> connecting_;  // a timer tries anew
  std::deque<std::variant<HomeMessage, ClientMessage>> local_;
  bool is_pumping_ = false;
  Homes homes_;
  Clients clients_;

  std::mutex mutex_;  // of the rest
  std::vector<Ask> asked_;
};

}  // namespace btd::coherent
