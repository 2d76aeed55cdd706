// A real etcd server on loopback, with a data folder of its own; it ends with this object, and with
// the test that started it.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "net/etcd/client.h"
#include "net/etcd/etcd_store.h"

namespace btd::net::testing {

// A folder that goes with its object.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string path(std::string_view name) const {
    return path_ + "/" + std::string(name);
  }

 private:
  std::string path_;
};

[[nodiscard]] int free_port();

class EtcdServer {
 public:
  struct Setup {
    std::vector<std::string> arguments;  // more of them
    std::string scheme = "http";
    std::string name = "one";
    std::string cluster;  // of several members: name=peer,…
    int client_port = 0, peer_port = 0;
  };
  EtcdServer() : EtcdServer(Setup{}) {}
  explicit EtcdServer(Setup setup);
  ~EtcdServer();
  EtcdServer(const EtcdServer&) = delete;
  EtcdServer& operator=(const EtcdServer&) = delete;

  // With the same ports and data; returns when it answers, unless told not to wait.
  void start(bool wait = true);
  void wait_until_ready() const;
  void end(int signal);
  void send(int signal) const;

  [[nodiscard]] int port() const { return setup_.client_port; }
  [[nodiscard]] std::string url() const;
  // For this server alone; a short commit timeout would fail on a busy machine.
  [[nodiscard]] EtcdOptions options() const;
  // A request past the store; the answer's body.
  std::string ask(std::string_view path, const std::string& body) const;
  [[nodiscard]] EtcdServerStatus status() const;
  void compact(std::int64_t revision) const;
  // The rows as the server has them.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> rows(
      const std::string& prefix = "/bartender/k/") const;

 private:
  Folder folder_;
  Setup setup_;
  int pid_ = -1;
};

[[nodiscard]] std::unique_ptr<EtcdStore> open_store(const EtcdOptions& options);

// Adds one to the number in `key`, again as long as somebody else was faster. False: an error.
bool increment(MetaStore& store, std::string_view key);

using Pairs = std::vector<std::pair<std::string, std::string>>;
[[nodiscard]] Pairs dump(const MetaStore& store);
void put(MetaStore& store, std::string_view key, std::string_view value);
void erase(MetaStore& store, std::string_view key);

// Waits until `done` holds; false after 20 seconds.
template <class Condition>
bool eventually(Condition done) {
  for (int i = 0; i < 4000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

}  // namespace btd::net::testing
