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

std::vector<std::byte> joined(Rpc::Bytes header, Rpc::Bytes fixed, Rpc::Bytes tail) {
  std::vector<std::byte> bytes;
  bytes.reserve(header.size() + fixed.size() + tail.size());
  for (const Rpc::Bytes part : {header, fixed, tail})
    bytes.insert(bytes.end(), part.begin(), part.end());
  return bytes;
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
  Sending message{.endpoint = &endpoint,
                  .bytes = joined(bytes_of(header), fixed, tail),
                  .call = next_call_,
                  .deadline = deadline};
  BTD_TRY(send(message));
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

Status Rpc::send(Sending& message) {
  const Token token = kRpcToken | next_send_;
  const iovec local{message.bytes.data(), message.bytes.size()};
  BTD_TRY(message.endpoint->send({&local, 1}, token, message.deadline));
  ++next_send_;
  sending_.emplace(token, std::move(message));
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
  if (!late_.empty()) send_late(endpoint);  // first: there may be room now
  if ((completion.token & kRpcToken) == 0) return next_.on_completion(endpoint, completion);
  const auto found = sending_.find(completion.token);
  if (found == sending_.end()) return;
  const Sending message = std::move(found->second);
  sending_.erase(found);
  if (message.kind == Sending::Kind::kCall) {
    if (completion.error != 0)
      finish(message.call, fail(completion.error, "The call could not be sent, or was not taken."),
             {});
  } else if (message.kind == Sending::Kind::kReply && completion.error == EMSGSIZE) {
    send_too_large(message);  // the caller grants less than this node
  } else {
    --loads_[&endpoint].served;
  }
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
  const std::shared_ptr<const Served> method = found->second;  // its handler may replace it
  serving.version = method->version;
  if (header.version < method->oldest) {
    answer.fail({EPROTONOSUPPORT, "The peer no longer serves this version of the call; upgrade."});
    return 0;
  }
  const Caller caller{.endpoint = endpoint, .epoch = header.epoch, .deadline = deadline};
  method->run(caller, rest.first(header.fixed), rest.subspan(header.fixed), std::move(answer));
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
  send_reply({.endpoint = serving.endpoint,
              .bytes = joined(bytes_of(header), fixed, tail),
              .call = serving.call,
              .deadline = serving.deadline,
              .kind = Sending::Kind::kReply});
}

void Rpc::send_reply(Sending reply) {
  Endpoint* const endpoint = reply.endpoint;
  if (const auto late = late_.find(endpoint); late != late_.end())
    return late->second.push_back(std::move(reply));  // behind those that wait
  const Status sent = send(reply);
  if (sent) return;
  if (sent.error().code == EAGAIN) return late_[endpoint].push_back(std::move(reply));
  if (sent.error().code == EMSGSIZE && reply.kind == Sending::Kind::kReply)
    return send_too_large(reply);
  // It is closed, or the caller takes no message at all.
  --loads_[endpoint].served;
}

// In its place, the caller gets an error.
void Rpc::send_too_large(const Sending& reply) {
  constexpr std::string_view kWhy = "The peer's answer is larger than a message may be.";
  wire::ReplyHeader header;
  header.error = EMSGSIZE;
  header.call = reply.call;
  send_reply({.endpoint = reply.endpoint,
              .bytes = joined(bytes_of(header), {}, std::as_bytes(std::span{kWhy})),
              .call = reply.call,
              .deadline = reply.deadline,
              .kind = Sending::Kind::kTooLarge});
}

// What waited for room, as far as there is some. The endpoint completes something when there is.
void Rpc::send_late(Endpoint& endpoint) {
  const auto late = late_.find(&endpoint);
  if (late == late_.end()) return;
  std::deque<Sending> waiting = std::move(late->second);
  late_.erase(late);
  for (Sending& reply : waiting) send_reply(std::move(reply));
}

// The peer that took these calls died before it answered.
void Rpc::on_forgotten(Endpoint& endpoint) {
  std::set<std::uint64_t> calls;
  for (const auto& [call, waiting] : waiting_)
    if (waiting.endpoint == &endpoint) calls.insert(call);
  for (const auto& [token, message] : sending_)
    if (message.kind == Sending::Kind::kCall) calls.erase(message.call);
  for (const std::uint64_t call : calls)
    finish(call,
           fail(ECONNRESET, "The peer has started anew. Whether the call was done is unknown."),
           {});
  next_.on_forgotten(endpoint);
}

void Rpc::on_closed(Endpoint& endpoint, const Error& why) {
  std::erase_if(served_, [&](const auto& one) { return one.second.endpoint == &endpoint; });
  std::vector<std::uint64_t> calls;
  for (const auto& [call, waiting] : waiting_)
    if (waiting.endpoint == &endpoint) calls.push_back(call);
  for (const std::uint64_t call : calls)
    finish(call, fail(ECONNRESET, why.message + " Whether the call was done is unknown."), {});
  late_.erase(&endpoint);
  loads_.erase(&endpoint);
  next_.on_closed(endpoint, why);
}

}  // namespace btd::net
