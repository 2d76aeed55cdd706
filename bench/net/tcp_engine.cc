// The tcp engine under load: a server's process and a client's, each on a core of its own, on
// loopback. The counterpart of tcp_bare.c.
//
//   tcp_engine VERB BYTES IN_FLIGHT SECONDS spin|sleep|default [CONNECTIONS]
//                                                        verb: read, write, cas, send
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
#include <string>
#include <vector>

#include "net/load/load.h"
#include "net/tcp/tcp.h"

namespace btd::net {
namespace {

constexpr std::size_t kRegionBytes = 16 << 20;
constexpr Time kPatience = std::chrono::seconds(10);

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

// The server's process. What it says comes through a pipe: its address first.
class Server {
 public:
  explicit Server(Time spin) {
    int ends[2];
    if (::pipe(ends) != 0) die("No pipe can be made.");
    pid_ = ::fork();
    if (pid_ < 0) die("No process can be made.");
    if (pid_ == 0) serve(ends[1], spin);
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
  [[noreturn]] static void serve(int out, Time spin) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pin(0);
    const auto engine = must(make_tcp_engine({.engine = {.spin = spin}}));
    LoadServer server(*engine, kRegionBytes, true);
    const std::string address = must(server.listen("127.0.0.1:0"));
    if (::write(out, address.data(), address.size()) < 0) die("The client has gone.");
    ::close(out);
    for (;;) must(engine->wait(kNever));
  }

  pid_t pid_ = 0;
  std::string address_;
};

// "default": as a daemon does, a little, then sleep.
Time spin_of(const std::string& mode) {
  if (mode == "spin") return std::chrono::seconds(1);
  return mode == "sleep" ? Time{} : EngineOptions{}.spin;
}

int run_load(const std::string& verb, char** argv, std::size_t connections) {
  LoadOptions load{.verb = verb == "read"    ? Verb::kRead
                           : verb == "write" ? Verb::kWritePersist
                           : verb == "cas"   ? Verb::kCas8
                                             : Verb::kSend};
  load.bytes = std::strtoul(argv[2], nullptr, 10);
  load.in_flight = static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10));
  load.duration = Time(static_cast<std::int64_t>(std::strtod(argv[4], nullptr) * 1e9));
  const Time spin = spin_of(argv[5]);
  const Server server(spin);
  pin(1);
  const auto engine = must(make_tcp_engine({.engine = {.spin = spin}}));
  std::vector<std::unique_ptr<LoadClient>> clients;
  for (std::size_t i = 0; i < connections; ++i) {
    clients.push_back(std::make_unique<LoadClient>(*engine));
    must(clients.back()->connect(server.address(), kPatience));
  }
  for (const auto& client : clients) must(client->start(load));
  LoadReport report = must(clients.front()->finish());
  for (std::size_t i = 1; i < connections; ++i) {  // latencies are of the first
    const LoadReport other = must(clients[i]->finish());
    report.operations += other.operations;
    report.bytes += other.bytes;
  }
  std::printf(
      "{\"p50\": %lld, \"p99\": %lld, \"count\": %llu, \"per_second\": %.0f, "
      "\"bytes_per_second\": %.0f}\n",
      static_cast<long long>(report.latency.percentile(0.5).count()),
      static_cast<long long>(report.latency.percentile(0.99).count()),
      static_cast<unsigned long long>(report.operations), report.operations_per_second(),
      report.bytes_per_second());
  return 0;
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

int run_idle(char** argv) {
  const auto count = std::strtoul(argv[2], nullptr, 10);
  const double seconds = std::strtod(argv[3], nullptr);
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  const Server server(std::chrono::microseconds(50));
  const auto engine = must(make_tcp_engine({.engine = {.spin = std::chrono::microseconds(50)}}));
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
  if ((argc == 6 || argc == 7) &&
      (what == "read" || what == "write" || what == "cas" || what == "send"))
    return btd::net::run_load(what, argv, argc == 7 ? std::strtoul(argv[6], nullptr, 10) : 1);
  if (argc == 4 && what == "idle") return btd::net::run_idle(argv);
  std::fprintf(stderr,
               "usage: tcp_engine read|write|cas|send BYTES IN_FLIGHT SECONDS spin|sleep|default "
               "[CONNECTIONS]\n"
               "       tcp_engine idle CONNECTIONS SECONDS\n");
  return 64;
}
