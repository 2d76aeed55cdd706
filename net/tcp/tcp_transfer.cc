// The part of TcpEngine that moves bytes.
//
// A receive is one of four:
// - asked: while the engine spins, it asks the few connections that were active last itself;
// - a multishot of the ring, into its buffers, which lasts: of a connection that is not asked,
//   once it has brought small frames only for a while;
// - a single shot of the ring, into its buffers: of all others;
// - a single shot straight into the place of a long payload.
// A multishot saves an entry for each receive, but has to be ended, and its last completion waited
// for, when a payload is to come straight into its place or the peer must wait. So who had to be
// ended proves itself anew. Until the end comes, bytes are taken as before: no more than the ring's
// buffers hold. One that found no buffer ends too, and single shots, which take one buffer a round,
// let all others have theirs.
// A single shot is armed at the end of the round, behind the sends.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "net/tcp/tcp_engine.h"

namespace btd::net {

namespace {

// Payloads of which more is to come are received in place: below, the copy out of the ring's buffer
// costs less than a receive of its own.
constexpr std::size_t kDirectBytes = 16 << 10;
// Of one send: a peer's share of the socket's memory and of a round.
constexpr std::size_t kSendBytes = 1 << 20;
// The same where each byte is copied and encrypted first.
constexpr std::size_t kProtectBytes = 64 << 10;
// Buffers that are larger are not kept for the next time.
constexpr std::size_t kKeptBytes = 4 << 10;

void clear(Bytes& bytes) {
  if (bytes.capacity() > kKeptBytes) {
    Bytes().swap(bytes);
  } else {
    bytes.clear();
  }
}

}  // namespace

// --- Receiving ---

void TcpEngine::queue_receive(Link& link) {
  if (link.is_queued || link.is_receiving) return;
  link.is_queued = true;
  queued_.push_back(&link);
}

// Of a payload that is worth it; else empty.
std::span<std::byte> TcpEngine::direct_place(const Link& link) {
  if (link.guard != nullptr) return {};
  const auto place = link.endpoint->connection()->direct();
  return place.size() >= kDirectBytes ? place : std::span<std::byte>{};
}

bool TcpEngine::is_for_multishot(const Link& link) const {
  return multishot_after_ != UINT32_MAX && link.small_receives >= multishot_after_;
}

void TcpEngine::arm_receive(Link& link, bool is_to_stay) {
  link.is_queued = false;
  if (link.is_receiving || link.state == Link::State::kEnding ||
      link.state == Link::State::kWaiting)
    return;
  Connection* connection = link.state == Link::State::kUp ? link.endpoint->connection() : nullptr;
  if (connection != nullptr && connection->is_full()) return;  // until it has sent some
  io_uring_sqe* receive = entry();
  if (receive == nullptr) return;
  const auto place = connection != nullptr ? direct_place(link) : std::span<std::byte>{};
  link.is_direct = !place.empty();
  if (link.is_direct) {
    connection->begin_direct();
    io_uring_prep_recv(receive, link.socket.get(), place.data(), place.size(), 0);
  } else {
    if (is_to_stay && connection != nullptr && is_for_multishot(link)) {
      link.is_cancelled = false;
      io_uring_prep_recv_multishot(receive, link.socket.get(), nullptr, 0, 0);
      ++counts_.multishot_receives;
    } else {
      io_uring_prep_recv(receive, link.socket.get(), nullptr, Ring::kBufferBytes, 0);
    }
    receive->flags |= IOSQE_BUFFER_SELECT;
    receive->buf_group = Ring::kBufferGroup;
  }
  if (link.is_drained) receive->ioprio |= IORING_RECVSEND_POLL_FIRST;
  io_uring_sqe_set_data64(receive, user_data(&link, Io::kReceive));
  link.is_receiving = true;
}

void TcpEngine::received(Link& link, const io_uring_cqe& completion) {
  const bool lasts = (completion.flags & IORING_CQE_F_MORE) != 0;
  link.is_receiving = lasts;
  link.is_drained = (completion.flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
  const bool has_buffer = (completion.flags & IORING_CQE_F_BUFFER) != 0;
  const unsigned index = completion.flags >> IORING_CQE_BUFFER_SHIFT;
  const int result = completion.res;
  if (link.state == Link::State::kEnding) {
    if (has_buffer) ring_->recycle(index);
    return finish(link);
  }
  if (link.is_direct) {
    received_direct(link, result);
  } else if (result > 0 && has_buffer) {
    received_bytes(link, ring_->buffer(index, static_cast<std::size_t>(result)));
  } else {
    received_end(link, -result);
  }
  if (has_buffer) ring_->recycle(index);
  if (lasts) end_multishot(link);  // else the link may have ended, and be gone
}

// If the link is one for single shots now.
void TcpEngine::end_multishot(Link& link) {
  if (link.is_cancelled || link.state != Link::State::kUp) return;
  if (direct_place(link).empty() && !link.endpoint->connection()->is_full()) return;
  io_uring_sqe* cancel = entry();
  if (cancel == nullptr) return;
  io_uring_prep_cancel64(cancel, user_data(&link, Io::kReceive), 0);
  io_uring_sqe_set_data64(cancel, 0);
  link.is_cancelled = true;
}

void TcpEngine::received_direct(Link& link, int result) {
  link.is_direct = false;
  link.small_receives = 0;
  fed_direct(*link.endpoint, static_cast<std::size_t>(std::max(result, 0)));
  if (result <= 0) return received_end(link, -result);
  queue_receive(link);
}

// Bytes that are in the socket may be about to come into place, though the connection takes them
// for nobody's now.
void TcpEngine::set_epoch(Epoch epoch) {
  SessionEngine::set_epoch(epoch);
  for (const std::list<Link>* links : {&links_, &ended_})
    for (const Link& link : *links) end_fenced(link);
}

void TcpEngine::end_fenced(const Link& link) {
  const Connection* connection = link.endpoint != nullptr ? link.endpoint->connection() : nullptr;
  if (!link.is_receiving || connection == nullptr || !connection->is_fenced_direct()) return;
  Status ended = ring_->enter();  // the receive may still wait to be submitted
  if (ended && ring_->has_entries())
    ended = btd::fail(EBUSY, "io_uring takes no work; a receive can't be ended.");
  if (ended) ended = ring_->end(user_data(&link, Io::kReceive));
  if (!ended && broken_) broken_ = std::move(ended);
}

// What came on the connections that were active last: asking them costs less than a receive that
// waits in the ring, and the engine spins anyway. How many had something.
std::size_t TcpEngine::receive_at_once() {
  std::size_t events = 0;
  asked_.swap(queued_);
  for (std::size_t i = 0; i < asked_.size(); ++i) {
    Link* link = asked_[i];
    if (link == nullptr) continue;
    link->is_queued = false;
    if (link->is_receiving || link->state != Link::State::kUp) {
      if (!link->is_receiving) queue_receive(*link);
      continue;
    }
    Connection* connection = link->endpoint->connection();
    if (connection == nullptr || connection->is_full()) continue;
    const auto place = direct_place(*link);
    const std::span<std::byte> into = place.empty() ? std::span{scratch_} : place;
    const ssize_t size = ::recv(link->socket.get(), into.data(), into.size(), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
      link->is_drained = true;
      queue_receive(*link);
      continue;
    }
    ++events;
    link->is_drained = static_cast<std::size_t>(std::max<ssize_t>(size, 0)) < into.size();
    if (size <= 0) {
      received_end(*link, size < 0 ? errno : 0);
    } else if (!place.empty()) {
      connection->begin_direct();
      received_direct(*link, static_cast<int>(size));
    } else {
      received_bytes(*link, into.first(static_cast<std::size_t>(size)));
    }
  }
  asked_.clear();
  return events;
}

void TcpEngine::received_end(Link& link, int error) {
  // No buffer was free at that moment, a signal came, or the receive was ended here: again.
  if (error == ENOBUFS) ++counts_.receives_without_buffer;
  if (error == ENOBUFS || error == ECANCELED) link.small_receives = 0;
  if (error == ENOBUFS || error == EINTR || error == EAGAIN || error == ECANCELED)
    return queue_receive(link);
  if (link.handshake != nullptr)
    return fail(link, {ECONNRESET, link.name + ": " + link.handshake->guard().when_ended()});
  fail(link, {ECONNRESET, "The connection to " + link.name + " was lost: " +
                              (error == 0 ? "the peer closed it." : std::strerror(error))});
}

void TcpEngine::received_bytes(Link& link, std::span<const std::byte> bytes) {
  if (link.handshake != nullptr) return received_handshake(link, bytes);
  ++link.small_receives;
  if (link.guard == nullptr) {
    feed(*link.endpoint, bytes);
  } else {
    plain_.clear();
    auto taken = link.guard->take(bytes, plain_, link.output);
    if (!plain_.empty()) feed(*link.endpoint, plain_);
    if (!taken) return fail(link, {taken.error().code, link.name + ": " + taken.error().message});
    if (!link.output.empty()) send(link);
  }
  queue_receive(link);
}

// --- Sending ---

void TcpEngine::pump(SessionEndpoint& endpoint) {
  Link* link = static_cast<TcpEndpoint&>(endpoint).link;
  if (link == nullptr || link->state != Link::State::kUp || link->is_sending) return;
  if (!link->output.empty()) return send(*link);
  if (link->guard == nullptr) return send_frames(*link);
  if (protect(*link)) send(*link);
}

// The guard's and the handshake's bytes.
void TcpEngine::send(Link& link) {
  if (link.is_sending || link.state == Link::State::kEnding) return;
  if (link.handshake != nullptr) {
    Bytes& said = link.handshake->output();
    link.output.insert(link.output.end(), said.begin(), said.end());
    said.clear();
  }
  if (link.output.empty()) return;
  link.sending.swap(link.output);
  segments(link)[0] = {.iov_base = link.sending.data(), .iov_len = link.sending.size()};
  begin_send(link, 1);
}

void TcpEngine::send_frames(Link& link) {
  const std::size_t count = link.endpoint->connection()->gather(segments(link), kSendBytes);
  if (count > 0) begin_send(link, count);
}

// Turns frames into output; the connection's bytes are held until that is sent.
bool TcpEngine::protect(Link& link) {
  const std::size_t count = link.endpoint->connection()->gather(segments(link), kProtectBytes);
  const auto parts = std::span{segments(link)}.first(count);
  for (const iovec& part : parts) link.gathered += part.iov_len;
  if (auto done = link.guard->protect(parts, link.output); !done) {
    fail(link, std::move(done).error());
    return false;
  }
  return count > 0;
}

std::array<iovec, Link::kSegments>& TcpEngine::segments(Link& link) {
  if (!link.segments) link.segments = std::make_unique<std::array<iovec, Link::kSegments>>();
  return *link.segments;
}

// What the socket takes at once is sent at once, which costs less than by way of the ring; the ring
// waits with the rest. One send at a time: two might overtake each other.
void TcpEngine::begin_send(Link& link, std::size_t count) {
  link.is_sending = true;
  link.message = {};
  link.message.msg_iov = segments(link).data();
  link.message.msg_iovlen = count;
  link.left = 0;
  for (const iovec& part : std::span{segments(link)}.first(count)) link.left += part.iov_len;
  if (link.sending.empty()) link.gathered = link.left;
  if (is_for_zero_copy(link, count)) return send_zero_copy(link);
  const ssize_t result = ::sendmsg(link.socket.get(), &link.message, MSG_DONTWAIT | MSG_NOSIGNAL);
  sent(link, result < 0 ? -errno : static_cast<int>(result));
}

void TcpEngine::sent(Link& link, int result) {
  link.is_sending = false;
  if (link.state == Link::State::kEnding) return finish(link);
  if (result < 0 && result != -EINTR && result != -EAGAIN)
    return fail(link, {ECONNRESET, "The connection to " + link.name +
                                       " was lost: " + std::strerror(-result) + "."});
  const auto count = static_cast<std::size_t>(std::max(result, 0));
  link.left -= count;
  if (link.left > 0) return send_rest(link, count);
  clear(link.sending);
  if (link.state != Link::State::kUp) return send(link);
  hold_or_free(link);
  if (!link.output.empty()) send(link);
  went_on(link);
}

// Bytes have left, or are free.
void TcpEngine::went_on(Link& link) {
  const Connection& connection = *link.endpoint->connection();
  if (!connection.is_full()) queue_receive(link);
  // Answers to writes leave behind a drain only, so what comes next is the round's. An operation
  // may have been answered already, and complete now that its bytes are free.
  if (connection.has_output() || link.endpoint->is_closing() ||
      link.endpoint->session().requester().has_completions())
    mark(*link.endpoint);
}

// `count` bytes less than before.
void TcpEngine::send_rest(Link& link, std::size_t count) {
  msghdr& message = link.message;
  while (count >= message.msg_iov->iov_len) {
    count -= message.msg_iov->iov_len;
    ++message.msg_iov;
    --message.msg_iovlen;
  }
  message.msg_iov->iov_base = static_cast<std::byte*>(message.msg_iov->iov_base) + count;
  message.msg_iov->iov_len -= count;
  io_uring_sqe* entry = this->entry();
  if (entry == nullptr) return;
  io_uring_prep_sendmsg(entry, link.socket.get(), &message, MSG_NOSIGNAL | MSG_WAITALL);
  io_uring_sqe_set_data64(entry, user_data(&link, Io::kSend));
  link.is_sending = true;
}

}  // namespace btd::net
