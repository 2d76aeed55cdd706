#include "tests/net/remote/peer.h"

#include <algorithm>
#include <cstring>

#include "tests/net/remote/engines.h"
#include "tests/net/remote/method.h"
#include "tests/net/remote/network_device.h"

namespace btd::net::remote {

namespace {

constexpr std::size_t kPage = 4096;
constexpr Time kNap = std::chrono::microseconds(100);

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const auto raw = std::as_bytes(std::span{&value, 1});
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

}  // namespace

Peer::~Peer() { end_engine(); }

void Peer::end_engine() {
  rpc_.reset();
  engine_.reset();  // before the memory that it reaches
  nvram_.clear();
  regions_.clear();
  endpoints_.clear();
}

Status Peer::serve() {
  while (broken_) {
    bool is_idle = true;
    if (engine_ && !is_paused_) {
      BTD_ASSIGN(const std::size_t events, engine_->poll());
      is_idle = events == 0;
    }
    if (waiting_.empty()) {
      BTD_ASSIGN(auto line, channel_.hear());
      if (line) waiting_.push_back(*std::move(line));
    }
    if (!waiting_.empty()) {
      const Line line = std::move(waiting_.front());
      waiting_.pop_front();
      BTD_TRY(take(line));
    } else if (is_idle) {
      channel_.sleep(kNap);
    }
  }
  return broken_;
}

Status Peer::take(const Line& line) {
  const auto answer = call(line);
  if (answer) return channel_.say(answer->words, answer->bytes);
  return channel_.say(words("error", answer.error().code),
                      std::as_bytes(std::span{answer.error().message}));
}

Result<Peer::Answer> Peer::call(const Line& line) {
  static const std::map<std::string, Call> kCalls{{"make", &Peer::make},
                                                  {"listen", &Peer::listen},
                                                  {"register", &Peer::register_memory},
                                                  {"nvram", &Peer::nvram},
                                                  {"deregister", &Peer::deregister},
                                                  {"changed", &Peer::changed},
                                                  {"crashed", &Peer::crashed},
                                                  {"epoch", &Peer::epoch},
                                                  {"pause", &Peer::pause},
                                                  {"send", &Peer::send},
                                                  {"close", &Peer::close},
                                                  {"kill", &Peer::kill},
                                                  {"unplug", &Peer::unplug},
                                                  {"runs", &Peer::runs}};
  const auto found = kCalls.find(line.word(0));
  if (found == kCalls.end()) return fail(EPROTO, "No call is named \"" + line.word(0) + "\".");
  const bool needs_engine = line.word(0) != "make" && line.word(0) != "runs";
  if (needs_engine && !engine_) return fail(ENOTCONN, "There is no engine.");
  return (this->*found->second)(line);
}

Result<Peer::Answer> Peer::make(const Line& line) {
  end_engine();
  is_paused_ = false;
  BTD_ASSIGN(engine_, make_engine(line.word(1), from_words(line, 2)));
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::listen(const Line& line) {
  Handler* handler = this;
  if (line.word(1) == "calls") {
    runs_ = 0;
    rpc_ = std::make_unique<Rpc>(*engine_, *this);
    rpc_->serve<CountRequest, CountResponse>(
        kCount,
        [this](const Rpc::Caller&, const CountRequest& asked, Rpc::Bytes tail, Rpc::Reply reply) {
          reply.answer(CountResponse{.number = asked.number, .runs = ++runs_}, tail);
        });
    handler = rpc_.get();
  }
  BTD_ASSIGN(const std::string address, engine_->listen(host_ + ":0", [this, handler](Endpoint& e) {
    endpoints_[++last_endpoint_] = &e;
    tell(words("accept", last_endpoint_, e.peer_name()));
    return handler;
  }));
  return Answer{.words = words("ok", address), .bytes = {}};
}

Result<Peer::Answer> Peer::register_memory(const Line& line) {
  Region region;
  region.memory.resize(line.number(1));
  if (line.bytes.size() > region.memory.size()) return fail(EPROTO, "That is more than it holds.");
  std::ranges::copy(line.bytes, region.memory.begin());
  region.known = region.memory;
  BTD_ASSIGN(
      const RegionDescriptor made,
      engine_->register_region(region.memory, static_cast<std::uint32_t>(line.number(2)), nullptr));
  regions_.emplace(made.key, std::move(region));
  Answer answer{.words = words("ok"), .bytes = {}};
  append(answer.bytes, made);
  return answer;
}

Result<Peer::Answer> Peer::nvram(const Line& line) {
  BTD_ASSIGN(auto made, make_nvram(*engine_, line.number(1)));
  Answer answer{.words = words("ok"), .bytes = {}};
  append(answer.bytes, made->region());
  nvram_.emplace(made->region().key, std::move(made));
  return answer;
}

Result<Peer::Answer> Peer::deregister(const Line& line) {
  BTD_TRY(engine_->deregister_region(line.number(1)));
  regions_.erase(line.number(1));
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::changed(const Line& line) {
  const auto found = regions_.find(line.number(1));
  if (found == regions_.end()) return fail(ENOENT, "There is no such region.");
  auto& [memory, known] = found->second;
  Answer answer{.words = words("ok"), .bytes = {}};
  for (std::size_t at = 0; at < memory.size(); at += kPage) {
    const std::size_t size = std::min(kPage, memory.size() - at);
    if (std::memcmp(&memory[at], &known[at], size) == 0) continue;
    // What is told is what is kept: a NIC may write meanwhile.
    std::memcpy(&known[at], &memory[at], size);
    append(answer.bytes, std::uint64_t{at});
    append(answer.bytes, std::uint64_t{size});
    answer.bytes.insert(answer.bytes.end(), &known[at], &known[at] + size);
  }
  return answer;
}

Result<Peer::Answer> Peer::crashed(const Line& line) {
  const auto found = nvram_.find(line.number(1));
  if (found == nvram_.end()) return fail(ENOENT, "There is no such region.");
  BTD_ASSIGN(auto after, found->second->after_crash(line.number(2)));
  return Answer{.words = words("ok"), .bytes = std::move(after)};
}

Result<Peer::Answer> Peer::epoch(const Line& line) {
  engine_->set_epoch(line.number(1));
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::pause(const Line& line) {
  is_paused_ = line.number(1) != 0;
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::send(const Line& line) {
  BTD_ASSIGN(Endpoint * to, endpoint(line));
  sent_.push_back(line.bytes);
  const iovec local{sent_.back().data(), sent_.back().size()};
  const Time patience(static_cast<std::int64_t>(line.number(3)));
  BTD_TRY(to->send({&local, 1}, line.number(2), after(engine_->now(), patience)));
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::close(const Line& line) {
  BTD_ASSIGN(Endpoint * closing, endpoint(line));
  closing->close();
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::kill(const Line& /*line*/) {
  end_engine();
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::unplug(const Line& line) {
  BTD_ASSIGN(const std::string device, device_of(host_));
  const Time now = engine_->now();
  // The answer has to leave first.
  constexpr Time kAnswered = std::chrono::milliseconds(50);
  engine_->at(now + kAnswered, [device, this] {
    if (const Status done = set_device_up(device, false); !done) broken_ = done;
  });
  const Time outage = std::chrono::milliseconds(line.number(1));
  engine_->at(now + kAnswered + outage, [device, this] {
    if (const Status done = set_device_up(device, true); !done) broken_ = done;
  });
  return Answer{.words = words("ok"), .bytes = {}};
}

Result<Peer::Answer> Peer::runs(const Line& /*line*/) {
  return Answer{.words = words("ok", runs_), .bytes = {}};
}

void Peer::tell(const Words& words, std::span<const std::byte> bytes) {
  if (Status said = channel_.say(words, bytes); !said && broken_) broken_ = std::move(said);
}

std::uint64_t Peer::number_of(const Endpoint& endpoint) const {
  const auto found =
      std::ranges::find_if(endpoints_, [&](const auto& one) { return one.second == &endpoint; });
  return found == endpoints_.end() ? 0 : found->first;
}

Result<Endpoint*> Peer::endpoint(const Line& line) const {
  const auto found = endpoints_.find(line.number(1));
  if (found == endpoints_.end()) return fail(ENOTCONN, "The endpoint is closed.");
  return found->second;
}

void Peer::on_up(Endpoint& endpoint) { tell(words("up", number_of(endpoint))); }

void Peer::on_down(Endpoint& endpoint, const Error& why) {
  tell(words("down", number_of(endpoint), why.code), std::as_bytes(std::span{why.message}));
}

void Peer::on_closed(Endpoint& endpoint, const Error& why) {
  const std::uint64_t number = number_of(endpoint);
  tell(words("closed", number, why.code), std::as_bytes(std::span{why.message}));
  endpoints_.erase(number);
}

void Peer::on_completion(Endpoint& endpoint, const Completion& completion) {
  tell(words("completed", number_of(endpoint), completion.token, completion.error,
             completion.value));
}

int Peer::on_message(Endpoint& endpoint, std::span<const std::byte> message) {
  tell(words("message", number_of(endpoint)), message);
  return await_answer();
}

int Peer::await_answer() {
  while (broken_) {
    auto line = channel_.await();
    if (!line) {
      broken_ = std::unexpected(std::move(line).error());
    } else if (line->word(0) == "answer") {
      return static_cast<int>(line->number(1));
    } else {
      waiting_.push_back(*std::move(line));
    }
  }
  return EBUSY;
}

}  // namespace btd::net::remote
