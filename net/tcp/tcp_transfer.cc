// The part of TcpEngine that moves bytes.
//
// Receives are single shots, and the next one is armed at the end of the round, behind the sends: a
// multishot receive saves that entry, but would have to be cancelled and waited for whenever a
// payload is to come straight into its place, and whenever a peer must wait.
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

void TcpEngine::arm_receive(Link& link) {
  link.is_queued = false;
  if (link.is_receiving || link.state == Link::State::kEnding ||
      link.state == Link::State::kWaiting)
    return;
  Connection* connection = link.state == Link::State::kUp ? link.endpoint->connection() : nullptr;
  if (connection != nullptr && connection->is_full()) return;  // until it has sent some
  io_uring_sqe* receive = entry();
  if (receive == nullptr) return;
  const auto place = connection != nullptr && link.guard == nullptr ? connection->direct()
                                                                    : std::span<std::byte>{};
  link.is_direct = place.size() >= kDirectBytes;
  if (link.is_direct) {
    connection->begin_direct();
    io_uring_prep_recv(receive, link.socket.get(), place.data(), place.size(), 0);
  } else {
    io_uring_prep_recv(receive, link.socket.get(), nullptr, Ring::kBufferBytes, 0);
    receive->flags |= IOSQE_BUFFER_SELECT;
    receive->buf_group = Ring::kBufferGroup;
  }
  if (link.is_drained) receive->ioprio |= IORING_RECVSEND_POLL_FIRST;
  io_uring_sqe_set_data64(receive, user_data(&link, Io::kReceive));
  link.is_receiving = true;
}

void TcpEngine::received(Link& link, const io_uring_cqe& completion) {
  link.is_receiving = false;
  link.is_drained = (completion.flags & IORING_CQE_F_SOCK_NONEMPTY) == 0;
  const bool has_buffer = (completion.flags & IORING_CQE_F_BUFFER) != 0;
  const unsigned index = completion.flags >> IORING_CQE_BUFFER_SHIFT;
  const int result = completion.res;
  if (link.state == Link::State::kEnding) {
    if (has_buffer) ring_->recycle(index);
    return finish(link);
  }
  if (link.is_direct) {
    link.is_direct = false;
    fed_direct(*link.endpoint, static_cast<std::size_t>(std::max(result, 0)));
    if (result > 0) return queue_receive(link);
  } else if (result > 0 && has_buffer) {
    received_bytes(link, ring_->buffer(index, static_cast<std::size_t>(result)));
    return ring_->recycle(index);
  }
  if (has_buffer) ring_->recycle(index);
  // No buffer was free at that moment, or a signal came: again.
  if (result == -ENOBUFS || result == -EINTR || result == -EAGAIN) return queue_receive(link);
  received_end(link, -result);
}

void TcpEngine::received_end(Link& link, int error) {
  if (link.handshake != nullptr)
    return fail(link, {ECONNRESET, link.name + ": " + link.handshake->guard().when_ended()});
  fail(link, {ECONNRESET, "The connection to " + link.name + " was lost: " +
                              (error == 0 ? "the peer closed it." : std::strerror(error))});
}

void TcpEngine::received_bytes(Link& link, std::span<const std::byte> bytes) {
  if (link.handshake != nullptr) return received_handshake(link, bytes);
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

// One send at a time: two of one socket might overtake each other.
void TcpEngine::send(Link& link) {
  if (link.is_sending || link.state == Link::State::kEnding) return;
  if (link.handshake != nullptr) {
    Bytes& said = link.handshake->output();
    link.output.insert(link.output.end(), said.begin(), said.end());
    said.clear();
  }
  if (link.output.empty()) return;
  link.sending.swap(link.output);
  link.sending_at = 0;
  send_output(link);
}

void TcpEngine::send_output(Link& link) {
  io_uring_sqe* entry = this->entry();
  if (entry == nullptr) return;
  const auto left = std::span{link.sending}.subspan(link.sending_at);
  io_uring_prep_send(entry, link.socket.get(), left.data(), left.size(),
                     MSG_NOSIGNAL | MSG_WAITALL);
  submit_send(link, entry);
}

void TcpEngine::submit_send(Link& link, io_uring_sqe* entry) {
  io_uring_sqe_set_data64(entry, user_data(&link, Io::kSend));
  link.is_sending = true;
}

void TcpEngine::send_frames(Link& link) {
  if (!link.segments) link.segments = std::make_unique<std::array<iovec, Link::kSegments>>();
  const std::size_t count =
      link.endpoint->connection()->gather(*link.segments, kSendBytes, epoch());
  if (count == 0) return;
  io_uring_sqe* entry = this->entry();
  if (entry == nullptr) return;
  if (count == 1) {
    const iovec& only = link.segments->front();
    io_uring_prep_send(entry, link.socket.get(), only.iov_base, only.iov_len,
                       MSG_NOSIGNAL | MSG_WAITALL);
  } else {
    link.message = {};
    link.message.msg_iov = link.segments->data();
    link.message.msg_iovlen = count;
    io_uring_prep_sendmsg(entry, link.socket.get(), &link.message, MSG_NOSIGNAL | MSG_WAITALL);
  }
  submit_send(link, entry);
}

// Turns frames into output; the connection's bytes are held until that is sent.
bool TcpEngine::protect(Link& link) {
  if (!link.segments) link.segments = std::make_unique<std::array<iovec, Link::kSegments>>();
  const std::size_t count =
      link.endpoint->connection()->gather(*link.segments, kProtectBytes, epoch());
  const auto parts = std::span{*link.segments}.first(count);
  for (const iovec& part : parts) link.gathered += part.iov_len;
  if (auto done = link.guard->protect(parts, link.output); !done) {
    fail(link, std::move(done).error());
    return false;
  }
  return count > 0;
}

void TcpEngine::sent(Link& link, int result) {
  link.is_sending = false;
  if (link.state == Link::State::kEnding) return finish(link);
  if (result < 0 && result != -EINTR && result != -EAGAIN)
    return fail(link, {ECONNRESET, "The connection to " + link.name +
                                       " was lost: " + std::strerror(-result) + "."});
  auto count = static_cast<std::size_t>(std::max(result, 0));
  if (!link.sending.empty()) {
    link.sending_at += count;
    if (link.sending_at < link.sending.size()) return send_output(link);
    clear(link.sending);
    count = std::exchange(link.gathered, 0);
  }
  if (link.state != Link::State::kUp) return send(link);
  Connection* connection = link.endpoint->connection();
  if (connection == nullptr) return;
  connection->sent(count);
  if (!connection->is_full()) queue_receive(link);
  if (!link.output.empty()) return send(link);
  // Answers to writes leave behind a drain only, so what comes next is the round's.
  if (connection->has_output() || link.endpoint->is_closing()) mark(*link.endpoint);
}

}  // namespace btd::net
