// Caller: one thread's engine, its connections to homes, and waiting until what it asked is done.
//
// Nothing outlives the call that began it: when call() or transfer() returns, no engine refers to
// the caller's memory any more. Errors are those of one attempt; who calls decides whether to try
// again (is_passing()).
// Thread-safety: the thread that made it, except wake().
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "fs/namespace/inode.h"
#include "net/engine.h"
#include "net/rpc.h"

namespace btd::remote {

using EngineFactory = std::function<Result<std::unique_ptr<net::Engine>>()>;
// The address of a node. Errors: EHOSTUNREACH with a sentence, it is away.
using Locate = std::function<Result<std::string>(NodeId)>;

// Of one-sided operations: the region is not there any more, or not for this; attach again.
inline constexpr int kRegionGone = ENOLINK;

// The same attempt may succeed a moment later.
bool is_passing(int error);

// Never 0: by it homes know a client.
std::uint64_t random_number();

class Caller final : public net::Handler {
 public:
  Caller(std::unique_ptr<net::Engine> engine, const Locate& locate,
         const std::atomic<net::Epoch>& epoch);
  ~Caller() override;
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  [[nodiscard]] net::Time now() const { return engine_->now(); }
  // False: its engine broke; make another.
  [[nodiscard]] bool is_alive() const { return engine_ != nullptr; }
  void wake();  // from any thread

  // Connections to one home: calls of the second get through where the first is stuck with
  // operations that break it.
  enum class Lane : std::uint8_t { kFirst, kSecond };

  // Several calls at once, and their answers. `run` posts them by ask().
  class Calls {
   public:
    template <class Request, class Response>
    Status ask(const net::Method<Request, Response>& method, const Request& request,
               std::span<const std::byte> tail,
               std::function<void(const Response&, net::Rpc::Bytes tail)> answered);

   private:
    friend class Caller;
    Caller* caller = nullptr;
    net::Endpoint* endpoint = nullptr;
    net::Time deadline{};
    std::size_t open = 0;
    Status failed;  // the first one
  };
  Status call(NodeId home, Lane lane, net::Time deadline, const std::function<Status(Calls&)>& run);

  // Does the operations, which have no token or deadline yet. Where the connection breaks under
  // them again and again, `is_stuck` is called once, which may call by the other lane.
  Status transfer(NodeId home, std::span<net::Operation> operations, net::Time deadline,
                  const std::function<void()>& is_stuck);

  // What the thread waits for, as others see it: any thread may ask.
  struct Wait {
    NodeId home = 0;
    std::chrono::steady_clock::duration since{};
  };
  [[nodiscard]] std::optional<Wait> wait() const;
  // As long as it lives, the thread waits for this home.
  class Waiting {
   public:
    Waiting(Caller& caller, NodeId home);
    ~Waiting();
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    Caller& caller_;
  };

  // Lets the engine work for so long.
  void pause(net::Time time);
  // Why an attempt to reach the home failed, in words; empty if it was reached.
  [[nodiscard]] std::string why_unreached(NodeId home) const;

  void on_completion(net::Endpoint& endpoint, const net::Completion& completion) override;
  void on_up(net::Endpoint& endpoint) override;
  void on_down(net::Endpoint& endpoint, const Error& why) override;
  void on_closed(net::Endpoint& endpoint, const Error& why) override;

 private:
  struct Connection {
    net::Endpoint* endpoint = nullptr;
    std::string address;
    std::string why;  // it is not up
    unsigned downs = 0;
    bool is_up = false;
  };
  using Home = std::array<Connection, 2>;
  struct Transfer {
    std::size_t open = 0;
    int error = 0;
  };

  Result<Connection*> connect(NodeId home, Lane lane);
  Connection* find(const net::Endpoint& endpoint);
  Status turn(NodeId home, Connection& connection, net::Time until);
  void follow(NodeId home, Connection& connection);
  void adopt_epoch();
  Status break_down(Error why);

  const Locate locate_;
  const std::atomic<net::Epoch>& epoch_;
  std::mutex life_;  // of engine_, for wake()
  std::unique_ptr<net::Engine> engine_;
  std::optional<net::Rpc> rpc_;
  std::map<NodeId, Home> homes_;
  // Of Waiting; 0: since nothing.
  std::atomic<std::chrono::steady_clock::rep> waits_since_{0};
  std::atomic<NodeId> waits_for_{0};
};

template <class Request, class Response>
Status Caller::Calls::ask(const net::Method<Request, Response>& method, const Request& request,
                          std::span<const std::byte> tail,
                          std::function<void(const Response&, net::Rpc::Bytes tail)> answered) {
  BTD_TRY((caller->rpc_->call<Request, Response>(
      *endpoint, method, request, tail, deadline,
      [this, answered = std::move(answered)](Result<Response> response, net::Rpc::Bytes rest) {
        --open;
        if (response) {
          answered(*response, rest);
        } else if (failed) {
          failed = std::unexpected(response.error());
        }
      })));
  ++open;
  return {};
}

}  // namespace btd::remote
