// Rpc: calls with typed requests and answers, over an endpoint's sends.
//
// A call runs at the peer once, however often connections break: it travels as a send, whose
// session numbers it and remembers what was taken (net/responder.h). If the peer forgot the session
// (it died), the call fails with ECONNRESET, and whether it ran is unknown. Bounds: calls that
// wait, and calls that are served, for each endpoint. The engine's thread only.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "alloc/result.h"
#include "net/engine.h"
#include "net/rpc_wire.h"

namespace btd::net {

// Tokens with this bit are RPC's; no other operation of its endpoints may have it.
inline constexpr Token kRpcToken = Token{1} << 63;

// `version` is that of the structures as they are compiled here; older ones down to `oldest` are
// served.
template <wire::RpcStruct Request, wire::RpcStruct Response>
struct Method {
  std::uint16_t id = 0;
  std::uint16_t version = 1;
  std::uint16_t oldest = 1;
};

struct RpcLimits {
  // Of each endpoint. Calls without an answer, more are EAGAIN; calls that are served, or whose
  // replies are on the way, more are EBUSY at the caller.
  std::size_t waiting = 1024;
  std::size_t served = 256;
  // A peer that owes answers is asked so often whether it is there: it may be waited for on a
  // connection that it has lost.
  Time probe = std::chrono::seconds(1);
};

class Rpc final : public Handler {
 public:
  using Bytes = std::span<const std::byte>;

  // Answers one call, now or later; a call that is dropped is answered with ECANCELED. An answer
  // for which the endpoint has no room now leaves when it has; one that is too large for this node
  // or for the caller becomes EMSGSIZE. Move-only.
  class Reply {
   public:
    Reply(Reply&& other) noexcept : rpc_(std::exchange(other.rpc_, nullptr)), id_(other.id_) {}
    Reply& operator=(Reply&&) = delete;
    Reply(const Reply&) = delete;
    Reply& operator=(const Reply&) = delete;
    ~Reply() {
      if (rpc_ != nullptr) fail({ECANCELED, "The peer dropped the call."});
    }

    template <wire::RpcStruct Response>
    void answer(const Response& response, Bytes tail = {}) {
      if (Rpc* rpc = std::exchange(rpc_, nullptr))
        rpc->reply(id_, 0, std::as_bytes(std::span{&response, 1}), tail);
    }
    void fail(const Error& error) {
      if (Rpc* rpc = std::exchange(rpc_, nullptr))
        rpc->reply(id_, error.code, {}, std::as_bytes(std::span{error.message}));
    }

   private:
    friend class Rpc;
    Reply(Rpc& rpc, std::uint64_t id) : rpc_(&rpc), id_(id) {}
    Rpc* rpc_;
    std::uint64_t id_;
  };

  // Who calls: `epoch` is the caller's, `deadline` on this engine's clock.
  struct Caller {
    Endpoint& endpoint;
    Epoch epoch = 0;
    Time deadline = kNever;
  };

  // `next` gets all that is not RPC's; it and the engine outlive this, and this its endpoints and
  // its Replies.
  Rpc(Engine& engine, Handler& next, RpcLimits limits = {});
  ~Rpc() override;
  Rpc(const Rpc&) = delete;
  Rpc& operator=(const Rpc&) = delete;

  // Also of a method that is served already, and from a handler, which still runs to its end.
  template <class Request, class Response>
  void serve(const Method<Request, Response>& method,
             std::function<void(const Caller&, const Request&, Bytes tail, Reply)> handler) {
    methods_[method.id] = std::make_shared<const Served>(
        Served{.version = method.version,
               .oldest = method.oldest,
               .run = [handler = std::move(handler)](const Caller& caller, Bytes fixed, Bytes tail,
                                                     Reply reply) {
                 handler(caller, structure<Request>(fixed), tail, std::move(reply));
               }});
  }

