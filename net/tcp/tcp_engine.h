// TcpEngine: the shell that owns sockets and an io_uring. What is said on them is decided by the
// session, the connection and the handshake.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "net/session_engine.h"
#include "net/tcp/link.h"
#include "net/tcp/ring.h"
#include "net/tcp/tcp.h"

namespace btd::net {

class TcpEndpoint final : public SessionEndpoint {
 public:
  using SessionEndpoint::SessionEndpoint;
  std::vector<Address> addresses;  // of a connecting one: tried in turn within an attempt
  std::size_t next_address = 0;
  std::size_t tried = 0;  // in this attempt
  Link* link = nullptr;
};

class TcpEngine final : public SessionEngine {
 public:
  static Result<std::unique_ptr<TcpEngine>> make(const TcpOptions& options);
  ~TcpEngine() override;

  Result<std::string> listen(std::string_view address, Acceptor acceptor) override;
  Result<Endpoint*> connect(std::string_view address, Handler& handler) override;
  void set_epoch(Epoch epoch) override;
  [[nodiscard]] Time now() const override;
  Result<std::size_t> poll() override;
  Result<std::size_t> wait(Time deadline) override;
  bool run_asleep(const std::function<void()>& task) override;
  void wake() override;

 private:
  TcpEngine(const TcpOptions& options, Random random, std::unique_ptr<Ring> ring, GuardMaker guards,
            UniqueFd event, UniqueFd alarm);

  std::unique_ptr<SessionEndpoint> make_endpoint(SessionEndpoint::Role role, wire::SessionId id,
                                                 std::string peer_name) override;
  bool yield();
  void start_attempt(SessionEndpoint& endpoint) override;
  void break_link(SessionEndpoint& endpoint) override;
  void pump(SessionEndpoint& endpoint) override;

  // Errors: EACCES the address needs security.
  Status judge_address(const Address& address) const;
  Result<UniqueFd> listen_on(const Address& address) const;

  // One round after the kernel was asked.
  Result<std::size_t> round();
  Result<std::size_t> end_round(std::size_t events);
  void take(const io_uring_cqe& completion);
  Time next_due();
  void arm(bool is_to_sleep);

  bool arm_read(int from, std::uint64_t& into, Io what);
  void arm_accept(Listener& listener);
  void accepted(Listener& listener, const io_uring_cqe& completion);
  void end_overdue();

  void try_address(TcpEndpoint& endpoint, Error last);
  void connected(Link& link, int result);
  Status begin_handshake(Link& link, Side side);

  void queue_receive(Link& link);
  // `is_to_stay`: the next one would be the ring's too.
  void arm_receive(Link& link, bool is_to_stay);
  [[nodiscard]] bool is_for_multishot(const Link& link) const;
  void end_multishot(Link& link);
  void received(Link& link, const io_uring_cqe& completion);
  std::size_t receive_at_once();
  static std::span<std::byte> direct_place(const Link& link);
  void received_direct(Link& link, int result);
  void end_fenced(const Link& link);
  void received_bytes(Link& link, std::span<const std::byte> bytes);
  void received_end(Link& link, int error);
  void received_handshake(Link& link, std::span<const std::byte> bytes);
  void heard(Link& link);
  void heard_answer(Link& link);
  void accept_link(Link& link);
  void open(Link& link, TcpEndpoint& endpoint);
  void accept_waiting();
  // tcp_lent.cc
  class Lent;
  Status sleep_lent(Time due);
  void set_alarm(Time due);

  void send(Link& link);
  bool protect(Link& link);
  void send_frames(Link& link);
  void begin_send(Link& link, std::size_t count);
  [[nodiscard]] bool is_for_zero_copy(const Link& link, std::size_t count) const;
  void send_zero_copy(Link& link);
  void zero_copied(HeldSend& send, const io_uring_cqe& completion);
  void let_go(HeldSend& send);
  void hold_or_free(Link& link);
  static void free_held(Link& link);
  void send_rest(Link& link, std::size_t count);
  static std::array<iovec, Link::kSegments>& segments(Link& link);
  void sent(Link& link, int result);
  void went_on(Link& link);

  // Its endpoint decides if it has one that is up; others end here.
  void fail(Link& link, Error why);
  void end(Link& link, Error why);
  // Ends it in truth, if no I/O is left.
  void finish(Link& link);
  // Of all I/O on a socket.
  void cancel_all(int socket);
  io_uring_sqe* entry();

  const Security security_;
  const std::uint32_t max_handshakes_;
  const std::uint32_t zero_copy_bytes_;
  const bool is_zero_copy_forced_;
  const std::uint32_t multishot_after_;
  TcpCounts unasked_;  // where options have no place for them
  TcpCounts& counts_;
  const GuardMaker guards_;
  const UniqueFd event_;
  const UniqueFd alarm_;  // ends a sleep sooner than was meant when it began; if the engine is lent
  std::uint64_t event_value_ = 0;
  std::atomic<bool> is_woken_ = false;
  bool is_wake_armed_ = false;

  std::unique_ptr<Ring> ring_;
  std::list<Listener> listeners_;
  std::list<Link> links_;       // of endpoints
  std::list<Link> handshakes_;  // of strangers, oldest first
  std::list<Link> ended_;       // until their I/O has ended
  std::size_t waiting_ = 0;     // of handshakes_: Link::State::kWaiting
  Time crowded_until_{};        // no spinning before it
  std::vector<Link*> queued_;   // for their next receive
  std::vector<Link*> asked_;    // of receive_at_once()
  std::array<std::byte, 64 << 10> scratch_;
  Bytes plain_;
  Status broken_;

  // Who has it uses all of the above: the engine's thread but while it sleeps, or who runs a task
  // then.
  std::mutex turn_;
  bool is_asleep_ = false;
  Time asleep_until_{};
  std::uint64_t alarm_value_ = 0;
  bool is_alarm_armed_ = false;
};

// While it lives, others may run tasks, if the engine is lent at all. `due`: when the engine's
// thread looks at the time again.
class TcpEngine::Lent {
 public:
  Lent(TcpEngine& engine, Time due) : engine_(engine) {
    if (!engine_.options().is_lent) return;
    engine_.is_asleep_ = true;
    engine_.asleep_until_ = due;
    engine_.turn_.unlock();
  }
  ~Lent() {
    if (!engine_.options().is_lent) return;
    engine_.turn_.lock();
    engine_.is_asleep_ = false;
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;

 private:
  TcpEngine& engine_;
};

}  // namespace btd::net
