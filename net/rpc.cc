#include "net/rpc.h"

#include <algorithm>
#include <cerrno>
#include <set>

#include "net/wire.h"

namespace btd::net {

namespace {

using wire::bytes_of;

std::string text_of(Rpc::Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::uint32_t milliseconds_until(Time deadline, Time now) {
  if (deadline == kNever) return UINT32_MAX;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 0, UINT32_MAX - 1));
}

}  // namespace

Rpc::Rpc(Engine& engine, Handler& next, RpcLimits limits)
    : engine_(engine), next_(next), limits_(limits) {}

Rpc::~Rpc() {
  for (const auto& [call, waiting] : waiting_) engine_.cancel(waiting.timer);
  if (probe_ != 0) engine_.cancel(probe_);
}

Status Rpc::send_call(Endpoint& endpoint, std::uint16_t method, std::uint16_t version, Bytes fixed,
                      Bytes tail, Time deadline, Done done) {
  if (loads_[&endpoint].waiting >= limits_.waiting)
    return fail(EAGAIN, "There are " + std::to_string(limits_.waiting) +
                            " calls without an answer; wait for some.");
  wire::CallHeader header;
  header.method = method;
  header.version = version;
  header.fixed = static_cast<std::uint16_t>(fixed.size());
  header.call = next_call_;
  header.epoch = engine_.epoch();
  header.patience_ms = milliseconds_until(deadline, engine_.now());
  BTD_TRY(send(endpoint, bytes_of(header), fixed, tail, deadline, next_call_));
  ++loads_[&endpoint].waiting;
  const std::uint64_t call = next_call_++;
  const TimerId timer = engine_.at(deadline, [this, call] {
    finish(call, fail(ETIMEDOUT, "The peer has not answered in time; it may still do the call."),
           {});
  });
  waiting_.emplace(call, Waiting{.endpoint = &endpoint, .timer = timer, .done = std::move(done)});
  if (probe_ == 0) probe_ = engine_.at(after(engine_.now(), limits_.probe), [this] { probe(); });
  return {};
}

void Rpc::probe() {
  std::set<Endpoint*> endpoints;
  for (const auto& [call, waiting] : waiting_) endpoints.insert(waiting.endpoint);
  for (Endpoint* endpoint : endpoints)
    static_cast<void>(endpoint->post({.verb = Verb::kNone, .token = kRpcToken}));
  probe_ =
      endpoints.empty() ? 0 : engine_.at(after(engine_.now(), limits_.probe), [this] { probe(); });
}

Status Rpc::send(Endpoint& endpoint, Bytes header, Bytes fixed, Bytes tail, Time deadline,
                 std::uint64_t call) {
  std::vector<std::byte> bytes;
  bytes.reserve(header.size() + fixed.size() + tail.size());
  for (const Bytes part : {header, fixed, tail})
    bytes.insert(bytes.end(), part.begin(), part.end());
  const Token token = kRpcToken | next_send_;
  const iovec local{bytes.data(), bytes.size()};
  BTD_TRY(endpoint.send({&local, 1}, token, deadline));
  ++next_send_;
  sending_.emplace(token, Sending{.bytes = std::move(bytes), .call = call});
  return {};
}

void Rpc::finish(std::uint64_t call, Result<Bytes> fixed, Bytes tail) {
  const auto found = waiting_.find(call);
  if (found == waiting_.end()) return;
  const Waiting waiting = std::move(found->second);
  waiting_.erase(found);
  --loads_[waiting.endpoint].waiting;
  engine_.cancel(waiting.timer);
  waiting.done(std::move(fixed), tail);
}

void Rpc::on_completion(Endpoint& endpoint, const Completion& completion) {
  if ((completion.token & kRpcToken) == 0) return next_.on_completion(endpoint, completion);
  const auto found = sending_.find(completion.token);
  if (found == sending_.end()) return;
  const std::uint64_t call = found->second.call;
  sending_.erase(found);
  if (call == 0) --loads_[&endpoint].served;
  if (completion.error != 0 && call != 0)
    finish(call, fail(completion.error, "The call could not be sent, or was not taken."), {});
}

