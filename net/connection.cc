#include "net/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace btd::net {

namespace {

using wire::bytes_of;

bool is_request(std::span<const std::byte> header) {
  return header[0] == static_cast<std::byte>(wire::FrameType::kRequest);
}

}  // namespace

Connection::Connection(Session& session, MessageSink& sink, bool may_lose, OneSided* one_sided)
    : session_(session), sink_(sink), may_lose_(may_lose), one_sided_(one_sided) {}

Connection::~Connection() {
  if (state_ == State::kRequest) Responder::abandon(request_);
  if (state_ == State::kResponse && is_direct_) session_.requester().unpin(response_.seq);
  session_.down();
  for (const Responder::Answer& answer : answers_) Responder::release(answer.region);
  output_.clear([this](const OutputQueue::Owner& owner) { release(owner); });
}

void Connection::release(const OutputQueue::Owner& owner) {
  if (owner.is_operation) session_.requester().unpin(owner.seq);
  Responder::release(owner.region);
}

Status Connection::feed(std::span<const std::byte> bytes, const Epoch& epoch) {
  while (!bytes.empty()) {
    if (has_bye_) return fail(EPROTO, "The peer speaks on after its last frame.");
    if (state_ != State::kHeader) {
      bytes = bytes.subspan(take_payload(bytes));
      continue;
    }
    const std::size_t wanted = header_bytes();
    const std::size_t n = std::min(bytes.size(), wanted - header_size_);
    std::memcpy(header_.data() + header_size_, bytes.data(), n);
    header_size_ += n;
    bytes = bytes.subspan(n);
    if (header_size_ == wanted) BTD_TRY(take_header(epoch));
  }
  return {};
}

// What is known after the first byte: the rest of a header has no more than its kind has.
std::size_t Connection::header_bytes() const {
  if (header_size_ > 0 && is_request(header_)) return sizeof(wire::RequestHeader);
  return header_size_ > 0 ? sizeof(wire::ResponseHeader) : 1;
}

Status Connection::take_header(const Epoch& epoch) {
  if (header_size_ == 1) {
    const auto type = static_cast<wire::FrameType>(header_[0]);
    if (type != wire::FrameType::kRequest && type != wire::FrameType::kResponse &&
        type != wire::FrameType::kBye)
      return fail(EPROTO, "The peer sent a frame of an unknown kind.");
    return {};
  }
  header_size_ = 0;
  message_.clear();
  place_size_ = place_at_ = place_offset_ = 0;
  if (header_[0] == static_cast<std::byte>(wire::FrameType::kBye)) return take_bye();
  return is_request(header_) ? begin_request(epoch) : begin_response();
}

Status Connection::begin_request(Epoch epoch) {
  wire::RequestHeader header;
  std::memcpy(&header, header_.data(), sizeof(header));
  if (!wire::is_sound(header)) return fail(EPROTO, "The peer sent a damaged request.");
  if (one_sided_ != nullptr) session_.responder().skip_to(header.seq);
  BTD_ASSIGN(request_, session_.responder().begin(header, epoch, may_lose_));
  state_ = State::kRequest;
  const auto verb = static_cast<Verb>(header.verb);
  const bool is_placed = verb == Verb::kWritePersist && (header.flags & wire::kPlaced) != 0;
  remaining_ = verb == Verb::kRead || is_placed ? 0 : header.length;
  const bool is_executed = request_.what == Responder::Request::Do::kExecute;
  if (is_executed && verb == Verb::kWritePersist && request_.error == 0) {
    place_[0] = {.iov_base = request_.at, .iov_len = remaining_};
    place_size_ = 1;
  } else if (is_executed && (verb == Verb::kSend || verb == Verb::kCas8)) {
    message_.resize(remaining_);
    place_[0] = {.iov_base = message_.data(), .iov_len = remaining_};
    place_size_ = 1;
  }
  if (remaining_ == 0) end_payload();
  return {};
}

// The rest of its payload is skipped, and then it is answered.
void Connection::fence(Epoch epoch) {
  if (state_ != State::kRequest || !Responder::fence(request_, epoch)) return;
  place_size_ = 0;
  if (!is_direct_) Responder::abandon(request_);
}

bool Connection::uses(std::uint64_t key) const {
  const auto is_it = [key](const RegionTable::Region* region) {
    return region != nullptr && region->key == key;
  };
  return (state_ == State::kRequest && is_it(request_.region)) ||
         std::ranges::any_of(answers_, is_it, &Responder::Answer::region) ||
         output_.any_owner([&](const OutputQueue::Owner& owner) { return is_it(owner.region); });
}

Status Connection::take_bye() {
  wire::ResponseHeader header;
  std::memcpy(&header, header_.data(), sizeof(header));
  if (!wire::is_sound(header)) return fail(EPROTO, "The peer sent a damaged frame.");
  has_bye_ = true;
  return {};
}

Status Connection::begin_response() {
  std::memcpy(&response_, header_.data(), sizeof(response_));
  if (!wire::is_sound(response_)) return fail(EPROTO, "The peer sent a damaged answer.");
  BTD_ASSIGN(const auto place, session_.requester().begin_response(response_));
  state_ = State::kResponse;
  remaining_ = response_.length;
  if (place) {
    std::ranges::copy(*place, place_.begin());
    place_size_ = place->size();
  }
  if (remaining_ == 0) end_payload();
  return {};
}

