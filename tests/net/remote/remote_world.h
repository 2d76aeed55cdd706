// RemoteWorld: the conformance suite's World with its server in another process, which net_peer is,
// perhaps on another machine. What a test does to the server (register memory, change the epoch,
// pause, kill) and what the server's handlers hear travel over a Channel; the memory that a test
// looks at is a copy, brought up to date whenever run_until() has what it waits for.
#pragma once

#include <memory>
#include <string>

#include "tests/net/conformance.h"
#include "tests/net/remote/channel.h"

namespace btd::net::remote {

class RemoteServer;

class RemoteWorld final : public World {
 public:
  // `kind`: of engines.h; `peer`: where net_peer listens. Errors: those of both engines.
  static Result<std::unique_ptr<RemoteWorld>> make(std::string_view kind,
                                                   const WorldOptions& options,
                                                   const std::string& peer);
  ~RemoteWorld() override;

  Engine& client() override { return *client_; }
  Engine& server() override;
  [[nodiscard]] std::string address() const override { return address_; }
  Status listen(Acceptor acceptor) override;
  // As listen(), and the peer serves kCount (method.h) by itself.
  Status listen_for_calls(Acceptor acceptor);
  Result<std::unique_ptr<ServerNvram>> make_server_nvram(std::size_t bytes) override;
  bool run_until(const std::function<bool()>& condition, Time within) override;
  void pause_server(bool is_paused) override;
  [[nodiscard]] bool is_direct() const override;
  [[nodiscard]] bool is_far() const override { return true; }
  void cut() override;
  void kill_server() override;

  // The peer's network device goes down for so long. Errors: ENOTSUP it is the loopback device.
  Status unplug(std::chrono::milliseconds outage);
  // How often kCount ran.
  Result<std::uint64_t> runs();

 private:
  RemoteWorld(std::string_view kind, std::unique_ptr<Engine> client,
              std::unique_ptr<RemoteServer> server);

  const std::string kind_;
  std::unique_ptr<Engine> client_;
  std::unique_ptr<RemoteServer> server_;
  std::string address_;
};

}  // namespace btd::net::remote
