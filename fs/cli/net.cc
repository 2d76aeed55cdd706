// btd net: measure the transport between nodes, with a server that lends memory.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "fs/cli/command_group.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "net/load/load.h"
#include "net/tcp/tcp.h"

namespace btd::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  btd net bench server 0.0.0.0:7000 --key key   on one node
  btd net bench client host:7000 --key key      on the other
  btd net ping host:7000 --key key --count 10

A key is 32 random bytes, the same on both nodes: head -c 32 /dev/urandom > key; chmod 600 key.
`btd net COMMAND --help` explains each; btd-net.1 explains the rest.)";

constexpr const char* kServerExamples = R"(Examples:
  btd net bench server 127.0.0.1:7000
  btd net bench server 0.0.0.0:7000 --key key --memory 256M

Lends memory of its own to whoever connects, until it is ended with Ctrl-C.)";

constexpr const char* kClientExamples = R"(Examples:
  btd net bench client 127.0.0.1:7000
  btd net bench client host:7000 --key key --verb read --size 4K --in-flight 64 --json
  btd net bench client host:7000 --tls-authority ca.pem --tls-certificate n.pem --tls-key n.key

Without --verb and --size: every verb, with 64 B, 4 KiB and 1 MiB.)";

constexpr const char* kPingExamples = R"(Examples:
  btd net ping 127.0.0.1:7000
  btd net ping host:7000 --key key --count 100 --json)";

constexpr std::uint64_t kMostInFlight = 4096;
constexpr std::uint64_t kMostSeconds = 3600;
constexpr std::uint64_t kMostMicroseconds = 1'000'000;
constexpr std::uint64_t kMostPings = 1'000'000;
constexpr net::Time kPatience = std::chrono::seconds(10);

// Options of all that connect or listen.
class Transport {
 public:
  void declare(Arguments& take) {
    take.required("HOST:PORT", address, "The server's address; an IPv6 one in brackets");
    take.option("--key", key_, "File with the cluster's key, 32 bytes");
    take.option("--tls-authority", authority_,
                "File with the authority's certificate; TLS instead of a key");
    take.option("--tls-certificate", certificate_, "File with this node's certificate");
    take.option("--tls-key", tls_key_, "File with this node's private key");
    take.flag("--insecure", is_insecure_, "Without a key, on other addresses than loopback too");
    take.option("--spin", spin_, "Microseconds to spin before sleeping (50)", 0, kMostMicroseconds);
  }

  [[nodiscard]] Result<std::unique_ptr<net::Engine>> engine() const {
    BTD_ASSIGN(net::Security security, this->security());
    net::TcpOptions options{.security = std::move(security)};
    options.engine.spin = std::chrono::microseconds(spin_);
    return net::make_tcp_engine(options);
  }

  std::string address;

 private:
  [[nodiscard]] Result<net::Security> security() const {
    const bool has_tls = authority_ || certificate_ || tls_key_;
    if (has_tls && (key_ || !authority_ || !certificate_ || !tls_key_))
      return fail(
          EINVAL,
          "TLS takes --tls-authority, --tls-certificate and --tls-key together, and no --key");
    if (has_tls) return net::TlsSecurity{*authority_, *certificate_, *tls_key_};
    if (key_) return net::KeySecurity{*key_};
    return net::NoSecurity{.is_everywhere = is_insecure_};
  }

  std::optional<std::string> key_, authority_, certificate_, tls_key_;
  bool is_insecure_ = false;
  std::uint64_t spin_ = 50;
};

class ServerCommand : public Command {
 public:
  void declare(Arguments& take) override {
    transport_.declare(take);
    take.option("--memory", memory_, "What is lent (64M)");
    take.examples(kServerExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::uint64_t bytes, parse_size(memory_));
    BTD_ASSIGN(const auto engine, transport_.engine());
    net::LoadServer server(*engine, bytes, true);
    BTD_ASSIGN(const std::string address, server.listen(transport_.address));
    fmt::print("{} of memory at {}\n", format_size(bytes), address);
    std::fflush(stdout);
    for (;;) BTD_TRY(engine->wait(net::kNever));
  }

