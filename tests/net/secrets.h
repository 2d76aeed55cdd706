// What the nodes of one cluster know each other by, for tests: in a directory of its own.
#pragma once

#include <filesystem>
#include <string>

#include "net/tcp/tcp.h"

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

}  // namespace btd::net
