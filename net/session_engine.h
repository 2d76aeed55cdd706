// SessionEngine: what the engines share whose operations travel in frames (tcp, sim): the regions,
// the endpoints and their timers, the work that threads submit, and the order of each round: take
// what came, make it durable, answer, tell the handlers.
//
// A shell derives from it, owns sockets or their like, and is told what to do by the pure virtual
// functions. The shell says what came of it by the protected ones.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <variant>
#include <vector>

#include "net/session_endpoint.h"

namespace btd::net {

class SessionEngine : public Engine {
 public:
  // More that wait than that is EAGAIN.
  static constexpr std::size_t kMaxTasks = 4096;

  SessionEngine(const EngineOptions& options, Random random,
                std::uint32_t capabilities = kWritesOnce);
  ~SessionEngine() override;

  Result<RegionDescriptor> register_region(std::span<std::byte> memory, std::uint32_t access,
                                           Persist* persist) override;
  Status deregister_region(std::uint64_t key) override;
  // A shell that lets a kernel or device put bytes into memory also ends that.
  void set_epoch(Epoch epoch) override;
  [[nodiscard]] Epoch epoch() const override { return node_.epoch; }
  TimerId at(Time when, std::function<void()> task) override {
    return tasks_later_.add(when, std::move(task));
  }
  bool cancel(TimerId id) override { return tasks_later_.cancel(id); }
  Status submit(std::function<void()> task) override;

  [[nodiscard]] const EngineOptions& options() const { return options_; }
  [[nodiscard]] const LocalNode& node() const { return node_; }
  [[nodiscard]] RegionTable& regions() { return regions_; }
  [[nodiscard]] std::size_t endpoints() const { return endpoints_.size(); }

 protected:
  // What the shell does. start_attempt: connects, and speaks first with session().begin_attempt();
  // then attempt_done() or link_ended(). break_link: ends a link or an attempt; when no I/O on
  // given-out memory is left, link_ended(), also from within. pump: connection() has something to
  // send.
  virtual std::unique_ptr<SessionEndpoint> make_endpoint(SessionEndpoint::Role role,
                                                         wire::SessionId id,
                                                         std::string peer_name) = 0;
  virtual void start_attempt(SessionEndpoint& endpoint) = 0;
  virtual void break_link(SessionEndpoint& endpoint) = 0;
  virtual void pump(SessionEndpoint& endpoint) = 0;
  virtual bool may_lose() const { return false; }
  // Of a link that is coming up, what it does without the peer's processor; null: nothing.
  virtual OneSided* one_sided(SessionEndpoint& /*endpoint*/) { return nullptr; }
  // An endpoint has an operation more. It leaves in the next round, if the shell can't do better.
  virtual void posted(SessionEndpoint& endpoint) { mark(endpoint); }
  // The time of a round, which shells that read the clock anyway need not read for each event.
  [[nodiscard]] virtual Time round_time() const { return now(); }
  friend class SessionEndpoint;

  // What the shell says. A new endpoint; it is attempted in the next round. Errors: EMFILE.
  Result<Endpoint*> add_connecting(std::string peer_name, Handler& handler);
  // The peer's first frame came. `must_break`: its older link must end first; call again then.
  struct Refused {
    wire::Refuse frame;
  };
  struct Accepted {
    SessionEndpoint* endpoint;
    wire::Hello answer;  // to be sent before anything else
  };
  struct MustBreak {
    SessionEndpoint* endpoint;
  };
  using Acceptance = std::variant<Refused, Accepted, MustBreak>;
  Acceptance accept(const wire::Hello& hello, std::string peer_name, const Acceptor& acceptor);
  void attempt_done(SessionEndpoint& endpoint);
  void link_ended(SessionEndpoint& endpoint, Error why);
  // Bytes came: takes them (net/connection.h). An error ends the link in this round.
  void feed(SessionEndpoint& endpoint, std::span<const std::byte> bytes);
  void fed_direct(SessionEndpoint& endpoint, std::size_t count);
  // What the link did without the peer's processor is answered.
  void answered(SessionEndpoint& endpoint, const wire::ResponseHeader& header);
  // Ends the link for this reason; the session goes on if the peer comes back.
  void fail_link(SessionEndpoint& endpoint, Error why);
  void mark(SessionEndpoint& endpoint);

  // The part of step() that is for endpoints which were marked, and how many are.
  std::size_t serve_marked();
  [[nodiscard]] std::size_t marked() const { return dirty_.size(); }
  [[nodiscard]] bool has_tasks();
  // The round after the shell took what came. How many endpoints had something to do.
  std::size_t step();
  // When the next step() is due if nothing comes: the past if work waits.
  [[nodiscard]] Time next_time();

 private:
  void run_tasks();
  void serve(SessionEndpoint& endpoint, Time now, bool is_durable);
  void schedule(SessionEndpoint& endpoint);
  void destroy(SessionEndpoint& endpoint);
  // Ends the links that still use a region that closes.
  void end_users(std::uint64_t key);

  const EngineOptions options_;
  LocalNode node_;
  const Random random_;
  RegionTable regions_;
  std::map<wire::SessionId, std::unique_ptr<SessionEndpoint>> endpoints_;
  std::vector<SessionEndpoint*> dirty_, round_;
  std::set<std::pair<Time, SessionEndpoint*>> timers_;
  Timers tasks_later_;
  std::map<std::uint64_t, TimerId> closing_;  // regions that are used: by their key, end_users()

  std::mutex mutex_;  // of the next two lines; held for moments only
  std::vector<std::function<void()>> tasks_;
};

}  // namespace btd::net
