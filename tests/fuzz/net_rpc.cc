// Calls and replies of a peer, while calls to it wait: each call ends once, whatever comes.
#include <cstring>
#include <deque>
#include <map>

#include "net/rpc.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

using namespace btd::net;

namespace {

struct Numbers {
  std::uint64_t a = 0, b = 0;
};
constexpr Method<Numbers, Numbers> kEcho{.id = 1, .version = 2, .oldest = 1};
constexpr Method<Numbers, Numbers> kLater{.id = 2};

// Time stands still; timers run when the script says so.
class StillEngine final : public Engine {
 public:
  Result<RegionDescriptor> register_region(std::span<std::byte>, std::uint32_t, Persist*) override {
    return fail(EINVAL);
  }
  Status deregister_region(std::uint64_t) override { return fail(ENOENT); }
  Result<std::string> listen(std::string_view, Acceptor) override { return fail(EINVAL); }
  Result<Endpoint*> connect(std::string_view, Handler&) override { return fail(EINVAL); }
  void set_epoch(Epoch) override {}
  [[nodiscard]] Epoch epoch() const override { return 1; }
  [[nodiscard]] Time now() const override { return Time{1}; }
  TimerId at(Time, std::function<void()> task) override {
    timers_.emplace(++last_, std::move(task));
    return last_;
  }
  bool cancel(TimerId id) override { return timers_.erase(id) > 0; }
  Result<std::size_t> poll() override { return 0; }
  Result<std::size_t> wait(Time) override { return 0; }
  void wake() override {}
  Status submit(std::function<void()>) override { return fail(EAGAIN); }

  void run_timer() {
    if (timers_.empty()) return;
    const auto task = std::move(timers_.extract(timers_.begin()).mapped());
    task();
  }

 private:
  TimerId last_ = 0;
  std::map<TimerId, std::function<void()>> timers_;
};

class Line final : public Endpoint {
 public:
  Status post(const Operation& operation) override {
    if (tokens_.size() >= 8) return fail(EAGAIN);
    if (operation.local.size() == 1 && operation.local[0].iov_len > 2048) return fail(EMSGSIZE);
    tokens_.push_back(operation.token);
    return {};
  }
  void close() override {}
  [[nodiscard]] bool is_up() const override { return true; }
  [[nodiscard]] NodeId peer() const override { return 1; }
  [[nodiscard]] std::uint32_t capabilities() const override { return 0; }
  [[nodiscard]] std::string peer_name() const override { return "a peer"; }

  void complete(Handler& handler, int error) {
    if (tokens_.empty()) return;
    const Token token = tokens_.front();
    tokens_.pop_front();
    handler.on_completion(*this, {.token = token, .error = error});
  }
  [[nodiscard]] bool is_idle() const { return tokens_.empty(); }

 private:
  std::deque<Token> tokens_;
};

class Nobody final : public Handler {
 public:
  void on_completion(Endpoint&, const Completion&) override {}
};

class Caller {
 public:
  Caller() {
    rpc_.serve<Numbers, Numbers>(
        kEcho, [](const Rpc::Caller&, const Numbers& numbers, Rpc::Bytes tail, Rpc::Reply reply) {
          reply.answer(numbers, tail);
        });
    rpc_.serve<Numbers, Numbers>(
        kLater, [this](const Rpc::Caller&, const Numbers& numbers, Rpc::Bytes, Rpc::Reply reply) {
          later_.push_back(std::move(reply));
          if (numbers.a % 2 == 1) later_.clear();
        });
  }

  void play(Script& script) {
    while (!script.is_over()) step(script.byte(), script);
    later_.clear();
    while (!line_.is_idle()) line_.complete(rpc_, ECONNRESET);
    other_.complete(rpc_, 0);
    rpc_.on_closed(line_, {ECONNRESET, "The peer is gone."});
    rpc_.on_closed(other_, {ECONNRESET, "The peer is gone."});
    check(rpc_.waiting() == 0 && rpc_.served() == 0 && begun_ == ended_);
  }

 private:
  void step(std::uint8_t what, Script& script) {
    switch (what % 8U) {
      case 0:
        return call(line_);
      case 1:
        return call(other_);
      case 2:
        return line_.complete(rpc_, script.byte() % 4 == 0 ? EMSGSIZE : 0);
      case 3:
        return engine_.run_timer();
      case 4:
        if (!later_.empty()) later_.pop_back();
        return;
      default: {
        const std::size_t size = script.byte();
        // At a place of its own, so that a byte behind it is seen to be read.
        const Input bytes = script.take(size);
        const std::vector<std::uint8_t> message(bytes.begin(), bytes.end());
        static_cast<void>(rpc_.on_message(line_, std::as_bytes(std::span{message})));
      }
    }
  }
  void call(Endpoint& line) {
    if (rpc_.call<Numbers, Numbers>(line, kEcho, Numbers{1, 2}, {}, kNever,
                                    [this](const auto&, Rpc::Bytes) { ++ended_; }))
      ++begun_;
  }

  StillEngine engine_;
  Nobody nobody_;
  Line line_, other_;
  int begun_ = 0, ended_ = 0;
  Rpc rpc_{engine_, nobody_, {.waiting = 4, .served = 3}};
  std::vector<Rpc::Reply> later_;
};

void run(Input input) {
  Script script(input);
  Caller().play(script);
}

std::string message(const std::string& bytes) {
  return std::string("\x05") + static_cast<char>(bytes.size()) + bytes;
}

std::string a_call(std::uint16_t method, std::uint16_t version, std::uint16_t fixed,
                   const std::string& tail) {
  wire::CallHeader header;
  header.method = method;
  header.version = version;
  header.fixed = fixed;
  header.call = 7;
  header.patience_ms = 1000;
  return message(raw_of(header) + std::string(fixed, 'f') + tail);
}

std::string a_reply(std::uint64_t call, std::uint16_t error, std::uint16_t fixed) {
  wire::ReplyHeader header;
  header.call = call;
  header.error = error;
  header.fixed = fixed;
  return message(raw_of(header) + std::string(fixed, 'f') + "tail");
}

}  // namespace

Target rpc_target() {
  const std::string calls(2, '\0'), done("\x02\x01", 2);
  return {.run = run,
          .seeds = {a_call(1, 2, 16, "tail"), a_call(1, 1, 8, ""), a_call(1, 0, 16, ""),
                    a_call(2, 1, 16, "") + '\4' + done, a_call(3, 1, 0, ""),
                    a_call(2, 1, 16, "") + a_call(2, 1, 24, "") + a_call(2, 1, 0, "") +
                        a_call(1, 2, 16, "") + done + done + done,
                    calls + done + done + a_reply(1, 0, 16) + a_reply(2, EIO, 0),
                    calls + '\1' + a_reply(3, 0, 16) + '\3' + '\3' + a_reply(1, 0, 8)}};
}

}  // namespace btd::fuzz
