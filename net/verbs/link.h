// Link: one connection of an endpoint: a queue pair, what is posted on it, and its share of
// buffers.
//
// Requests complete in their order, so only some are signalled: a completion answers for all that
// were posted before it. What leaves together leaves by one ibv_post_send(), since each rings the
// doorbell. While a request refers to an operation's buffers, the operation is pinned
// (net/requester.h); destroying the queue pair frees them, since nothing touches them afterwards.
// Thread-safety: the engine's thread only.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "net/one_sided.h"
#include "net/session_endpoint.h"
#include "net/verbs/device.h"
#include "net/verbs/handshake.h"
#include "net/verbs/rules.h"

namespace btd::net::verbs {

// What a SEND is; in its immediate data, with the credits that it gives back.
enum class Message : std::uint8_t {
  kHandshake = 1,
  kReady = 2,   // the connecting side serves the NIC from now on
  kStream = 3,  // bytes of net/connection.h
  kCredit = 4,
};

class VerbsEndpoint;

// What a link tells the engine; both are called while completions are taken.
class LinkOwner {
 public:
  virtual ~LinkOwner() = default;
  virtual void link_answered(VerbsEndpoint& endpoint, const wire::ResponseHeader& header) = 0;
  virtual void link_failed(VerbsEndpoint& endpoint, Error why) = 0;
  virtual void link_progressed(VerbsEndpoint& endpoint) = 0;
};

class Link final : public OneSided {
 public:
  enum class State : std::uint8_t { kResolving, kConnecting, kHandshake, kUp, kRefused };

  Link(Device& device, LinkOwner& owner, std::uint32_t number, ConnectionId id);
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() override;

  // Makes the queue pair, ready for the manager's connection. Errors: ENOMEM, ENOSPC.
  Status make_pair();
  // To the state in which it receives and sends; the peer has no access to memory yet.
  Status connect_pair(const rdma_conn_param& peers);
  // The peer may reach the regions now, and ours may go to the peer's NIC when `is_open`.
  Status trust();
  // `mine`, `peers`: capabilities.
  void open(std::uint32_t mine, std::uint32_t peers) {
    is_open_ = true;
    my_capabilities_ = mine;
    peers_capabilities_ = peers;
  }
  // No request touches memory afterwards, of either side. The operations are freed.
  void destroy_pair();

  // `counted`: bytes of the stream that the connection is told of when the peer has them. Errors:
  // EAGAIN there is no room.
  Status send(Message kind, std::span<const std::byte> bytes, bool must_signal,
              std::uint32_t counted = 0);
  // Sends what the connection has, as far as credits and room go.
  void pump(Connection& connection);
  // Gives credits back, if the peer needs to know now.
  void return_credits();

  // One message came; false: the peer breaks the rules.
  [[nodiscard]] bool received(std::uint32_t returned) { return credits_.received(returned); }
  void freed() { credits_.freed(); }
  // A request completed: `serial` of its wr_id.
  void completed(std::uint32_t serial, ibv_wc_status status);

  [[nodiscard]] bool may_leave(const Requester::Next& next) override;
  Way leave(const Requester::Frame& frame) override;

  [[nodiscard]] std::uint32_t number() const { return number_; }
  [[nodiscard]] std::uint32_t pair_number() const { return pair_ ? pair_->qp_num : 0; }
  [[nodiscard]] rdma_cm_id* id() const { return id_.get(); }
  [[nodiscard]] bool is_idle() const { return posted() == 0; }

  // For the engine, which makes the handshake.
  State state = State::kResolving;
  VerbsEndpoint* endpoint = nullptr;  // null while an accepting side does not know whose it is
  Nonce my_nonce{}, peer_nonce{};
  Time deadline = kNever;  // of a handshake
  std::string peer_name;
  // Messages whose bytes the connection does not take now: index and length.
  std::deque<std::pair<std::uint64_t, std::size_t>> held;
  bool is_paired = false;   // counted by Device::add_peer()
  bool is_trusted = false;  // the peer's epoch is ours
  Epoch epoch = 0;          // that one

