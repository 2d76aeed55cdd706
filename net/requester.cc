#include "net/requester.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>
#include <utility>

namespace btd::net {

namespace {

constexpr std::size_t kFirstRing = 16;

std::uint64_t bytes_of(std::span<const iovec> segments) {
  std::uint64_t sum = 0;
  for (const iovec& segment : segments)
    if (__builtin_add_overflow(sum, segment.iov_len, &sum)) return UINT64_MAX;
  return sum;
}

}  // namespace

Requester::Requester(Limits limits) : limits_(limits) {}

Status Requester::post(const Operation& operation, Epoch epoch) {
  if (posted() >= limits_.queued)
    return fail(EAGAIN, "The endpoint has " + std::to_string(limits_.queued) +
                            " operations that are not complete; wait for some.");
  if (operation.local.size() > kMaxSegments)
    return fail(EINVAL, "An operation has " + std::to_string(kMaxSegments) + " segments at most.");
  if (operation.verb > Verb::kSend || (operation.verb == Verb::kNone && !operation.local.empty()))
    return fail(EINVAL, "An operation has a verb, and segments only if the verb has bytes.");
  const std::uint64_t length = bytes_of(operation.local);
  const bool is_message = operation.verb == Verb::kSend;
  const std::uint64_t most = is_message ? limits_.message_bytes : limits_.transfer_bytes;
  if (length > most || length > UINT32_MAX)
    return fail(EMSGSIZE, "An operation of " + std::to_string(length) +
                              " bytes: the endpoint takes " + std::to_string(most) + " at most.");
  if (operation.verb == Verb::kCas8 &&
      (!operation.local.empty() || operation.remote.offset % 8 != 0))
    return fail(EINVAL, "A cas8 is of one aligned word and has no segments.");
  if (posted() == ring_.size()) grow();
  Entry& entry = at(next_post_);
  entry.token = operation.token;
  entry.deadline = operation.deadline;
  entry.epoch = epoch;
  entry.remote = operation.remote;
  entry.expected = operation.expected;
  entry.desired = operation.desired;
  entry.value = 0;
  entry.length = static_cast<std::uint32_t>(length);
  entry.pins = 0;
  entry.error = 0;
  entry.verb = operation.verb;
  entry.state = State::kPosted;
  entry.is_sent = false;
  entry.is_awaited = false;
  entry.is_one_sided = false;
  entry.segments = static_cast<std::uint8_t>(operation.local.size());
  std::ranges::copy(operation.local, entry.local.begin());
  earliest_ = std::min(earliest_, operation.deadline);
  ++next_post_;
  return {};
}

void Requester::grow() {
  std::vector<Entry> larger(std::max(kFirstRing, 2 * ring_.size()));
  for (std::uint64_t seq = oldest_; seq < next_post_; ++seq)
    larger[seq & (larger.size() - 1)] = at(seq);
  ring_ = std::move(larger);
}

void Requester::up(const Grant& grant) {
  grant_ = grant;
  grant_.window = std::min(grant.window, limits_.window);
  is_up_ = true;
  for (std::uint64_t seq = oldest_; seq < next_post_; ++seq) {
    Entry& entry = at(seq);
    if (!grant.is_known && entry.is_sent && entry.state == State::kPosted &&
        entry.verb != Verb::kRead)
      complete(entry, ECONNRESET, 0);
    if (entry.state == State::kPosted &&
        entry.length > (entry.verb == Verb::kSend ? grant.message_bytes : grant.transfer_bytes))
      complete(entry, entry.is_sent && entry.verb != Verb::kRead ? ECONNRESET : EMSGSIZE, 0);
  }
  next_send_ = oldest_;
  retire();
}

void Requester::down() {
  is_up_ = false;
  unanswered_ = one_sided_ = 0;
  next_send_ = oldest_;
  for (std::uint64_t seq = oldest_; seq < next_post_; ++seq)
    at(seq).is_awaited = at(seq).is_one_sided = false;
}

bool Requester::has_next() const {
  return is_up_ && next_send_ < next_post_ && next_send_ < oldest_ + grant_.window;
}

std::optional<Requester::Next> Requester::peek() const {
  if (!has_next()) return std::nullopt;
  const Entry& entry = at(next_send_);
  Next next{.seq = next_send_};
  if (entry.state != State::kPosted) return next;
  next.verb = entry.verb;
  next.length = entry.length;
  next.epoch = entry.epoch;
  next.remote = entry.remote;
  return next;
}

std::span<const iovec> Requester::segments(std::uint64_t seq) const {
  if (!is_wanted(seq)) return {};
  return {at(seq).local.data(), at(seq).segments};
}

void Requester::left_one_sided(std::uint64_t seq) {
  Entry& entry = at(seq);
  if (!entry.is_awaited || entry.is_one_sided) return;
  entry.is_one_sided = true;
  ++one_sided_;
}

std::optional<Requester::Frame> Requester::next() {
  if (!has_next()) return std::nullopt;
  const std::uint64_t seq = next_send_++;
  Entry& entry = at(seq);
  Frame frame;
  frame.header.seq = seq;
  frame.header.epoch = entry.epoch;
  entry.is_awaited = true;
  ++unanswered_;
  // Also of one that is answered already: the responder wants to see each number.
  if (entry.state != State::kPosted) return frame;
  if (entry.length > (entry.verb == Verb::kSend ? grant_.message_bytes : grant_.transfer_bytes)) {
    complete(entry, EMSGSIZE, 0);
    return frame;
  }
  entry.is_sent = true;
  frame.header.verb = static_cast<std::uint8_t>(entry.verb);
  frame.header.key = entry.remote.key;
  frame.header.offset = entry.remote.offset;
  frame.header.length = entry.length;
  if (entry.verb == Verb::kCas8) {
    frame.header.length = sizeof(frame.operands);
    frame.operands = {.expected = entry.expected, .desired = entry.desired};
  } else if (entry.verb != Verb::kRead && entry.length > 0) {
    frame.payload = {entry.local.data(), entry.segments};
    ++entry.pins;
  }
  return frame;
}

Result<std::optional<std::span<const iovec>>> Requester::begin_response(
    const wire::ResponseHeader& header) const {
  using Place = std::optional<std::span<const iovec>>;
  if (header.seq >= (is_up_ ? next_send_ : next_post_))
    return fail(EPROTO, "The peer answers what was not asked.");
  // It is answered already; or this side says bye, and no longer waits.
  if (header.seq < oldest_ || !is_up_) {
    if (header.length > limits_.transfer_bytes) return fail(EPROTO, "An answer is too long.");
    return Place{};
  }
  const Entry& entry = at(header.seq);
  const bool is_read = entry.verb == Verb::kRead;
  if (entry.state != State::kPosted) {
    if (header.length > (is_read ? entry.length : 0)) return fail(EPROTO, "An answer is too long.");
    return Place{};
  }
  if (header.verb != static_cast<std::uint8_t>(entry.verb))
    return fail(EPROTO, "An answer is to another verb than was asked for.");
  if (header.length != (is_read && header.error == 0 ? entry.length : 0))
    return fail(EPROTO, "An answer has another length than was asked for.");
  return Place{std::span<const iovec>{entry.local.data(), entry.segments}};
}

bool Requester::is_wanted(std::uint64_t seq) const {
  return seq >= oldest_ && seq < next_post_ && at(seq).state == State::kPosted;
}

void Requester::end_response(const wire::ResponseHeader& header) {
  if (header.seq < oldest_ || header.seq >= next_send_) return;
  Entry& entry = at(header.seq);
  if (entry.is_awaited) {
    entry.is_awaited = false;
    --unanswered_;
    ++answers_;
    if (std::exchange(entry.is_one_sided, false)) --one_sided_;
  }
  if (entry.state == State::kPosted) {
    entry.state = State::kAnswered;
    entry.error = header.error;
    entry.value = header.value;
  }
  retire();
}

void Requester::pin(std::uint64_t seq) {
  if (seq >= oldest_ && seq < next_post_) ++at(seq).pins;
}

void Requester::unpin(std::uint64_t seq) {
  if (seq < oldest_ || seq >= next_post_) return;
  Entry& entry = at(seq);
  if (entry.pins > 0) --entry.pins;
  if (entry.pins == 0) retire();
}

void Requester::complete(Entry& entry, int error, std::uint64_t value) {
  completions_.push_back({.token = entry.token, .error = error, .value = value});
  entry.state = State::kCompleted;
}

void Requester::complete_answered() {
  for (; next_completion_ < next_post_; ++next_completion_) {
    Entry& entry = at(next_completion_);
    if (entry.state == State::kPosted || entry.pins > 0) return;
    if (entry.state == State::kAnswered) complete(entry, entry.error, entry.value);
  }
}

// Completes what is answered, in order, and forgets what needs no number any more.
void Requester::retire() {
  complete_answered();
  for (; oldest_ < next_completion_; ++oldest_) {
    // A number is needed until the peer has seen it, whatever became of its operation.
    if (at(oldest_).is_awaited || oldest_ >= next_send_) return;
  }
  if (oldest_ == next_post_) earliest_ = kNever;
}

bool Requester::expire(Time now) {
  if (now < earliest_) return true;
  bool is_free = true;
  earliest_ = kNever;
  for (std::uint64_t seq = oldest_; seq < next_post_; ++seq) {
    Entry& entry = at(seq);
    if (entry.state == State::kCompleted) continue;
    if (entry.deadline <= now && entry.pins == 0) {
      complete(entry, ETIMEDOUT, 0);
      continue;
    }
    is_free = is_free && entry.deadline > now;
    earliest_ = std::min(earliest_, entry.deadline);
  }
  retire();
  return is_free;
}

void Requester::fail_all(int error) {
  for (std::uint64_t seq = oldest_; seq < next_post_; ++seq) {
    Entry& entry = at(seq);
    if (entry.state == State::kAnswered) complete(entry, entry.error, entry.value);
    if (entry.state == State::kPosted) complete(entry, entry.is_sent ? error : ECANCELED, 0);
  }
  oldest_ = next_send_ = next_completion_ = next_post_;
  unanswered_ = one_sided_ = 0;
  earliest_ = kNever;
}

void Requester::take_completions(std::vector<Completion>& into) {
  into.clear();
  std::swap(into, completions_);
}

}  // namespace btd::net