  // `done` is called once, on the engine's thread: never from within call(). Its errors: what the
  // peer's handler said; ETIMEDOUT; ECONNRESET; EBUSY the peer serves too many; ENOSYS,
  // EPROTONOSUPPORT the peer does not know the method, or not this version of it. Errors of call():
  // EAGAIN, EMSGSIZE, ENOTCONN; then `done` is not called.
  template <class Request, class Response>
  Status call(Endpoint& endpoint, const Method<Request, Response>& method, const Request& request,
              Bytes tail, Time deadline, std::function<void(Result<Response>, Bytes tail)> done) {
    return send_call(endpoint, method.id, method.version, std::as_bytes(std::span{&request, 1}),
                     tail, deadline, [done = std::move(done)](Result<Bytes> fixed, Bytes rest) {
                       if (!fixed) return done(std::unexpected(std::move(fixed).error()), {});
                       done(structure<Response>(*fixed), rest);
                     });
  }

  void on_completion(Endpoint& endpoint, const Completion& completion) override;
  int on_message(Endpoint& endpoint, Bytes message) override;
  void on_up(Endpoint& endpoint) override { next_.on_up(endpoint); }
  void on_down(Endpoint& endpoint, const Error& why) override { next_.on_down(endpoint, why); }
  void on_forgotten(Endpoint& endpoint) override;
  void on_closed(Endpoint& endpoint, const Error& why) override;

  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
  [[nodiscard]] std::size_t served() const { return served_.size(); }

 private:
  using Done = std::function<void(Result<Bytes> fixed, Bytes tail)>;
  struct Served {
    std::uint16_t version = 0, oldest = 0;
    std::function<void(const Caller&, Bytes fixed, Bytes tail, Reply)> run;
  };
  struct Waiting {
    Endpoint* endpoint = nullptr;
    TimerId timer = 0;
    Done done;
  };
  struct Serving {
    Endpoint* endpoint = nullptr;
    std::uint64_t call = 0;
    std::uint16_t version = 0;
    Time deadline = kNever;
  };

  // What came, as the structure is here: a longer one is cut, a shorter one filled with zeros.
  template <wire::RpcStruct T>
  static T structure(Bytes fixed) {
    std::array<std::byte, sizeof(T)> bytes{};
    std::memcpy(bytes.data(), fixed.data(), std::min(fixed.size(), bytes.size()));
    return std::bit_cast<T>(bytes);
  }

  Status send_call(Endpoint& endpoint, std::uint16_t method, std::uint16_t version, Bytes fixed,
                   Bytes tail, Time deadline, Done done);
  // A message that is on the way, or waits for room in its endpoint.
  struct Sending {
    Endpoint* endpoint = nullptr;
    std::vector<std::byte> bytes;
    std::uint64_t call = 0;  // the caller's number of it
    Time deadline = kNever;
    enum class Kind : std::uint8_t { kCall, kReply, kTooLarge } kind = Kind::kCall;
  };
  Status send(Sending& message);  // taken if that succeeds
  void send_reply(Sending reply);
  void send_too_large(const Sending& reply);
  void send_late(Endpoint& endpoint);
  void reply(std::uint64_t id, int error, Bytes fixed, Bytes tail);
  void finish(std::uint64_t call, Result<Bytes> fixed, Bytes tail);
  void probe();
  int take_call(Endpoint& endpoint, Bytes message);
  int take_reply(Endpoint& endpoint, Bytes message);

  Engine& engine_;
  Handler& next_;
  const RpcLimits limits_;
  std::unordered_map<std::uint16_t, std::shared_ptr<const Served>> methods_;
  std::uint64_t next_call_ = 1, next_served_ = 1, next_send_ = 1;
  std::unordered_map<std::uint64_t, Waiting> waiting_;
  TimerId probe_ = 0;  // 0: nobody is waited for
  std::unordered_map<std::uint64_t, Serving> served_;
  struct Load {
    std::size_t waiting = 0, served = 0;
  };
  std::unordered_map<Endpoint*, Load> loads_;
  std::unordered_map<Token, Sending> sending_;
  // Replies that wait for room, as many as are served at most.
  std::unordered_map<Endpoint*, std::deque<Sending>> late_;
};

}  // namespace btd::net