std::size_t Connection::take_payload(std::span<const std::byte> bytes) {
  const std::size_t total = std::min(bytes.size(), remaining_);
  // Its operation may have been given up meanwhile: then its buffers are the caller's.
  if (state_ == State::kResponse && !session_.requester().is_wanted(response_.seq)) place_size_ = 0;
  std::size_t left = total;
  while (left > 0 && place_at_ < place_size_) {
    const iovec& segment = place_[place_at_];
    const std::size_t n = std::min(left, segment.iov_len - place_offset_);
    std::memcpy(static_cast<std::byte*>(segment.iov_base) + place_offset_,
                bytes.data() + (total - left), n);
    left -= n;
    place_offset_ += n;
    if (place_offset_ == segment.iov_len) {
      ++place_at_;
      place_offset_ = 0;
    }
  }
  remaining_ -= total;
  if (remaining_ == 0) end_payload();
  return total;
}

std::span<std::byte> Connection::direct() const {
  if (state_ == State::kHeader || place_at_ >= place_size_) return {};
  if (state_ == State::kResponse && !session_.requester().is_wanted(response_.seq)) return {};
  const iovec& segment = place_[place_at_];
  return {static_cast<std::byte*>(segment.iov_base) + place_offset_,
          std::min(segment.iov_len - place_offset_, remaining_)};
}

void Connection::begin_direct() {
  is_direct_ = true;
  if (state_ == State::kResponse) session_.requester().pin(response_.seq);
}

void Connection::end_direct(std::size_t count) {
  is_direct_ = false;
  if (state_ == State::kResponse) session_.requester().unpin(response_.seq);
  if (state_ == State::kRequest && place_size_ == 0) Responder::abandon(request_);  // fenced
  place_offset_ += count;
  remaining_ -= count;
  if (place_offset_ == place_[place_at_].iov_len) {
    ++place_at_;
    place_offset_ = 0;
  }
  if (remaining_ == 0) end_payload();
}

void Connection::end_payload() {
  const State ended = std::exchange(state_, State::kHeader);
  if (ended == State::kResponse) {
    session_.requester().end_response(response_);
    return;
  }
  const auto done = session_.responder().end(request_, message_, sink_);
  if (!done) return;
  const bool is_of_message = static_cast<Verb>(done->header.verb) == Verb::kSend;
  answers_.push_back(*done);
  if (!is_of_message || done->header.error != 0 || answers_.size() >= most_late())
    is_urgent_ = true;
}

void Connection::put(const Responder::Answer& answer) {
  output_.copy(bytes_of(wire::sealed(answer.header)));
  if (answer.payload.size() > OutputQueue::kCopiedBytes) {
    output_.refer(answer.payload, {.region = answer.region});
    return;
  }
  output_.copy(answer.payload);
  Responder::release(answer.region);
}

// Answers and requests take turns, or one side's reading would keep the other's requests here.
// Requests wait in the session, where their operations can still be given up.
void Connection::fill() {
  while (output_.bytes() - held_ < session_.limits().output_bytes) {
    const bool has_answer = !answers_.empty();
    if (has_answer) {
      put_answer();
    }
    if (!put_request() && !has_answer) return;
  }
}

// A peer goes on with what its window has left.
std::size_t Connection::most_late() const {
  return std::clamp<std::size_t>(session_.limits().window / 2, 1, kMostLate);
}

void Connection::put_answer() {
  put(answers_.front());
  answers_.pop_front();
  if (answers_.empty()) is_urgent_ = false;
}

// The next one, by the stream or beside it; false if there is none now.
bool Connection::put_request() {
  const auto next = session_.requester().peek();
  if (!next || (one_sided_ != nullptr && !one_sided_->may_leave(*next))) return false;
  auto frame = session_.requester().next();
  if (!frame) return false;
  const OneSided::Way way =
      one_sided_ != nullptr ? one_sided_->leave(*frame) : OneSided::Way::kStream;
  if (way == OneSided::Way::kPlaced) {
    frame->header.flags = wire::kPlaced;
    frame->payload = {};
  }
  if (way != OneSided::Way::kTaken) put(*frame);
  return true;
}

void Connection::put(const Requester::Frame& frame) {
  output_.copy(bytes_of(wire::sealed(frame.header)));
  if (static_cast<Verb>(frame.header.verb) == Verb::kCas8) output_.copy(bytes_of(frame.operands));
  if (frame.payload.empty()) return;
  const bool is_copied = frame.header.length <= OutputQueue::kCopiedBytes;
  std::size_t left = frame.header.length;
  for (const iovec& segment : frame.payload) {
    const std::span bytes{static_cast<const std::byte*>(segment.iov_base), segment.iov_len};
    if (bytes.empty()) continue;
    left -= bytes.size();
    if (is_copied) {
      output_.copy(bytes);
    } else {  // the last one frees the operation
      output_.refer(bytes, {.seq = frame.header.seq, .is_operation = left == 0});
    }
  }
  if (is_copied) session_.requester().unpin(frame.header.seq);
}

std::size_t Connection::gather(std::span<iovec> into, std::size_t most) {
  fill();
  return output_.gather(into, most);
}

void Connection::say_bye() {
  while (!answers_.empty()) put_answer();
  wire::ResponseHeader header;
  header.type = wire::FrameType::kBye;
  output_.copy(bytes_of(wire::sealed(header)));
}

void Connection::sent(std::size_t count) {
  sent_bytes_ += count;
  held_ -= std::min(held_, count);
  output_.sent(count, [this](const OutputQueue::Owner& owner) { release(owner); });
}

}  // namespace btd::net
