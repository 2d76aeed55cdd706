// The tcp engine under load: a server's process and a client's, each on a core of its own, on
// loopback. The counterpart of tcp_bare.c.
//
//   tcp_engine VERB BYTES IN_FLIGHT SECONDS spin|sleep|default [CONNECTIONS [ZERO_COPY [ADDRESS]]]
//                                                        verb: read, write, cas, send
//   tcp_engine serve ADDRESS spin|sleep|default ZERO_COPY
//                                                        for those that name its ADDRESS
//
// ZERO_COPY is TcpOptions::zero_copy_bytes, of both sides; "forced" behind a comma: also where the
// kernel copies; "none": never.
//
//   tcp_engine idle CONNECTIONS SECONDS                  what connections cost that say nothing
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/load/load.h"
#include "net/tcp/tcp.h"

namespace btd::net {
namespace {

constexpr std::size_t kRegionBytes = 16 << 20;
constexpr Time kPatience =
    std::chrono::seconds(60);  // also in a guest, whose processors are emulated

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) die(result.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) die("This machine needs two cores.");
}

std::unique_ptr<Engine> make(TcpOptions tcp, TcpCounts* counts = nullptr) {
  tcp.counts = counts;
  return must(make_tcp_engine(tcp));
}

TcpOptions zero_copy_of(const std::string& text) {
  TcpOptions tcp;
  tcp.is_zero_copy_forced = text.ends_with(",forced");
  tcp.zero_copy_bytes = text == "none"
                            ? UINT32_MAX
                            : static_cast<std::uint32_t>(std::strtoul(text.c_str(), nullptr, 10));
  return tcp;
}

[[noreturn]] void run_server(const TcpOptions& tcp, const std::string& at,
                             const std::function<void(const std::string&)>& say) {
  const auto engine = make(tcp);
  LoadServer server(*engine, kRegionBytes, true);
  say(must(server.listen(at)));
  for (;;) must(engine->wait(kNever));
}

// The server's process. What it says comes through a pipe: its address first.
class Server {
 public:
  explicit Server(const TcpOptions& tcp) {
    int ends[2];
    if (::pipe(ends) != 0) die("No pipe can be made.");
    pid_ = ::fork();
    if (pid_ < 0) die("No process can be made.");
    if (pid_ == 0) serve(ends[1], tcp);
    ::close(ends[1]);
    char text[128] = {};
    if (::read(ends[0], text, sizeof(text) - 1) <= 0) die("The server does not start.");
    ::close(ends[0]);
    address_ = text;
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  [[noreturn]] static void serve(int out, const TcpOptions& tcp) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(0);
    run_server(tcp, "127.0.0.1:0", [out](const std::string& address) {
      if (::write(out, address.data(), address.size()) < 0) die("The client has gone.");
      ::close(out);
    });
  }

  pid_t pid_ = 0;
  std::string address_;
};

// "default": as a daemon does, a little, then sleep.
Time spin_of(const std::string& mode) {
  if (mode == "spin") return std::chrono::seconds(1);
  return mode == "sleep" ? Time{} : EngineOptions{}.spin;
}

int run_serve(char** argv) {
  TcpOptions tcp = zero_copy_of(argv[4]);
  tcp.engine.spin = spin_of(argv[3]);
  tcp.security = NoSecurity{.is_everywhere = true};
  pin(0);
  run_server(tcp, argv[2], [](const std::string& address) {
    std::printf("%s\n", address.c_str());
    std::fflush(stdout);
  });
}

long number_in(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) return std::atol(line.c_str() + key.size());
  return 0;
}

std::string of(pid_t pid, const char* file) { return "/proc/" + std::to_string(pid) + "/" + file; }

// Nanoseconds on a processor.
long cpu(pid_t pid) { return number_in(of(pid, "schedstat"), ""); }
long resident(pid_t pid) { return number_in(of(pid, "status"), "VmRSS:"); }
long switches(pid_t pid) { return number_in(of(pid, "status"), "voluntary_ctxt_switches:"); }

