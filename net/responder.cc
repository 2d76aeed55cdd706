#include "net/responder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace btd::net {

namespace {

bool changes_memory(Verb verb) { return verb == Verb::kWritePersist || verb == Verb::kCas8; }

bool is_placed(const wire::RequestHeader& header) {
  return static_cast<Verb>(header.verb) == Verb::kWritePersist &&
         (header.flags & wire::kPlaced) != 0;
}

std::uint32_t access_for(Verb verb) {
  switch (verb) {
    case Verb::kRead:
      return kRemoteRead;
    case Verb::kWritePersist:
      return kRemoteWrite;
    case Verb::kCas8:
      return kRemoteCas;
    default:
      return 0;
  }
}

}  // namespace

Responder::Responder(RegionTable& regions, const Limits& limits)
    : regions_(regions), limits_(limits) {}

void Responder::start(std::uint64_t oldest) {
  next_ = settled_ = oldest;
  ring_.clear();
}

void Responder::skip_to(std::uint64_t seq) {
  if (seq <= next_) return;
  if (ring_.empty()) ring_.resize(limits_.window);
  // Older ones are out of what is remembered.
  next_ = std::max(next_, seq - std::min<std::uint64_t>(seq, ring_.size()));
  while (next_ < seq) remembered(next_++) = {};
}

Result<Responder::Request> Responder::begin(const wire::RequestHeader& header, Epoch epoch,
                                            bool may_lose) {
  const auto verb = static_cast<Verb>(header.verb);
  if (header.verb > static_cast<std::uint8_t>(Verb::kSend))
    return fail(EPROTO, "The peer asks for a verb that this version does not know.");
  const std::uint64_t most = verb == Verb::kSend ? limits_.message_bytes : limits_.transfer_bytes;
  const bool is_sized = verb == Verb::kCas8   ? header.length == sizeof(wire::CasOperands)
                        : verb == Verb::kNone ? header.length == 0
                                              : header.length <= most;
  if (!is_sized) return fail(EPROTO, "A request of the peer has a length that was not granted.");
  Request request{.header = header};
  if (header.seq > next_) {
    if (!may_lose) return fail(EPROTO, "A request of the peer is missing.");
    return request;
  }
  if (ring_.empty()) ring_.resize(limits_.window);
  if (next_ - header.seq > ring_.size())
    return fail(EPROTO, "The peer asks again what it has had the answer to.");
  request.what = header.seq == next_ ? Request::Do::kExecute : Request::Do::kAnswerAgain;
  const bool is_again = verb == Verb::kRead || is_placed(header);
  if (request.what == Request::Do::kExecute || is_again) judge(request, epoch);
  return request;
}

void Responder::refuse_epoch(Request& request, Epoch epoch) {
  request.error = request.header.epoch < epoch ? ESTALE : EAGAIN;
  request.value = epoch;
}

bool Responder::fence(Request& request, Epoch epoch) {
  if (request.region == nullptr || request.header.epoch == epoch) return false;
  refuse_epoch(request, epoch);
  return true;
}

// Whether it may run, and where.
void Responder::judge(Request& request, Epoch epoch) {
  const wire::RequestHeader& header = request.header;
  const auto verb = static_cast<Verb>(header.verb);
  const std::uint32_t access = access_for(verb);
  if (access == 0) return;
  if (header.epoch != epoch) return refuse_epoch(request, epoch);
  const std::uint64_t length = verb == Verb::kCas8 ? sizeof(std::uint64_t) : header.length;
  const auto found = regions_.find(header.key, header.offset, length, access);
  request.error = found.error;
  if (request.error == 0 && verb == Verb::kCas8 &&
      reinterpret_cast<std::uintptr_t>(found.at) % sizeof(std::uint64_t) != 0)
    request.error = EINVAL;
  if (request.error != 0) return;
  request.region = found.region;
  request.at = found.at;
  ++found.region->users;
}

void Responder::abandon(Request& request) {
  release(request.region);
  request.region = nullptr;
}

void Responder::release(RegionTable::Region* region) {
  if (region != nullptr) --region->users;
}

void Responder::execute(Request& request, std::span<const std::byte> payload, MessageSink& sink) {
  if (request.error != 0) return;
  switch (static_cast<Verb>(request.header.verb)) {
    case Verb::kWritePersist:
      regions_.flush(*request.region, request.at, request.header.length);
      break;
    case Verb::kCas8: {
      wire::CasOperands operands;
      std::memcpy(&operands, payload.data(), sizeof(operands));
      auto* word = reinterpret_cast<std::uint64_t*>(request.at);
      request.value = operands.expected;
      __atomic_compare_exchange_n(word, &request.value, operands.desired, false, __ATOMIC_SEQ_CST,
                                  __ATOMIC_SEQ_CST);
      regions_.flush(*request.region, request.at, sizeof(*word));
      break;
    }
    case Verb::kSend:
      request.error = sink.on_message(payload);
      break;
    default:
      break;
  }
}

std::optional<Responder::Answer> Responder::end(Request& request,
                                                std::span<const std::byte> payload,
                                                MessageSink& sink) {
  if (request.what == Request::Do::kIgnore) return std::nullopt;
  const wire::RequestHeader& header = request.header;
  const auto verb = static_cast<Verb>(header.verb);
  const bool is_read = verb == Verb::kRead;
  if (request.what == Request::Do::kExecute) {
    // First, since a message's receiver may look at the session.
    const std::uint64_t seq = next_++;
    execute(request, payload, sink);
    remembered(seq) = {.value = request.value,
                       .error = static_cast<std::uint16_t>(request.error),
                       .verb = header.verb};
  } else if (is_placed(header) && request.error == 0) {
    // The peer wrote again, and what it writes must not stay undurable behind its back.
    regions_.flush(*request.region, request.at, header.length);
  }
  Answer answer;
  answer.header.seq = header.seq;
  if (request.what == Request::Do::kAnswerAgain && !is_read) {
    const Result8& result = remembered(header.seq);
    answer.header.verb = verb == Verb::kNone ? header.verb : result.verb;
    answer.header.error = result.error;
    answer.header.value = result.value;
  } else {
    answer.header.verb = header.verb;
    answer.header.error = static_cast<std::uint16_t>(request.error);
    answer.header.value = request.value;
  }
  if (is_read && request.error == 0) {
    answer.header.length = header.length;
    answer.payload = {request.at, header.length};
    answer.region = std::exchange(request.region, nullptr);
  }
  abandon(request);
  return answer;
}

void Responder::settle(bool is_durable) {
  if (!is_durable && !ring_.empty()) {
    const std::uint64_t from =
        std::max(settled_, next_ - std::min<std::uint64_t>(next_, ring_.size()));
    for (std::uint64_t seq = from; seq < next_; ++seq) {
      Result8& result = remembered(seq);
      if (changes_memory(static_cast<Verb>(result.verb)) && result.error == 0) result.error = EIO;
    }
  }
  settled_ = next_;
}

}  // namespace btd::net
