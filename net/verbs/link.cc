#include "net/verbs/link.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "net/verbs/flush.h"

namespace btd::net::verbs {

namespace {

// One in so many is signalled: rarer gains nothing, and unfreed requests take room.
constexpr std::uint32_t kMostUnsignalled = 16;
// Operations leave this for messages, without which nothing would be answered.
constexpr std::size_t kRoomForMessages = 2 * Device::kSlots + 2;
// 4096 ns * 2^16 = 268 ms until a packet is sent again, seven times: about Patience::silence.
constexpr std::uint8_t kPacketTimeout = 16, kRetries = 7;
constexpr unsigned kCreditBits = 8;
// The last slot is where reads go that nobody looks at.
constexpr std::size_t kScratchSlot = Device::kSlots - 1;

Status checked(int code, const char* what) {
  if (code == 0) return {};
  const int error = code > 0 ? code : errno;
  return fail(error, std::string(what) + ": " + std::strerror(error) + ".");
}

std::string meaning(ibv_wc_status status) {
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
      return "it does not answer";
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return "it has no buffers for messages";
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
      return "its NIC refused a request";
    default:
      return ibv_wc_status_str(status);
  }
}

bool is_refusal(ibv_wc_status status) {
  return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ||
         status == IBV_WC_REM_OP_ERR || status == IBV_WC_LOC_PROT_ERR;
}

}  // namespace

Link::Link(Device& device, LinkOwner& owner, std::uint32_t number, ConnectionId id)
    : device_(device), owner_(owner), number_(number), id_(std::move(id)) {
  id_->context = this;
}

Link::~Link() {
  for (const auto& [index, length] : held) device_.repost(index);
  destroy_pair();
  device_.give_buffer(std::move(slots_));
  if (is_paired) device_.remove_peer();
}

Requester& Link::requester() { return endpoint->session().requester(); }

Status Link::make_pair() {
  BTD_TRY(device_.add_peer());
  is_paired = true;
  BTD_ASSIGN(slots_, device_.take_buffer());
  for (std::size_t i = kScratchSlot; i-- > 0;) free_slots_.push_back(static_cast<std::uint8_t>(i));
  BTD_ASSIGN(pair_, device_.make_queue_pair(max_inline_));
  ibv_qp_attr attributes{};
  int mask = 0;
  attributes.qp_state = IBV_QPS_INIT;
  BTD_TRY(checked(rdma_init_qp_attr(id_.get(), &attributes, &mask), "A queue pair's attributes"));
  attributes.qp_access_flags = 0;  // until trust()
  return checked(ibv_modify_qp(pair_.get(), &attributes, mask), "A queue pair to INIT");
}

Status Link::connect_pair(const rdma_conn_param& peers) {
  for (const ibv_qp_state next : {IBV_QPS_RTR, IBV_QPS_RTS}) {
    ibv_qp_attr attributes{};
    int mask = 0;
    attributes.qp_state = next;
    BTD_TRY(checked(rdma_init_qp_attr(id_.get(), &attributes, &mask), "A queue pair's attributes"));
    if (next == IBV_QPS_RTR) {
      attributes.max_dest_rd_atomic = std::min(device_.reads_in(), peers.responder_resources);
    } else {
      attributes.max_rd_atomic = std::min(device_.reads_out(), peers.initiator_depth);
      attributes.timeout = kPacketTimeout;
      attributes.retry_cnt = kRetries;
    }
    mask &= ~IBV_QP_ACCESS_FLAGS;
    BTD_TRY(checked(ibv_modify_qp(pair_.get(), &attributes, mask), "A queue pair to RTR or RTS"));
  }
  return {};
}

Status Link::trust() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_RTS;
  int access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  if (device_.flush().global) access |= flush_access(Flush::kGlobal);
  if (device_.flush().persistent) access |= flush_access(Flush::kPersistent);
  attributes.qp_access_flags = static_cast<unsigned>(access);
  return checked(ibv_modify_qp(pair_.get(), &attributes, IBV_QP_STATE | IBV_QP_ACCESS_FLAGS),
                 "A queue pair's access to memory");
}

void Link::destroy_pair() {
  pair_.reset();
  is_open_ = false;
  is_broken_ = true;
  forget_plan();
  batch_.size = 0;
  for (; first_serial_ != next_serial_; ++first_serial_) {
    Work& ended = work(first_serial_);
    if (ended.is_pinned) requester().unpin(ended.seq);
    ended.lease.end();
  }
  reads_ = 0;
}