 private:
  Transport transport_;
  std::string memory_ = "64M";
};

struct VerbName {
  const char* name;
  net::Verb verb;
};
constexpr VerbName kVerbs[] = {{"read", net::Verb::kRead},
                               {"write", net::Verb::kWritePersist},
                               {"cas", net::Verb::kCas8},
                               {"send", net::Verb::kSend}};

double microseconds(net::Time time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

class ClientCommand : public Command {
 public:
  void declare(Arguments& take) override {
    transport_.declare(take);
    take.options("--verb", verbs_, "read, write, cas or send; may be given often");
    take.options("--size", sizes_, "Of one operation; may be given often");
    take.option("--in-flight", in_flight_, "Operations at a time (1)", 1, kMostInFlight);
    take.option("--seconds", seconds_, "Of each measurement (1)", 1, kMostSeconds);
    take.flag("--json", json_, "As JSON, in nanoseconds and bytes");
    take.examples(kClientExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const std::vector<net::LoadOptions> loads, this->loads());
    BTD_ASSIGN(const auto engine, transport_.engine());
    net::LoadClient client(*engine);
    BTD_TRY(client.connect(transport_.address, kPatience));
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    std::vector<std::vector<std::string>> rows;
    for (const net::LoadOptions& load : loads) {
      BTD_ASSIGN(const net::LoadReport report, client.run(load));
      all.push_back(as_json(load, report));
      rows.push_back(as_row(load, report));
    }
    if (json_) {
      fmt::print("{}\n", all.dump(2));
    } else {
      fmt::print("{}", format_table({{"VERB"},
                                     {"SIZE", true},
                                     {"P50 us", true},
                                     {"P99 us", true},
                                     {"P99.9 us", true},
                                     {"MAX us", true},
                                     {"PER SECOND", true},
                                     {"BANDWIDTH", true}},
                                    rows));
    }
    return kExitOk;
  }

 private:
  [[nodiscard]] Result<std::vector<net::LoadOptions>> loads() const {
    std::vector<net::LoadOptions> loads;
    for (const std::string& name : verbs_)
      if (std::ranges::none_of(kVerbs, [&](const VerbName& one) { return name == one.name; }))
        return fail(EINVAL, fmt::format("--verb {} is none of read, write, cas, send", name));
    const std::vector<std::string> sizes =
        sizes_.empty() ? std::vector<std::string>{"64", "4K", "1M"} : sizes_;
    for (const VerbName& one : kVerbs) {
      if (!verbs_.empty() && std::ranges::find(verbs_, one.name) == verbs_.end()) continue;
      for (const std::string& size : sizes) {
        BTD_ASSIGN(const std::uint64_t bytes, parse_size(size));
        // Of those that nobody asked for, what a message can't have is left out.
        if (one.verb == net::Verb::kSend && sizes_.empty() && bytes > net::Limits{}.message_bytes)
          continue;
        loads.push_back({.verb = one.verb,
                         .bytes = one.verb == net::Verb::kCas8 ? 8 : bytes,
                         .in_flight = static_cast<unsigned>(in_flight_),
                         .duration = std::chrono::seconds(seconds_)});
        if (one.verb == net::Verb::kCas8) break;  // it has one size
      }
    }
    return loads;
  }

  static std::string name_of(net::Verb verb) {
    return std::ranges::find(kVerbs, verb, &VerbName::verb)->name;
  }

  [[nodiscard]] static nlohmann::ordered_json as_json(const net::LoadOptions& load,
                                                      const net::LoadReport& report) {
    const auto at = [&](double share) { return report.latency.percentile(share).count(); };
    return {{"verb", name_of(load.verb)},
            {"size", load.bytes},
            {"in_flight", load.in_flight},
            {"seconds", report.seconds()},
            {"operations", report.operations},
            {"operations_per_second", report.operations_per_second()},
            {"bytes_per_second", report.bytes_per_second()},
            {"latency_ns",
             {{"p50", at(0.5)},
              {"p90", at(0.9)},
              {"p99", at(0.99)},
              {"p999", at(0.999)},
              {"max", at(1)}}}};
  }

  [[nodiscard]] static std::vector<std::string> as_row(const net::LoadOptions& load,
                                                       const net::LoadReport& report) {
    const auto at = [&](double share) {
      return fmt::format("{:.1f}", microseconds(report.latency.percentile(share)));
    };
    return {name_of(load.verb),
            format_size(load.bytes),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1),
            fmt::format("{:.0f}", report.operations_per_second()),
            format_size(static_cast<std::uint64_t>(report.bytes_per_second())) + "/s"};
  }

  Transport transport_;
  std::vector<std::string> verbs_, sizes_;
  std::uint64_t in_flight_ = 1, seconds_ = 1;
  bool json_ = false;
};

