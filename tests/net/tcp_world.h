// What the tests of the tcp engine share: secrets in a directory of their own, and a world of two
// engines on loopback.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "net/tcp/tcp.h"
#include "tests/net/conformance.h"

namespace btd::net {

// A directory with what one cluster needs: key, ca.pem, node.pem, node.key. Removed at the end.
class Secrets {
 public:
  Secrets();
  Secrets(const Secrets&) = delete;
  Secrets& operator=(const Secrets&) = delete;
  ~Secrets();

  [[nodiscard]] std::string path(const std::string& name) const { return directory_ / name; }
  [[nodiscard]] Security key() const { return KeySecurity{path("key")}; }
  [[nodiscard]] Security tls() const {
    return TlsSecurity{path("ca.pem"), path("node.pem"), path("node.key")};
  }
  // Of the test program.
  static const Secrets& mine();
  // Of another cluster.
  static const Secrets& others();

 private:
  std::filesystem::path directory_;
};

// Ends all TCP connections of this process that have an end at the port, as a broken network would.
void cut_connections(const std::string& address);

class TcpWorld final : public World {
 public:
  TcpWorld(const WorldOptions& options, const Security& security);

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
std::unique_ptr<Engine> make_engine(const Security& security, const EngineOptions& options = {});

}  // namespace btd::net
