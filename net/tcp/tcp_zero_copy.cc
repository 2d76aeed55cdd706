// The part of TcpEngine that sends without a copy.
//
// Such a send completes twice: when the socket has taken the bytes, so that the next send may
// follow, and when the kernel refers to them no more (the notice), which is when the peer has
// acknowledged them. Until the notice they stay where they are and unchanged: what a link has given
// out is held, in order, and only what no send before it holds is said to be sent. The connection's
// pins (of regions, of operations) last as long, and a link that ends waits for all notices. It
// need not wait for the peer, for its socket is reset first.
//
// The kernel says with each notice whether it copied the bytes all the same, as it does on loopback
// and between network namespaces: that costs more than a plain send, so the link stops asking.
#include <algorithm>
#include <cerrno>

#include "net/tcp/tcp_engine.h"

namespace btd::net {

namespace {

// Newer than the headers of liburing 2.3: the notice says in its result whether bytes were copied.
// A kernel that does not know it refuses the send, and a plain one takes its place.
constexpr unsigned kReportUsage = 1U << 3;
constexpr unsigned kWasCopied = 1U << 31;
// Where all are copied, so many tell it. Where a card sends them, one in twenty may be all the
// same.
constexpr unsigned kCopied = 4;

}  // namespace

// Few long parts, not many short ones: each is a reference of its own to a page, and one packet
// holds few of those. A payload and its header count as one.
bool TcpEngine::is_for_zero_copy(const Link& link, std::size_t count) const {
  if (!link.may_zero_copy || link.guard != nullptr || !link.sending.empty() ||
      link.state != Link::State::kUp || zero_copy_bytes_ == UINT32_MAX)
    return false;
  return link.left >= zero_copy_bytes_ && link.left / ((count + 1) / 2) >= zero_copy_bytes_;
}

void TcpEngine::send_zero_copy(Link& link) {
  io_uring_sqe* entry = this->entry();
  if (entry == nullptr) return;
  HeldSend& send = link.held.emplace_back(HeldSend{.link = &link});
  io_uring_prep_sendmsg_zc(entry, link.socket.get(), &link.message, MSG_NOSIGNAL | MSG_WAITALL);
  entry->ioprio = kReportUsage;
  io_uring_sqe_set_data64(entry, user_data(&send, Io::kZeroCopy));
  link.zero_copy = &send;
  ++link.notices_due;
  ++counts_.zero_copy_sends;
}

void TcpEngine::zero_copied(HeldSend& send, const io_uring_cqe& completion) {
  Link& link = *send.link;
  if ((completion.flags & IORING_CQE_F_NOTIF) != 0) {
    const bool was_copied = (static_cast<unsigned>(completion.res) & kWasCopied) != 0;
    if (was_copied) ++counts_.zero_copies_copied;
    link.copied_in_a_row = was_copied ? link.copied_in_a_row + 1 : 0;
    if (link.copied_in_a_row == kCopied && !is_zero_copy_forced_) link.may_zero_copy = false;
    return let_go(send);
  }
  const int result = completion.res;
  // What the kernel can't send so, for want of memory that it may lock or of support, it may send
  // otherwise; a socket that is broken will say so again.
  if (result < 0 && result != -EINTR && result != -EAGAIN) link.may_zero_copy = false;
  const bool is_ending = link.state == Link::State::kEnding;
  if ((completion.flags & IORING_CQE_F_MORE) == 0) {  // there is no notice
    send.is_free = true;
    --link.notices_due;
  }
  sent(link, is_ending ? result : std::max(result, 0));
}

// The notice came.
void TcpEngine::let_go(HeldSend& send) {
  Link& link = *send.link;
  send.is_free = true;
  --link.notices_due;
  if (link.state == Link::State::kEnding) return finish(link);
  free_held(link);
  went_on(link);
}

// All bytes that were gathered last have left.
void TcpEngine::hold_or_free(Link& link) {
  Connection& connection = *link.endpoint->connection();
  const std::size_t bytes = std::exchange(link.gathered, 0);
  HeldSend* const zero_copy = std::exchange(link.zero_copy, nullptr);
  if (link.held.empty()) return connection.sent(bytes);
  if (zero_copy != nullptr) {
    zero_copy->bytes = bytes;
  } else if (link.held.back().is_free) {
    link.held.back().bytes += bytes;
  } else {
    link.held.emplace_back(HeldSend{.link = &link, .bytes = bytes, .is_free = true});
  }
  connection.hold(bytes);
  free_held(link);
}

void TcpEngine::free_held(Link& link) {
  std::size_t bytes = 0;
  while (!link.held.empty() && link.held.front().is_free && &link.held.front() != link.zero_copy) {
    bytes += link.held.front().bytes;
    link.held.pop_front();
  }
  link.endpoint->connection()->sent(bytes);
}

}  // namespace btd::net