class PingCommand : public Command {
 public:
  void declare(Arguments& take) override {
    transport_.declare(take);
    take.option("--count", count_, "Messages, one after the other (5)", 1, kMostPings);
    take.flag("--json", json_, "As JSON, in nanoseconds");
    take.examples(kPingExamples);
  }

  Result<int> run(const Globals&) override {
    BTD_ASSIGN(const auto engine, transport_.engine());
    net::LoadClient client(*engine);
    const net::Time begin = engine->now();
    BTD_TRY(client.connect(transport_.address, kPatience));
    const net::Time connecting = engine->now() - begin;
    net::Histogram latency;
    for (std::uint64_t i = 0; i < count_; ++i) {
      BTD_ASSIGN(const net::Time time, client.once({.verb = net::Verb::kSend}));
      latency.add(time);
      if (!json_) fmt::print("{}: {:.1f} us\n", transport_.address, microseconds(time));
    }
    const net::Endpoint& endpoint = *client.endpoint();
    const bool is_encrypted = (endpoint.capabilities() & net::kEncrypted) != 0;
    const auto at = [&](double share) { return latency.percentile(share); };
    if (json_) {
      const nlohmann::ordered_json all = {
          {"address", transport_.address},       {"node", endpoint.peer()},
          {"encrypted", is_encrypted},           {"count", count_},
          {"connecting_ns", connecting.count()}, {"p50_ns", at(0.5).count()},
          {"p99_ns", at(0.99).count()},          {"max_ns", at(1).count()}};
      fmt::print("{}\n", all.dump(2));
    } else {
      fmt::print("node {}, {}; connected in {:.1f} us; p50 {:.1f} us, longest {:.1f} us\n",
                 endpoint.peer(), is_encrypted ? "encrypted" : "not encrypted",
                 microseconds(connecting), microseconds(at(0.5)), microseconds(at(1)));
    }
    return kExitOk;
  }

 private:
  Transport transport_;
  std::uint64_t count_ = 5;
  bool json_ = false;
};

template <class T>
std::unique_ptr<Command> make() {
  return std::make_unique<T>();
}

std::unique_ptr<Command> make_bench() {
  return std::make_unique<CommandGroup>(
      std::vector<CommandGroup::Entry>{
          {"server", "Lend memory to clients that measure", make<ServerCommand>},
          {"client", "Measure verbs and sizes on a server", make<ClientCommand>}},
      kExamples);
}

}  // namespace

std::unique_ptr<Command> make_net_command() {
  return std::make_unique<CommandGroup>(
      std::vector<CommandGroup::Entry>{{"bench", "Latency and bandwidth of each verb", make_bench},
                                       {"ping", "How long a message takes", make<PingCommand>}},
      kExamples);
}

}  // namespace btd::cli
