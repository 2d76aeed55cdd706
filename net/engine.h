// Engine and Endpoint: one interface of one-sided verbs over whatever carries them.
//
// An engine belongs to one thread: all calls are made on it, except wake(), submit() and
// run_asleep(), which any thread may make. It does work in poll() and wait() only, and calls
// handlers from there; a handler may post, close and connect. It never blocks for one peer: what
// cannot be done now is kept within bounds, and each operation has its deadline. Engines: tcp
// (net/tcp), verbs (net/verbs), sim (net/sim). All pass one conformance suite.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "alloc/persist.h"
#include "alloc/result.h"
#include "net/timers.h"
#include "net/types.h"

namespace btd::net {

class Endpoint;

// What an endpoint's owner implements; called on the engine's thread.
class Handler {
 public:
  virtual ~Handler() = default;
  virtual void on_completion(Endpoint& endpoint, const Completion& completion) = 0;
  // A message of the peer, valid during the call. Returns 0 or what the sender's completion has as
  // its error: EBUSY for not now.
  virtual int on_message(Endpoint& /*endpoint*/, std::span<const std::byte> /*message*/) {
    return EBUSY;
  }
  // Connected, for the first time or again; before the first message that comes by it.
  virtual void on_up(Endpoint& /*endpoint*/) {}
  // The peer that is connected again knows nothing of what was before: it died meanwhile, and what
  // it took then has no more effect. After the completions of that time.
  virtual void on_forgotten(Endpoint& /*endpoint*/) {}
  // The connection is lost; the engine tries again, as long as Patience says.
  virtual void on_down(Endpoint& /*endpoint*/, const Error& /*why*/) {}
  // The last call: all operations have completed, and the endpoint is gone after it.
  virtual void on_closed(Endpoint& /*endpoint*/, const Error& /*why*/) {}
};

class Endpoint {
 public:
  virtual ~Endpoint() = default;

  // Errors: EAGAIN, EINVAL, EMSGSIZE (net/requester.h); ENOTCONN it is closed. While the connection
  // is down, operations wait for the next one.
  virtual Status post(const Operation& operation) = 0;
  // Every operation completes, those without an answer with ECONNRESET or ECANCELED; then
  // on_closed().
  virtual void close() = 0;

  [[nodiscard]] virtual bool is_up() const = 0;
  [[nodiscard]] virtual NodeId peer() const = 0;                 // as it said in the handshake
  [[nodiscard]] virtual std::uint32_t capabilities() const = 0;  // of the connection: Capability
  [[nodiscard]] virtual std::string peer_name() const = 0;       // for messages: an address

  Status read(std::span<const iovec> into, RemoteRange from, Token token, Time deadline) {
    return post(
        {.verb = Verb::kRead, .token = token, .deadline = deadline, .remote = from, .local = into});
  }
  // Durable at the peer when it completes. After a failure any part of the bytes may be there.
  Status write_persist(std::span<const iovec> from, RemoteRange to, Token token, Time deadline) {
    return post({.verb = Verb::kWritePersist,
                 .token = token,
                 .deadline = deadline,
                 .remote = to,
                 .local = from});
  }
  // Compares the word with `expected` and stores `desired` if they are equal; atomic with the
  // peer's processors too, and durable. The completion has the word before.
  Status cas8(RemoteRange at, std::uint64_t expected, std::uint64_t desired, Token token,
              Time deadline) {
    return post({.verb = Verb::kCas8,
                 .token = token,
                 .deadline = deadline,
                 .remote = at,
                 .expected = expected,
                 .desired = desired});
  }
  // Completes when the peer's handler has taken the message.
  Status send(std::span<const iovec> message, Token token, Time deadline) {
    return post({.verb = Verb::kSend, .token = token, .deadline = deadline, .local = message});
  }
};

// Of a peer that connected and has proved who it is: its handler, or null to refuse it. The handler
// must outlive the endpoint.
using Acceptor = std::function<Handler*(Endpoint& endpoint)>;

class Engine {
 public:
  virtual ~Engine() = default;

  // Lets peers reach `memory`; `persist` makes durable what they write, null if it need not be.
  // Errors: EINVAL, ENOSPC; ENOMEM when the device can't lock it (RLIMIT_MEMLOCK).
  virtual Result<RegionDescriptor> register_region(std::span<std::byte> memory,
                                                   std::uint32_t access, Persist* persist) = 0;
  // No new operation finds it. Errors: EBUSY operations use it; poll and call again: connections
  // that still use it after Patience::silence are broken for it, so it has an end. ENOENT.
  virtual Status deregister_region(std::uint64_t key) = 0;

  // `address`: "host:port", port 0 for any; returns what it listens on. Errors: those of bind,
  // EINVAL.
  virtual Result<std::string> listen(std::string_view address, Acceptor acceptor) = 0;
  // Begins to connect; on_up() or on_closed() tells the end. The endpoint is the engine's, and
  // valid until on_closed() returned. Errors: EINVAL no address, EMFILE too many endpoints.
  virtual Result<Endpoint*> connect(std::string_view address, Handler& handler) = 0;

  // The node's epoch. Requests of another are refused from now on, also those whose payload is
  // coming in: when this returns, no byte of theirs reaches memory any more.
  virtual void set_epoch(Epoch epoch) = 0;
  [[nodiscard]] virtual Epoch epoch() const = 0;
  [[nodiscard]] virtual Time now() const = 0;

  // Runs `task` in poll() or wait() at that time; cancel() is false if it has run. kNever: it never
  // runs.
  virtual TimerId at(Time when, std::function<void()> task) = 0;
  virtual bool cancel(TimerId id) = 0;

  // Does what can be done now; how many events that were. Errors: the engine is broken, for good.
  virtual Result<std::size_t> poll() = 0;
  // The same, but sleeps until there is something, `deadline` at most; spins a little first.
  virtual Result<std::size_t> wait(Time deadline) = 0;

  // From any thread. wait() returns soon.
  virtual void wake() = 0;
  // From any thread: runs `task` in poll() or wait(). Errors: EAGAIN too many wait.
  virtual Status submit(std::function<void()> task) = 0;
  // From any thread: if the engine sleeps in wait(), runs `task` here and now as wait() would, and
  // sends what it posts: that spares waking the engine's thread. False: it does not sleep, or never
  // lets others run anything (EngineOptions::is_lent); submit() it.
  virtual bool run_asleep(const std::function<void()>& /*task*/) { return false; }
};

struct EngineOptions {
  NodeId node = 0;
  Epoch epoch = 0;
  Limits limits;
  Patience patience;
  std::uint32_t max_endpoints = 4096;
  Time spin = std::chrono::microseconds(50);  // of wait(), before it sleeps
  // Lets other threads run tasks while it sleeps (run_asleep()), for a system call more before it
  // does. Between two wait() nobody uses it then.
  bool is_lent = false;
  // The answer to a message waits so long for something to go with, which spares a frame. Only for
  // engines that somebody always waits in: else it might never leave.
  Time late{};
  // Called by wait() before it sleeps in the kernel; may be empty.
  std::function<void()> before_sleep;
};

// Errors: EINVAL an option with which an engine could not work, and which.
Status judge(const EngineOptions& options);

}  // namespace btd::net
