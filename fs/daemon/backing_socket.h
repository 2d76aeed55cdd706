// BackingSocket: the Unix socket at which programs get descriptors of backing files. It carries
// messages (alloc/backing_protocol.h); what is granted is decided by its owner's function.
//
// One thread serves it and sleeps in one poll. It takes no descriptor from anybody: it gives the
// kernel no room for one. At most kMostConnections are open, each for one message and kPatienceMs
// at most; another one takes the place of the oldest. No call on a connection waits.
// Thread-safety: made and destroyed by one thread; `grant` is called by the socket's own thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "alloc/backing_protocol.h"
#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd {

class BackingSocket {
 public:
  static constexpr std::size_t kMostConnections = 16;
  static constexpr int kPatienceMs = 1000;
  using GrantFunction = std::function<Result<UniqueFd>(const backing::Ticket&)>;

  // The socket of the pool whose lock is `lock_fd`; empty if this process is not root, which alone
  // can have passthrough. Two pools in use at a time have different ones.
  static std::string path_of(int lock_fd);
  // Replaces what a killed worker left at `path`. Errors: those of the directory and the socket.
  static Result<std::unique_ptr<BackingSocket>> open(const std::string& path, GrantFunction grant);
  // Removes the socket and ends the thread.
  ~BackingSocket();
  BackingSocket(const BackingSocket&) = delete;
  BackingSocket& operator=(const BackingSocket&) = delete;

 private:
  struct Connection {
    UniqueFd socket;
    std::uint64_t until_ns = 0;
  };

  BackingSocket(std::string path, UniqueFd listener, UniqueFd wake, GrantFunction grant);
  void serve();
  void accept_one(std::uint64_t now_ns);
  void answer(int socket) const;
  [[nodiscard]] int milliseconds_to_wait(std::uint64_t now_ns) const;

  const std::string path_;
  UniqueFd listener_, wake_;
  const GrantFunction grant_;
  std::deque<Connection> connections_;  // oldest first
  std::uint64_t deaf_until_ns_ = 0;     // no descriptor was left for a connection
  std::thread thread_;
};

}  // namespace btd