std::optional<std::uint8_t> Link::take_slot() {
  if (free_slots_.empty()) return std::nullopt;
  const std::uint8_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

// Signalled at least as often as must be.
Link::Queued Link::queue(Kind kind, ibv_wr_opcode opcode, unsigned flags) {
  if (batch_.size == Batch::kMost) post();
  const std::size_t index = batch_.size++;
  ibv_send_wr& request = batch_.requests[index];
  if (index > 0) batch_.requests[index - 1].next = &request;
  if (++unsignalled_ >= kMostUnsignalled) flags |= IBV_SEND_SIGNALED;
  if ((flags & IBV_SEND_SIGNALED) != 0) unsignalled_ = 0;
  request.wr_id = std::uint64_t{number_} << 32 | next_serial_;
  request.next = nullptr;
  request.sg_list = batch_.segments[index].data();
  request.num_sge = 0;
  request.opcode = opcode;
  request.send_flags = flags;
  Work& queued = work(next_serial_++);
  queued.kind = kind;
  queued.slot = kNoSlot;
  queued.is_pinned = queued.is_answer = false;
  queued.bytes = 0;
  if (kind == Kind::kRead) ++reads_;
  return {.request = request, .segments = batch_.segments[index], .work = queued};
}

Link::Work& Link::queue_transfer(const Request& request, std::uint32_t rkey, Kind kind,
                                 ibv_wr_opcode opcode, unsigned flags) {
  const Queued queued = queue(kind, opcode, flags);
  for (ibv_sge* to = queued.segments.data(); const LocalBytes& bytes : request.local)
    *to++ = {.addr = bytes.address, .length = bytes.length, .lkey = bytes.lkey};
  queued.request.num_sge = static_cast<int>(request.local.size());
  queued.request.wr.rdma.remote_addr = request.remote;
  queued.request.wr.rdma.rkey = rkey;
  return queued.work;
}

void Link::post() {
  const bool is_empty = std::exchange(batch_.size, 0) == 0;
  if (is_empty || is_broken_) return;
  ibv_send_wr* bad = nullptr;
  ibv_send_wr* const first = batch_.requests.data();
  const bool has_flush = device_.flush().any();
  if ((has_flush ? post_with_flush(pair_.get(), first) : ibv_post_send(pair_.get(), first, &bad)) ==
      0)
    return;
  is_broken_ = true;
  if (endpoint != nullptr)
    owner_.link_failed(*endpoint, {EIO, "The device " + device_.name() + " took no request."});
}

Status Link::send(Message kind, std::span<const std::byte> bytes, bool must_signal,
                  std::uint32_t counted) {
  const bool is_inline = bytes.size() <= max_inline_;
  const std::optional<std::uint8_t> slot = is_inline ? kNoSlot : take_slot();
  if (!slot || is_broken_ || room() == 0)
    return fail(EAGAIN, "There is no room for a message to the peer.");
  unsigned flags = is_inline ? IBV_SEND_INLINE : 0;
  if (must_signal) flags |= IBV_SEND_SIGNALED;
  const Queued queued = queue(Kind::kMessage, IBV_WR_SEND_WITH_IMM, flags);
  queued.request.imm_data =
      htonl(static_cast<std::uint32_t>(kind) << kCreditBits | credits_.send());
  ibv_sge& segment = queued.segments.front();
  segment = {.addr = reinterpret_cast<std::uintptr_t>(bytes.data()),
             .length = static_cast<std::uint32_t>(bytes.size()),
             .lkey = 0};
  if (!is_inline) {
    std::byte* at = slots_->bytes.get() + *slot * Device::kSlotBytes;
    if (at != bytes.data()) std::memcpy(at, bytes.data(), bytes.size());
    segment.addr = reinterpret_cast<std::uintptr_t>(at);
    segment.lkey = slots_->memory->lkey;
  }
  queued.request.num_sge = bytes.empty() ? 0 : 1;
  queued.work.slot = *slot;
  queued.work.bytes = counted;
  post();  // the bytes are the caller's
  return {};
}

void Link::pump(Connection& connection) {
  std::array<iovec, 16> pieces;
  std::array<std::byte, Device::kSlotBytes> bytes;
  connection.gather({}, 0);  // what needs no message leaves without credits, too
  while (!is_broken_ && credits_.can_send() && !free_slots_.empty() && room() > 0) {
    std::size_t size = 0;
    while (size < bytes.size()) {
      const std::size_t count = connection.gather(pieces, bytes.size() - size);
      if (count == 0) break;
      for (const iovec& piece : std::span{pieces}.first(count)) {
        std::memcpy(bytes.data() + size, piece.iov_base, piece.iov_len);
        size += piece.iov_len;
      }
    }
    if (size == 0) break;
    // The last one of a burst is signalled if it has a slot, which must come back.
    const bool is_last = size < bytes.size() || free_slots_.size() == 1;
    const bool is_ending = endpoint->is_closing();
    const bool must_signal = is_last && (size > max_inline_ || is_ending);
    // They are copied, so operations are free of them now. The last words before an end count when
    // the peer has them, since the queue pair goes then.
    if (!is_ending) connection.sent(size);
    const auto counted = static_cast<std::uint32_t>(is_ending ? size : 0);
    if (!send(Message::kStream, std::span{bytes}.first(size), must_signal, counted)) break;
  }
  return_credits();
  post();
}

void Link::return_credits() {
  if (credits_.must_return() && room() > 0 && !is_broken_)
    static_cast<void>(send(Message::kCredit, {}, false));
}

bool Link::is_refused(const Requester::Next& next) const {
  return next.seq < endpoint->refused.before && next.remote.key == endpoint->refused.key;
}

void Link::forget_plan() {
  plan_.seq = kNoOperation;
  plan_.is_one_sided = plan_.is_inline = false;
  plan_.lease.end();
}

void Link::plan(const Requester::Next& next) {
  if (plan_.seq == next.seq) return;
  forget_plan();
  plan_.seq = next.seq;
  // One of another epoch is the peer's to refuse, which takes a frame.
  if (!is_open_ || next.epoch != epoch || !can_be_one_sided(next) || is_refused(next)) return;
  const bool is_read = next.verb == Verb::kRead;
  const auto segments = requester().segments(next.seq);
  plan_.requests.resize(1);  // nearly always one
  Request& whole = plan_.requests.front();
  if (!is_read && next.length <= max_inline_ && segments.size() <= device_.max_segments()) {
    plan_.is_one_sided = plan_.is_inline = true;
    return;
  }
  if (!device_.lend(segments, is_read, plan_.lease, whole.local)) return;
  whole.remote = device_key(next.remote.key).page_offset + next.remote.offset;
  whole.length = next.length;
  if (whole.length > device_.max_bytes() || whole.local.size() > device_.max_segments()) {
    const LocalList local = whole.local;
    cut(local, whole.remote, device_.max_bytes(), device_.max_segments(), plan_.requests);
  }
  plan_.is_one_sided = plan_.requests.size() + kRoomForMessages < Device::kSendDepth;
}

bool Link::may_leave(const Requester::Next& next) {
  if (is_broken_) return false;
  if (next.verb == Verb::kNone) return true;  // has no effect
  plan(next);
  const Requester& mine = requester();
  if (route(plan_.is_one_sided, mine.unanswered(), mine.one_sided()) == Route::kWait) return false;
  return !plan_.is_one_sided || room() > plan_.requests.size() + kRoomForMessages;
}

OneSided::Way Link::leave(const Requester::Frame& frame) {
  const auto verb = static_cast<Verb>(frame.header.verb);
  if (verb == Verb::kNone || !plan_.is_one_sided) {
    forget_plan();
    return Way::kStream;
  }
  requester().left_one_sided(frame.header.seq);
  Way way = Way::kTaken;
  if (verb == Verb::kRead) {
    read(frame);
  } else {
    way = write(frame);
  }
  forget_plan();
  return way;
}

void Link::read(const Requester::Frame& frame) {
  const std::uint64_t seq = frame.header.seq;
  const std::uint32_t rkey = device_key(frame.header.key).rkey;
  const bool is_pinned = plan_.lease.is_callers();
  if (is_pinned) requester().pin(seq);
  for (std::size_t i = 0; i < plan_.requests.size(); ++i) {
    const bool is_last = i + 1 == plan_.requests.size();
    Work& work = queue_transfer(plan_.requests[i], rkey, is_last ? Kind::kRead : Kind::kPart,
                                IBV_WR_RDMA_READ, is_last ? IBV_SEND_SIGNALED : 0);
    work.seq = seq;
    work.key = frame.header.key;
    work.is_pinned = is_last && is_pinned;
    work.is_answer = is_last;
    if (is_last) work.lease = std::move(plan_.lease);
  }
}

OneSided::Way Link::write(const Requester::Frame& frame) {
  const std::uint64_t seq = frame.header.seq;
  const DeviceKey key = device_key(frame.header.key);
  const std::uint64_t remote = key.page_offset + frame.header.offset;
  const Durability durability = choose_durability(my_capabilities_, peers_capabilities_, key.flush);
  // A write must not be seen by reads that were posted before it.
  unsigned flags = reads_ > 0 ? IBV_SEND_FENCE : 0;
  if (plan_.is_inline) {
    Request& request = plan_.requests.front();
    request.remote = remote;
    request.length = frame.header.length;
    request.local.clear();
    for (const iovec& segment : frame.payload)
      if (segment.iov_len > 0)
        request.local.push_back({.address = reinterpret_cast<std::uintptr_t>(segment.iov_base),
                                 .length = static_cast<std::uint32_t>(segment.iov_len)});
    flags |= IBV_SEND_INLINE;
  } else if (std::byte* to = plan_.lease.bounce()) {
    for (const iovec& segment : frame.payload)
      to = std::copy_n(static_cast<const std::byte*>(segment.iov_base), segment.iov_len, to);
  }
  const bool is_pinned = plan_.lease.is_callers();
  for (std::size_t i = 0; i < plan_.requests.size(); ++i) {
    const bool is_last = i + 1 == plan_.requests.size();
    const bool must_signal = is_last && durability == Durability::kAcknowledge && !plan_.is_inline;
    Work& work = queue_transfer(plan_.requests[i], key.rkey, is_last ? Kind::kWrite : Kind::kPart,
                                IBV_WR_RDMA_WRITE, must_signal ? flags | IBV_SEND_SIGNALED : flags);
    work.seq = seq;
    work.key = frame.header.key;
    work.is_pinned = is_last && is_pinned;
    if (is_last) work.lease = std::move(plan_.lease);
    flags &= ~static_cast<unsigned>(IBV_SEND_FENCE);
  }
  if (!is_pinned) requester().unpin(seq);
  const RemoteRange written{.key = frame.header.key, .offset = remote};
  switch (durability) {
    case Durability::kNativeFlush:
      flush_behind(seq, written, frame.header.length);
      return Way::kTaken;
    case Durability::kReadBehind:
      read_behind(seq, written, frame.header.length);
      return Way::kTaken;
    case Durability::kAcknowledge:
      break;
  }
  return Way::kPlaced;
}

// Its answer says that all of the write, however many requests it took, is where it has to be.
void Link::flush_behind(std::uint64_t seq, const RemoteRange& remote, std::uint32_t length) {
  const Queued queued = queue(Kind::kWrite, IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED);
  set_flush(queued.request, remote, length, device_key(remote.key).flush);
  queued.work.seq = seq;
  queued.work.key = remote.key;
  queued.work.is_answer = true;
}

// Its answer says that the write is where the platform keeps it. Into a slot that nobody reads.
void Link::read_behind(std::uint64_t seq, const RemoteRange& remote, std::uint32_t length) {
  const std::uint32_t count = std::min<std::uint32_t>(length, 8);
  const std::byte* unread = slots_->bytes.get() + kScratchSlot * Device::kSlotBytes;
  Request request{.remote = remote.offset + length - count, .length = count};
  request.local.push_back({.address = reinterpret_cast<std::uintptr_t>(unread),
                           .length = count,
                           .lkey = slots_->memory->lkey});
  Work& work = queue_transfer(request, device_key(remote.key).rkey, Kind::kWrite, IBV_WR_RDMA_READ,
                              IBV_SEND_SIGNALED);
  work.seq = seq;
  work.key = remote.key;
  work.is_answer = true;
}

void Link::finish_read(const Work& work) {
  --reads_;
  const std::byte* from = work.lease.bounce();
  if (from == nullptr) return;
  for (const iovec& segment : requester().segments(work.seq)) {
    std::memcpy(segment.iov_base, from, segment.iov_len);
    from += segment.iov_len;
  }
}

void Link::finish(Work& work) {
  if (work.slot != kNoSlot) free_slots_.push_back(work.slot);
  if (work.kind == Kind::kRead) finish_read(work);
  if (work.bytes > 0 && endpoint != nullptr)
    if (Connection* connection = endpoint->connection()) connection->sent(work.bytes);
  if (work.is_answer) {
    const Verb verb = work.kind == Kind::kRead ? Verb::kRead : Verb::kWritePersist;
    owner_.link_answered(*endpoint, {.verb = static_cast<std::uint8_t>(verb), .seq = work.seq});
  }
  work.lease.end();
  if (work.is_pinned) requester().unpin(work.seq);
}

void Link::completed(std::uint32_t serial, ibv_wc_status status) {
  if (is_broken_ && status != IBV_WC_SUCCESS) return;
  if (status != IBV_WC_SUCCESS) {
    is_broken_ = true;
    if (endpoint == nullptr) return;
    const bool is_known = serial - first_serial_ < posted();
    if (is_refusal(status) && is_known && work(serial).kind != Kind::kMessage)
      endpoint->refused = {.key = work(serial).key, .before = requester().posted_end()};
    owner_.link_failed(*endpoint, {ECONNRESET, endpoint->peer_name() + ": " + meaning(status) +
                                                   "; the connection ends."});
    return;
  }
  // They wrap, so they are compared by their distance.
  for (; posted() > 0 && static_cast<std::int32_t>(serial - first_serial_) >= 0; ++first_serial_)
    finish(work(first_serial_));
  if (endpoint != nullptr) owner_.link_progressed(*endpoint);
}

}  // namespace btd::net::verbs
