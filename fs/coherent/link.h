// Link: sends over one endpoint, in order and each once, as many as it takes.
//
// A send that fails breaks the order, so the endpoint is closed then: who uses it begins anew with
// another one. Bounds: what waits here is bounded by what kernels wait for at the two nodes.
// The engine's thread only.
#pragma once

#include <deque>

#include "fs/coherent/message.h"
#include "net/engine.h"

namespace btd::coherent {

class Link {
 public:
  explicit Link(net::Endpoint& endpoint) : endpoint_(endpoint) {}

  void send(std::vector<Bytes> sends);
  void completed(const net::Completion& completion);
  Result<std::optional<Assembly::Whole>> take(std::span<const std::byte> send) {
    return assembly_.take(send);
  }
  [[nodiscard]] bool is_empty() const { return is_broken_ || sends_.empty(); }
  [[nodiscard]] net::Endpoint& endpoint() const { return endpoint_; }

 private:
  void post();

  net::Endpoint& endpoint_;
  Assembly assembly_;
  // The first posted_ are the endpoint's until they complete, in order.
  std::deque<Bytes> sends_;
  std::size_t posted_ = 0;
  bool is_broken_ = false;
};

}  // namespace btd::coherent
