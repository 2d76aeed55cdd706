#include "tests/net/remote/engines.h"

#include "net/tcp/tcp.h"
#include "net/verbs/engine.h"
#include "tests/net/tcp_world.h"

namespace btd::net::remote {

namespace {

// Devices in software, in emulated machines, are slow: what waits, waits longer.
constexpr int kSlow = 4;

EngineOptions slow(const WorldOptions& options) {
  EngineOptions engine{.epoch = options.epoch,
                       .limits = options.limits,
                       .patience = options.patience,
                       .spin = Time{}};
  engine.patience.connect *= kSlow;
  engine.patience.silence *= kSlow;
  engine.patience.reconnect *= kSlow;
  engine.patience.linger *= kSlow;
  return engine;
}

}  // namespace

Result<std::unique_ptr<Engine>> make_engine(std::string_view kind, const WorldOptions& options) {
  if (kind == kTcp)
    return make_tcp_engine(
        {.engine = slow(options), .security = NoSecurity{.is_everywhere = true}});
  if (kind != kAcknowledge && kind != kReadBehind)
    return fail(EINVAL, "No engine is named " + std::string(kind) + ".");
  return make_verbs_engine({.engine = slow(options),
                            .device = {},
                            .cluster_key = "the key of the test",
                            .direct_write_is_durable = kind == kReadBehind,
                            // That way is tried in one guest, by net_verbs_test.
                            .native_flush = false});
}

void cut(std::string_view kind, Engine& engine, const std::string& address) {
  if (kind == kTcp)
    cut_connections(address);
  else
    dynamic_cast<verbs::VerbsEngine&>(engine).cut_links();
}

std::vector<std::string> to_words(const WorldOptions& options) {
  const Limits& l = options.limits;
  const Patience& p = options.patience;
  return words(options.epoch, l.window, l.queued, l.message_bytes, l.transfer_bytes, l.output_bytes,
               p.connect.count(), p.silence.count(), p.reconnect.count(), p.linger.count());
}

WorldOptions from_words(const Line& line, std::size_t skip) {
  const auto number = [&](std::size_t i) { return line.number(skip + i); };
  const auto half = [&](std::size_t i) { return static_cast<std::uint32_t>(number(i)); };
  const auto time = [&](std::size_t i) { return Time(static_cast<std::int64_t>(number(i))); };
  return {
      .limits = {.window = half(1),
                 .queued = half(2),
                 .message_bytes = half(3),
                 .transfer_bytes = number(4),
                 .output_bytes = number(5)},
      .patience = {.connect = time(6), .silence = time(7), .reconnect = time(8), .linger = time(9)},
      .epoch = number(0)};
}

}  // namespace btd::net::remote