// Behind SECONDS: the mode, how many connections, ZERO_COPY, ADDRESS.
int run_load(const std::string& verb, char** argv, const std::vector<std::string>& more) {
  const std::size_t connections = more.size() > 1 ? std::stoul(more[1]) : 1;
  LoadOptions load{.verb = verb == "read"    ? Verb::kRead
                           : verb == "write" ? Verb::kWritePersist
                           : verb == "cas"   ? Verb::kCas8
                                             : Verb::kSend};
  load.bytes = std::strtoul(argv[2], nullptr, 10);
  load.in_flight = static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10));
  load.duration = Time(static_cast<std::int64_t>(std::strtod(argv[4], nullptr) * 1e9));
  TcpOptions tcp = more.size() > 2 ? zero_copy_of(more[2]) : TcpOptions{};
  tcp.engine.spin = spin_of(more[0]);
  if (more.size() > 3) tcp.security = NoSecurity{.is_everywhere = true};
  std::optional<Server> server;
  if (more.size() < 4) server.emplace(tcp);
  const std::string address = server ? server->address() : more[3];
  pin(1);
  TcpCounts counts;
  const auto engine = make(tcp, &counts);
  std::vector<std::unique_ptr<LoadClient>> clients;
  for (std::size_t i = 0; i < connections; ++i) {
    clients.push_back(std::make_unique<LoadClient>(*engine));
    must(clients.back()->connect(address, kPatience));
  }
  const long cpu_before = cpu(::getpid());
  for (const auto& client : clients) must(client->start(load));
  LoadReport report = must(clients.front()->finish());
  for (std::size_t i = 1; i < connections; ++i) {  // latencies are of the first
    const LoadReport other = must(clients[i]->finish());
    report.operations += other.operations;
    report.bytes += other.bytes;
  }
  std::printf(
      "{\"p50\": %lld, \"p99\": %lld, \"count\": %llu, \"per_second\": %.0f, "
      "\"bytes_per_second\": %.0f, \"cpu_ns\": %.0f, \"zero_copy_sends\": %llu, "
      "\"zero_copies_copied\": %llu}\n",
      static_cast<long long>(report.latency.percentile(0.5).count()),
      static_cast<long long>(report.latency.percentile(0.99).count()),
      static_cast<unsigned long long>(report.operations), report.operations_per_second(),
      report.bytes_per_second(),
      static_cast<double>(cpu(::getpid()) - cpu_before) / static_cast<double>(report.operations),
      static_cast<unsigned long long>(counts.zero_copy_sends),
      static_cast<unsigned long long>(counts.zero_copies_copied));
  return 0;
}

int run_idle(char** argv) {
  const auto count = std::strtoul(argv[2], nullptr, 10);
  const double seconds = std::strtod(argv[3], nullptr);
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  TcpOptions tcp;
  tcp.engine.spin = std::chrono::microseconds(50);
  const Server server(tcp);
  const auto engine = make(tcp);
  std::vector<std::unique_ptr<LoadClient>> clients;
  const auto add = [&] {
    clients.push_back(std::make_unique<LoadClient>(*engine));
    must(clients.back()->connect(server.address(), kPatience));
    must(clients.back()->once({.verb = Verb::kRead}));
  };
  add();  // what the first one needs is the engine's
  const long before = resident(server.pid()) + resident(::getpid());
  while (clients.size() <= count) add();
  const long after = resident(server.pid()) + resident(::getpid());
  // The last answers are acknowledged, and what spins has gone to sleep.
  const Time settled = engine->now() + std::chrono::milliseconds(200);
  while (engine->now() < settled) must(engine->wait(settled));
  const long cpu_before = cpu(server.pid()), switches_before = switches(server.pid());
  const long mine_before = cpu(::getpid());
  const Time until = engine->now() + Time(static_cast<std::int64_t>(seconds * 1e9));
  while (engine->now() < until) must(engine->wait(until));
  std::printf(
      "{\"kib_per_connection\": %.2f, \"server_cpu_ns\": %ld, \"client_cpu_ns\": %ld, "
      "\"server_switches\": %ld}\n",
      static_cast<double>(after - before) / static_cast<double>(count) / 2,
      cpu(server.pid()) - cpu_before, cpu(::getpid()) - mine_before,
      switches(server.pid()) - switches_before);
  std::fflush(stdout);
  std::_Exit(0);  // a thousand goodbyes measure nothing
}

}  // namespace
}  // namespace btd::net

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (argc >= 6 && argc <= 9 &&
      (what == "read" || what == "write" || what == "cas" || what == "send"))
    return btd::net::run_load(what, argv, {argv + 5, argv + argc});
  if (argc == 5 && what == "serve") return btd::net::run_serve(argv);
  if (argc == 4 && what == "idle") return btd::net::run_idle(argv);
  std::fprintf(stderr,
               "usage: tcp_engine read|write|cas|send BYTES IN_FLIGHT SECONDS spin|sleep|default "
               "[CONNECTIONS [ZERO_COPY [ADDRESS]]]\n"
               "       tcp_engine serve ADDRESS spin|sleep|default ZERO_COPY\n"
               "       tcp_engine idle CONNECTIONS SECONDS\n");
  return 64;
}
