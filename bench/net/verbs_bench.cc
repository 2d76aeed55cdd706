// verbs_bench [ITERATIONS [SPIN_US [SERVER_SPIN_US]]]: latency of single reads and writes over
// RDMA, to be compared with verbs_bare, and with ib_read_lat and ib_write_lat of perftest, on the
// same device. Server and client are two processes. Both spin for a second, thus always, unless
// they are told otherwise; but a server that nothing asks of is to sleep, as that of ib_read_lat
// does. BTD_VERBS_ADDRESS is the device's IP address. One line for each: its name, its size, the
// typical time and the 99th percentile in microseconds.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "net/verbs/verbs_engine.h"

namespace btd::net {
namespace {

using std::chrono::seconds;

constexpr std::size_t kBytes = 1 << 20;

// What the server tells the client through a pipe.
struct Invitation {
  std::array<char, 64> address{};
  std::uint64_t key = 0;
};

class Client final : public Handler {
 public:
  void on_completion(Endpoint&, const Completion& completion) override {
    ++completed;
    if (completion.error != 0) error = completion.error;
  }
  void on_up(Endpoint&) override { is_up = true; }
  void on_closed(Endpoint&, const Error& why) override {
    if (why.code != ECANCELED) std::fprintf(stderr, "verbs_bench: %s\n", why.message.c_str());
    error = why.code;
  }

  std::size_t completed = 0;
  int error = 0;
  bool is_up = false;
};

class Server final : public Handler {
 public:
  void on_completion(Endpoint&, const Completion&) override {}
  void on_closed(Endpoint&, const Error&) override { is_closed = true; }

