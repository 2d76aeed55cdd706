// The conformance suite of the engines: what net/types.h and net/engine.h promise, asked of any two
// engines that can reach each other. An engine's test makes a World and instantiates the suite:
//   INSTANTIATE_TEST_SUITE_P(Tcp, Conformance, ::testing::Values(WorldMaker{"plain", make_world}));
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "net/engine.h"
#include "tests/net/recorder.h"
#include "tests/net/server_nvram.h"

namespace btd::net {

// A server's engine that listens and a client's, and the time that both run on.
class World {
 public:
  virtual ~World() = default;
  [[nodiscard]] virtual Engine& client() = 0;
  [[nodiscard]] virtual Engine& server() = 0;
  [[nodiscard]] virtual std::string address() const = 0;  // of the server
  virtual Status listen(Acceptor acceptor) = 0;
  virtual Result<std::unique_ptr<ServerNvram>> make_server_nvram(std::size_t bytes) {
    return make_nvram(server(), bytes);
  }
  // Lets both engines work until `condition` holds; false if it does not within that time. A server
  // that is paused does not work.
  virtual bool run_until(const std::function<bool()>& condition, Time within) = 0;
  virtual void pause_server(bool is_paused) = 0;
  // Time is the simulation's: it does not pass while a thread works.
  [[nodiscard]] virtual bool is_simulated() const { return false; }
  // Writes are durable without the peer's processor, and memory that needs it is refused.
  [[nodiscard]] virtual bool is_direct() const { return false; }
  // Writes to memory that dies with its node take no processor of the server's.
  [[nodiscard]] virtual bool is_served_by_nic() const { return is_direct(); }
  // A round trip takes long: what is asked for many times is asked for fewer.
  [[nodiscard]] virtual bool is_far() const { return false; }
  // Breaks the connection between them, wherever it stands; both may connect anew.
  virtual void cut() = 0;
  // The server dies without a word, and nobody listens any more.
  virtual void kill_server() = 0;
};

struct WorldOptions {
  Limits limits;
  Patience patience{.connect = std::chrono::seconds(2),
                    .silence = std::chrono::milliseconds(300),
                    .reconnect = std::chrono::seconds(2),
                    .linger = std::chrono::seconds(2)};
  Epoch epoch = 0;
};

struct WorldMaker {
  std::string name;
  std::function<std::unique_ptr<World>(const WorldOptions&)> make;
  friend void PrintTo(const WorldMaker& maker, std::ostream* out) { *out << maker.name; }
};

class Conformance : public ::testing::TestWithParam<WorldMaker> {};

}  // namespace btd::net