 private:
  enum class Kind : std::uint8_t { kPart, kMessage, kRead, kWrite };
  struct Work {
    Kind kind = Kind::kPart;
    std::uint8_t slot = kNoSlot;
    bool is_pinned = false;
    bool is_answer = false;   // the operation is answered when this is done
    std::uint32_t bytes = 0;  // of the stream
    std::uint64_t seq = 0;
    std::uint64_t key = 0;
    Lease lease;
  };
  // The next operation's way, decided before it leaves.
  struct Plan {
    std::uint64_t seq = kNoOperation;
    bool is_one_sided = false;
    bool is_inline = false;
    Lease lease;
    std::vector<Request> requests;
  };
  // Requests on the way to the device, each linked to the next.
  struct Batch {
    static constexpr std::size_t kMost = 16;
    std::array<ibv_send_wr, kMost> requests;
    std::array<std::array<ibv_sge, kMaxSegments>, kMost> segments;
    std::size_t size = 0;
  };
  static constexpr std::uint8_t kNoSlot = 0xFF;
  static constexpr std::uint64_t kNoOperation = ~std::uint64_t{0};

  [[nodiscard]] Requester& requester();
  [[nodiscard]] std::size_t room() const { return Device::kSendDepth - posted(); }
  [[nodiscard]] std::uint32_t posted() const { return next_serial_ - first_serial_; }
  [[nodiscard]] Work& work(std::uint32_t serial) { return work_[serial % work_.size()]; }
  [[nodiscard]] bool is_refused(const Requester::Next& next) const;
  void plan(const Requester::Next& next);
  void read(const Requester::Frame& frame);
  Way write(const Requester::Frame& frame);
  void read_behind(std::uint64_t seq, const RemoteRange& remote, std::uint32_t length);
  void flush_behind(std::uint64_t seq, const RemoteRange& remote, std::uint32_t length);
  // One request more of the next post(), and its place among work_, which the caller fills in.
  struct Queued {
    ibv_send_wr& request;
    std::array<ibv_sge, kMaxSegments>& segments;
    Work& work;
  };
  Queued queue(Kind kind, ibv_wr_opcode opcode, unsigned flags);
  Work& queue_transfer(const Request& request, std::uint32_t rkey, Kind kind, ibv_wr_opcode opcode,
                       unsigned flags);
  void post();
  void forget_plan();
  std::optional<std::uint8_t> take_slot();
  void finish(Work& work);
  void finish_read(const Work& work);

  Device& device_;
  LinkOwner& owner_;
  const std::uint32_t number_;
  ConnectionId id_;
  QueuePair pair_;
  std::unique_ptr<Buffer> slots_;
  std::vector<std::uint8_t> free_slots_;
  std::uint32_t max_inline_ = 0;
  Credits credits_;
  bool is_open_ = false;
  bool is_broken_ = false;
  std::uint32_t my_capabilities_ = 0, peers_capabilities_ = 0;

  // Posted and not completed, in order; numbers of 32 bits wrap, and the ring with them.
  static_assert((Device::kSendDepth & (Device::kSendDepth - 1)) == 0);
  std::array<Work, Device::kSendDepth> work_;
  std::uint32_t first_serial_ = 0, next_serial_ = 0;
  std::uint32_t unsignalled_ = 0;  // since the last signalled one
  std::uint32_t reads_ = 0;        // of work_
  Batch batch_;
  Plan plan_;
};

// An endpoint, and what of it outlives a link.
class VerbsEndpoint final : public SessionEndpoint {
 public:
  using SessionEndpoint::SessionEndpoint;

  Link* link = nullptr;
  // The peer's NIC refused an operation on this region: its processor is asked for the reason, also
  // of those that were posted behind it, since each refusal costs the connection.
  struct Refused {
    std::uint64_t key = 0;
    std::uint64_t before = 0;  // a number
  };
  Refused refused;
};

}  // namespace btd::net::verbs