int Rpc::on_message(Endpoint& endpoint, Bytes message) {
  if (message.empty()) return EPROTO;
  switch (static_cast<wire::RpcKind>(message[0])) {
    case wire::RpcKind::kCall:
      return take_call(endpoint, message);
    case wire::RpcKind::kReply:
      return take_reply(endpoint, message);
    default:
      return next_.on_message(endpoint, message);
  }
}

int Rpc::take_call(Endpoint& endpoint, Bytes message) {
  wire::CallHeader header;
  if (message.size() < sizeof(header)) return EPROTO;
  std::memcpy(&header, message.data(), sizeof(header));
  const Bytes rest = message.subspan(sizeof(header));
  if (header.fixed > rest.size()) return EPROTO;
  Load& load = loads_[&endpoint];
  if (load.served >= limits_.served) return EBUSY;
  ++load.served;
  const Time now = engine_.now();
  const Time deadline = header.patience_ms == UINT32_MAX
                            ? kNever
                            : now + std::chrono::milliseconds(header.patience_ms);
  const std::uint64_t id = next_served_++;
  Serving& serving =
      served_[id] = {.endpoint = &endpoint, .call = header.call, .deadline = deadline};
  Reply answer(*this, id);
  const auto found = methods_.find(header.method);
  if (found == methods_.end()) {
    answer.fail({ENOSYS, "The peer does not know this call; its version is older, or newer."});
    return 0;
  }
  serving.version = found->second.version;
  if (header.version < found->second.oldest) {
    answer.fail({EPROTONOSUPPORT, "The peer no longer serves this version of the call; upgrade."});
    return 0;
  }
  const Caller caller{.endpoint = endpoint, .epoch = header.epoch, .deadline = deadline};
  found->second.run(caller, rest.first(header.fixed), rest.subspan(header.fixed),
                    std::move(answer));
  return 0;
}

int Rpc::take_reply(Endpoint& endpoint, Bytes message) {
  wire::ReplyHeader header;
  if (message.size() < sizeof(header)) return EPROTO;
  std::memcpy(&header, message.data(), sizeof(header));
  const Bytes rest = message.subspan(sizeof(header));
  if (header.fixed > rest.size()) return EPROTO;
  // Another peer may not answer for the one that was asked.
  const auto asked = waiting_.find(header.call);
  if (asked == waiting_.end() || asked->second.endpoint != &endpoint) return 0;
  if (header.error != 0) {
    finish(header.call, fail(header.error, text_of(rest.subspan(header.fixed))), {});
  } else {
    finish(header.call, rest.first(header.fixed), rest.subspan(header.fixed));
  }
  return 0;
}

void Rpc::reply(std::uint64_t id, int error, Bytes fixed, Bytes tail) {
  const auto found = served_.find(id);
  if (found == served_.end()) return;  // its endpoint is closed
  const Serving serving = found->second;
  served_.erase(found);
  wire::ReplyHeader header;
  header.error = static_cast<std::uint16_t>(error);
  header.version = serving.version;
  header.fixed = static_cast<std::uint16_t>(fixed.size());
  header.call = serving.call;
  Endpoint& endpoint = *serving.endpoint;
  Status sent = send(endpoint, bytes_of(header), fixed, tail, serving.deadline, 0);
  if (!sent && sent.error().code == EMSGSIZE) {
    constexpr std::string_view kWhy = "The peer's answer is larger than a message may be.";
    header.error = EMSGSIZE;
    header.fixed = 0;
    sent =
        send(endpoint, bytes_of(header), {}, std::as_bytes(std::span{kWhy}), serving.deadline, 0);
  }
  // What can't be sent the caller learns by its deadline, or by the end of the endpoint.
  if (!sent) --loads_[&endpoint].served;
}

void Rpc::on_closed(Endpoint& endpoint, const Error& why) {
  std::erase_if(served_, [&](const auto& one) { return one.second.endpoint == &endpoint; });
  std::vector<std::uint64_t> calls;
  for (const auto& [call, waiting] : waiting_)
    if (waiting.endpoint == &endpoint) calls.push_back(call);
  for (const std::uint64_t call : calls)
    finish(call, fail(ECONNRESET, why.message + " Whether the call was done is unknown."), {});
  loads_.erase(&endpoint);
  next_.on_closed(endpoint, why);
}

}  // namespace btd::net
