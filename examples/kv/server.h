// Server: clients on a TCP port, one thread, one epoll loop.
//
// Requests of a client are done in their order, as many as have come, and their replies sent in one
// go (pipelining). Buffers are bounded: who does not read its replies is not read from. It sleeps
// while idle. SIGTERM and SIGINT end it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "table.h"

namespace kv {

class Server {
 public:
  // Listens on `address`, an IPv4 address, and `port`; 0: one that is free. Throws
  // std::system_error.
  Server(Table& table, const std::string& address, std::uint16_t port);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  // Serves until a signal comes. Throws std::system_error.
  void run();

 private:
  struct Client {
    std::string in;           // received, not yet done
    std::string out;          // replies
    std::size_t sent = 0;     // of out
    bool ends = false;        // when the replies are sent
    std::size_t ignored = 0;  // bytes that came after that
    std::uint32_t waits = 0;  // for these events
  };

  void accept_client();
  void serve(int fd, Client& client, std::uint32_t events);
  bool receive(int fd, Client& client);
  void work(Client& client);
  bool send_replies(int fd, Client& client);
  void drop(int fd);
  void watch(int fd, std::uint32_t events, int operation) const;

  Table& table_;
  int listener_ = -1;
  int epoll_ = -1;
  int signals_ = -1;
  std::uint16_t port_ = 0;
  std::map<int, Client> clients_;
  std::vector<std::string_view> request_;  // keeps its memory
};

}  // namespace kv
