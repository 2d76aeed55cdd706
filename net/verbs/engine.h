// VerbsEngine: the shell of net/session_engine.h over RDMA: the manager's events, the completion
// queue, and the life of links.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "net/session_engine.h"
#include "net/verbs/device.h"
#include "net/verbs/link.h"
#include "net/verbs/verbs_engine.h"

namespace btd::net::verbs {

class VerbsEngine final : public SessionEngine, public LinkOwner {
 public:
  static Result<std::unique_ptr<VerbsEngine>> make(const VerbsOptions& options);
  ~VerbsEngine() override;

  Result<RegionDescriptor> register_region(std::span<std::byte> memory, std::uint32_t access,
                                           Persist* persist) override;
  Status deregister_region(std::uint64_t key) override;
  Result<std::string> listen(std::string_view address, Acceptor acceptor) override;
  Result<Endpoint*> connect(std::string_view address, Handler& handler) override;
  // One-sided requests carry no epoch: the queue pairs end here and now, so that no request of the
  // old epoch takes effect later; peers connect anew and say theirs.
  void set_epoch(Epoch epoch) override;
  [[nodiscard]] Time now() const override;
  Result<std::size_t> poll() override;
  Result<std::size_t> wait(Time deadline) override;
  void wake() override;

  // Breaks all connections, as a switch might.
  void cut_links();
  [[nodiscard]] const Device& device() const { return *device_; }
  // Writes that a NIC's own flush made durable, by what the device says of its completions.
  [[nodiscard]] std::uint64_t flushes() const { return flushes_; }

 protected:
  std::unique_ptr<SessionEndpoint> make_endpoint(SessionEndpoint::Role role, wire::SessionId id,
                                                 std::string peer_name) override;
  void start_attempt(SessionEndpoint& endpoint) override;
  void break_link(SessionEndpoint& endpoint) override;
  void pump(SessionEndpoint& endpoint) override;
  OneSided* one_sided(SessionEndpoint& endpoint) override;
  // Where nothing is under way it leaves first in the next round: all else can be done while the
  // device works.
  void posted(SessionEndpoint& endpoint) override;
  [[nodiscard]] Time round_time() const override { return round_time_; }

 private:
  struct Event;
  struct Arrived {
    std::uint32_t link = 0;  // 0: of a queue pair that is gone
    ibv_wc completion;
  };

  VerbsEngine(const VerbsOptions& options, Random random, std::unique_ptr<Device> device);
  Status set_up();

  void link_answered(VerbsEndpoint& endpoint, const wire::ResponseHeader& header) override;
  void link_failed(VerbsEndpoint& endpoint, Error why) override;
  void link_progressed(VerbsEndpoint& endpoint) override;

  // engine_manager.cc: the connection manager's side.
  std::size_t take_events();
  void handle(const Event& event);
  void got_request(const Event& event);
  Status accept_request(Link& link, const Event& event);
  void got_address(Link& link);
  void got_route(Link& link);
  void got_acceptance(Link& link, const Event& event);
  void got_handshake(Link& link, std::span<const std::byte> bytes);
  void got_first(Link& link, std::span<const std::byte> bytes);
  void got_answer(Link& link, std::span<const std::byte> bytes);
  void got_ready(Link& link);
  void got_end(std::uint32_t number);
  void refuse(Link& link, wire::Refuse frame);
  // The peer is who it says: it may reach our regions, if its epoch is ours.
  Status trust(Link& link, Epoch peers);
  void open(Link& link);

  Link& add_link(ConnectionId id);
  Link* find(std::uint32_t number);
  // Its queue pair ends; completions that are left are nobody's.
  void end_pair(Link& link);
  void drop(Link& link);
  void end_link(Link& link, Error why);
  void end_late(Time now);

  // engine.cc: completions.
  void pump_first();
  std::size_t round();
  std::size_t collect();
  std::size_t take_completions();
  void take(const Arrived& arrived);
  void got_message(Link& link, const ibv_wc& completion);
  void feed_held(Link& link);
  [[nodiscard]] bool must_wake(Time deadline);
  // Whether there is something before `until`.
  bool spin(Time until);
  Status sleep(Time until);
  Status take_signals();

  const VerbsOptions options_;
  std::unique_ptr<Device> device_;
  EventChannel events_;
  int wake_fd_ = -1;
  std::atomic<bool> is_awake_{false};
  ConnectionId listener_;
  Acceptor acceptor_;
  std::uint32_t next_link_ = 1;
  std::map<std::uint32_t, std::unique_ptr<Link>> links_;
  std::map<std::uint32_t, std::uint32_t> pairs_;  // number of a queue pair: of its link
  std::vector<std::uint32_t> young_;              // accepted, and not known yet
  std::vector<std::uint32_t> touched_;            // something came for them in this round
  std::vector<std::uint32_t> failed_;             // their attempt has
  std::map<std::uint64_t, LocalRegion*> regions_by_key_;
  std::vector<std::uint32_t> touched_before_;  // empty between rounds
  std::vector<Arrived> arrived_, taken_;
  Link* accepting_ = nullptr;  // whose endpoint is coming up
  Time next_look_{};           // at the manager's events
  Time round_time_{};
  SessionEndpoint* first_ = nullptr;  // has something to send; null during rounds
  bool is_in_round_ = false;
  std::uint64_t flushes_ = 0;
  bool is_broken_ = false;
};

}  // namespace btd::net::verbs
