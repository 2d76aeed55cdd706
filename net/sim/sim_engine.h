// SimEngine: the engine of a simulated node. Its address is its name.
//
// poll() does what the node has to do now; wait() lets the whole simulation go on until something
// happens to this node.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "net/session_engine.h"
#include "net/sim/sim_network.h"

namespace btd::net::sim {

class SimEngine final : public SessionEngine {
 public:
  // listen() and connect() fail if the options are none that work.
  SimEngine(SimNetwork& network, std::string name, const EngineOptions& options);
  ~SimEngine() override;

  Result<std::string> listen(std::string_view address, Acceptor acceptor) override;
  Result<Endpoint*> connect(std::string_view address, Handler& handler) override;
  [[nodiscard]] Time now() const override { return network_.now(); }
  Result<std::size_t> poll() override { return step(); }
  Result<std::size_t> wait(Time deadline) override;
  void wake() override { is_awake_ = true; }

  [[nodiscard]] const std::string& name() const { return name_; }
  // Cuts every link of this node, as if its switch had been reset.
  void cut_links();

 protected:
  std::unique_ptr<SessionEndpoint> make_endpoint(SessionEndpoint::Role role, wire::SessionId id,
                                                 std::string peer_name) override;
  void start_attempt(SessionEndpoint& endpoint) override;
  void break_link(SessionEndpoint& endpoint) override;
  void pump(SessionEndpoint& endpoint) override;
  [[nodiscard]] bool may_lose() const override { return network_.faults().may_lose; }

 private:
  friend class SimNetwork;
  // A link as one of its ends sees it; the number is the same at both.
  struct Link {
    std::uint64_t peer = 0;  // the other engine's number in the network
    std::string peer_name;
    SessionEndpoint* endpoint = nullptr;
    Time last{};           // bytes arrive in order: not before those sent earlier
    bool is_dead = false;  // swallows what is sent: the peer does not know yet, or never will
  };

  void got_hello(std::uint64_t link, std::uint64_t from, const std::string& name,
                 const wire::Hello& hello);
  void got_answer(std::uint64_t link, std::uint64_t from, const wire::Hello& answer);
  void got_refusal(std::uint64_t link, const wire::Refuse& refuse);
  void got_bytes(std::uint64_t link, const std::vector<std::byte>& bytes);
  void got_end(std::uint64_t link);

  void to_peer(Link& link, std::function<void(SimEngine&)> what);
  void send_stream(std::uint64_t number, Link& link, std::vector<std::byte> bytes);
  void send_frames(std::uint64_t number, Link& link, const std::vector<std::byte>& bytes);
  void cut(std::uint64_t number, Link& link);
  [[nodiscard]] std::uint64_t link_of(const SessionEndpoint& endpoint) const;

  SimNetwork& network_;
  const std::string name_;
  const Status judged_;  // of the options
  std::uint64_t number_ = 0;
  Acceptor acceptor_;
  bool is_awake_ = false;
  std::map<std::uint64_t, Link> links_;
};

}  // namespace btd::net::sim
