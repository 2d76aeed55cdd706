// A proxy between a store and etcd that loses what it is told to lose.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "alloc/unique_fd.h"

namespace btd::net::testing {

// Listens on loopback and serves each connection on a thread; all end with the object.
class Listener {
 public:
  using Serve = std::function<void(UniqueFd connection)>;
  explicit Listener(Serve serve);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // Closes what is open; later connections are closed at once until they are let in again.
  void shut();
  void let_in() { shut_ = false; }

 private:
  void run();

  Serve serve_;
  int port_ = 0;
  UniqueFd socket_;
  std::atomic<bool> ending_{false}, shut_{false};
  std::mutex mutex_;
  std::list<int> open_;  // descriptors under way
  std::list<std::thread> threads_;
  std::thread acceptor_;
};

// What becomes of one transaction's request.
enum class Fate {
  pass,
  drop,    // it never arrives
  cut,     // it arrives, and the connection is cut at once
  answer,  // it is answered, and the answer is lost
  late,    // the connection is cut, and the request arrives afterwards
};

class Proxy {
 public:
  using Judge = std::function<Fate(std::string_view request)>;
  explicit Proxy(int server_port) : port_(server_port) {}

  // Asked about each request to /v3/kv/txn, from several threads.
  void set_judge(Judge judge) {
    const std::scoped_lock lock(mutex_);
    judge_ = std::move(judge);
  }
  [[nodiscard]] std::string url() const { return listener_.url(); }
  void shut() { listener_.shut(); }
  void let_in() { listener_.let_in(); }

 private:
  void serve(UniqueFd client);
  bool pass_request(const std::string& request, UniqueFd& server);
  Fate judge(std::string_view request);

  const int port_;
  std::mutex mutex_;
  Judge judge_;
  Listener listener_{[this](UniqueFd fd) { serve(std::move(fd)); }};
};

// The length of the first whole HTTP request in the buffer; 0: it is not whole yet.
[[nodiscard]] std::size_t whole_request(std::string_view buffer);
bool send_all(int fd, std::string_view bytes);

}  // namespace btd::net::testing