  bool is_closed = false;
};

int failed(const Error& error) {
  std::fprintf(stderr, "verbs_bench: %s\n", error.message.c_str());
  return 1;
}

// To a core of its own, where there are two.
void pin(std::size_t core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

int serve(const VerbsOptions& options, const std::string& host, int pipe) {
  auto engine = make_verbs_engine(options);
  if (!engine) return failed(engine.error());
  std::vector<std::byte> memory(kBytes);
  Persist persist(Domain::kCacheLine);
  const auto region = (*engine)->register_region(memory, kRemoteRead | kRemoteWrite, &persist);
  if (!region) return failed(region.error());
  Server server;
  const auto address = (*engine)->listen(host + ":0", [&](Endpoint&) { return &server; });
  if (!address) return failed(address.error());
  Invitation invitation{.key = region->key};
  std::strncpy(invitation.address.data(), address->c_str(), invitation.address.size() - 1);
  if (write(pipe, &invitation, sizeof(invitation)) != sizeof(invitation)) return 1;
  while (!server.is_closed) {
    if (const auto waited = (*engine)->wait((*engine)->now() + seconds(1)); !waited)
      return failed(waited.error());
  }
  return 0;
}

void print(const char* what, std::size_t size, std::vector<Time>& times) {
  std::ranges::sort(times);
  const auto at = [&](std::size_t percent) {
    return std::chrono::duration<double, std::micro>(times[times.size() * percent / 100]).count();
  };
  std::printf("%-16s %6zu %10.2f %10.2f\n", what, size, at(50), at(99));
  std::fflush(stdout);
}

// What the client measures, over one connection.
class Measurement {
 public:
  Measurement(Engine& engine, Client& client, Endpoint& endpoint, const Invitation& invitation)
      : engine_(engine), client_(client), endpoint_(endpoint), invitation_(invitation) {}

  bool until(const auto& condition) {
    while (!condition() && client_.error == 0)
      if (!engine_.wait(kNever)) client_.error = EIO;
    return client_.error == 0;
  }

  bool run(const char* name, Verb verb, std::size_t size, std::size_t iterations) {
    constexpr std::size_t kWarmUp = 50;
    std::vector<Time> times;
    for (std::size_t i = 0; i < iterations + kWarmUp; ++i) {
      const Time begin = engine_.now();
      if (!once(verb, {memory_.data(), size})) return false;
      if (i >= kWarmUp) times.push_back(engine_.now() - begin);
    }
    print(name, size, times);
    return true;
  }

  // The memory that operations use, which the device may reach.
  Status lend() {
    BTD_TRY(engine_.register_region(memory_, kRemoteWrite, nullptr));
    return {};
  }

 private:
  bool once(Verb verb, const iovec& local) {
    const std::size_t before = client_.completed;
    const RemoteRange remote{.key = invitation_.key, .offset = 0};
    const Status posted = endpoint_.post({.verb = verb,
                                          .token = before,
                                          .deadline = kNever,
                                          .remote = remote,
                                          .local = {&local, 1}});
    if (!posted) client_.error = failed(posted.error());
    return until([&] { return client_.completed > before; });
  }

  Engine& engine_;
  Client& client_;
  Endpoint& endpoint_;
  const Invitation& invitation_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(kBytes);
};

int measure(const VerbsOptions& options, int pipe, std::size_t iterations) {
  Invitation invitation;
  if (read(pipe, &invitation, sizeof(invitation)) != sizeof(invitation)) return 1;
  auto made = make_verbs_engine(options);
  if (!made) return failed(made.error());
  Engine& engine = **made;
  Client client;
  const auto endpoint = engine.connect(invitation.address.data(), client);
  if (!endpoint) return failed(endpoint.error());
  Measurement measurement(engine, client, **endpoint, invitation);
  if (const auto lent = measurement.lend(); !lent) return failed(lent.error());
  if (!measurement.until([&] { return client.is_up; })) return 1;
  const bool is_direct = options.direct_write_is_durable;
  const char* write_name = is_direct ? "write+read" : "write+ack";
  for (const std::size_t size : {64U, 4096U}) {
    if (is_direct && !measurement.run("read", Verb::kRead, size, iterations)) return 1;
    if (!measurement.run(write_name, Verb::kWritePersist, size, iterations)) return 1;
  }
  (*endpoint)->close();
  const Time end = engine.now() + seconds(1);
  while (client.error == 0 && engine.now() < end)
    if (!engine.wait(end)) break;
  return 0;
}

struct Spin {
  Time client = seconds(1);
  std::optional<Time> server;
};

int run(bool is_direct, const std::string& host, std::size_t iterations, const Spin& spin) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return 1;
  VerbsOptions options;
  options.direct_write_is_durable = is_direct;
  options.native_flush = false;  // the ways that are compared do without
  // Both are children: what one process opened of a device is not for another.
  const pid_t server = fork();
  options.engine.spin = spin.server.value_or(is_direct ? Time{} : spin.client);
  if (server == 0) pin(0), _exit(serve(options, host, ends[1]));
  close(ends[1]);
  const pid_t client = fork();
  options.engine.spin = spin.client;
  if (client == 0) pin(1), _exit(measure(options, ends[0], iterations));
  close(ends[0]);
  int code = 0, ignored = 0;
  waitpid(client, &code, 0);
  if (code != 0) kill(server, SIGTERM);  // it would wait for a client
  waitpid(server, &ignored, 0);
  return code == 0 ? 0 : 1;
}

}  // namespace
}  // namespace btd::net

int main(int argc, char** argv) {
  const char* host = std::getenv("BTD_VERBS_ADDRESS");
  if (host == nullptr) {
    std::fprintf(stderr,
                 "usage: BTD_VERBS_ADDRESS=IP verbs_bench [ITERATIONS [SPIN_US [SERVER_SPIN_US]]]\n"
                 "IP is an address of an RDMA device; `rdma link` lists them.\n");
    return 64;
  }
  const std::size_t iterations = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2000;
  btd::net::Spin spin;
  if (argc > 2) spin.client = std::chrono::microseconds(std::strtol(argv[2], nullptr, 10));
  if (argc > 3) spin.server = std::chrono::microseconds(std::strtol(argv[3], nullptr, 10));
  for (const bool is_direct : {true, false}) {
    const int code = btd::net::run(is_direct, host, std::max<std::size_t>(iterations, 1), spin);
    if (code != 0) return code;
  }
  return 0;
}
