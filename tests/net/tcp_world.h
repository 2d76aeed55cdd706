// What the tests of the tcp engine share: a world of two engines on loopback.
#pragma once

#include <memory>
#include <string>

#include "net/tcp/tcp.h"
#include "tests/net/conformance.h"
#include "tests/net/secrets.h"

namespace btd::net {

// Ends all TCP connections of this process that have an end at the port, as a broken network would.
void cut_connections(const std::string& address);

class TcpWorld final : public World {
 public:
  TcpWorld(const WorldOptions& options, const Security& security)
      : TcpWorld(options, TcpOptions{.security = security}) {}
  // `tcp.engine` is not looked at, and `tcp.counts` are of both engines.
  TcpWorld(const WorldOptions& options, TcpOptions tcp);

  Engine& client() override { return *client_; }
  Engine& server() override { return *server_; }
  [[nodiscard]] std::string address() const override { return address_; }
  Status listen(Acceptor acceptor) override;
  bool run_until(const std::function<bool()>& condition, Time within) override;
  void pause_server(bool is_paused) override { is_paused_ = is_paused; }
  void cut() override { cut_connections(address_); }
  void kill_server() override { server_.reset(); }

 private:
  std::unique_ptr<Engine> client_, server_;
  std::string address_;
  bool is_paused_ = false;
};

// An engine with these, that must work.
std::unique_ptr<Engine> make_engine(const TcpOptions& options);
std::unique_ptr<Engine> make_engine(const Security& security, const EngineOptions& options = {});

// All payloads, and what is short beside them, are sent without a copy, as far as the engine can
// say: on loopback the kernel copies them on the way.
TcpOptions all_zero_copy(TcpCounts* counts = nullptr);
// Receives of one kind only.
inline TcpOptions single_shots() { return {.multishot_after = UINT32_MAX}; }
inline TcpOptions multishots(const Security& security = NoSecurity{}) {
  return {.security = security, .multishot_after = 0};
}

}  // namespace btd::net
