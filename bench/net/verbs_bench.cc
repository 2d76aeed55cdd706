// verbs_bench [ITERATIONS [SPIN_US]]: latency of single reads and writes over RDMA, to be compared
// with ib_read_lat and ib_write_lat of perftest on the same device. Server and client are two
// processes. BTD_VERBS_ADDRESS is the device's IP address. One line for each: its name, its size,
// the typical time and the 99th percentile in microseconds.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "net/verbs/verbs_engine.h"

namespace btd::net {
namespace {

using std::chrono::microseconds;
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
  std::printf("%-12s %6zu %10.2f %10.2f\n", what, size, at(50), at(99));
  std::fflush(stdout);
}

int measure(const VerbsOptions& options, int pipe, std::size_t iterations) {
  Invitation invitation;
  if (read(pipe, &invitation, sizeof(invitation)) != sizeof(invitation)) return 1;
  auto made = make_verbs_engine(options);
  if (!made) return failed(made.error());
  Engine& engine = **made;
  std::vector<std::byte> memory(kBytes);
  if (const auto region = engine.register_region(memory, kRemoteWrite, nullptr); !region)
    return failed(region.error());
  Client client;
  const auto endpoint = engine.connect(invitation.address.data(), client);
  if (!endpoint) return failed(endpoint.error());
  const auto until = [&](const auto& condition) {
    while (!condition() && client.error == 0)
      if (!engine.wait(engine.now() + seconds(1))) client.error = EIO;
    return client.error == 0;
  };
  if (!until([&] { return client.is_up; })) return 1;
  const char* write_name = options.direct_write_is_durable ? "write+read" : "write+ack";
  for (const bool is_read : {true, false}) {
    for (const std::size_t size : {64U, 4096U}) {
      std::vector<Time> times;
      const iovec local{memory.data(), size};
      for (std::size_t i = 0; i < iterations; ++i) {
        const Time begin = engine.now();
        const std::size_t before = client.completed;
        const RemoteRange remote{.key = invitation.key, .offset = 0};
        const Status posted = is_read ? (*endpoint)->read({&local, 1}, remote, i, kNever)
                                      : (*endpoint)->write_persist({&local, 1}, remote, i, kNever);
        if (!posted) return failed(posted.error());
        if (!until([&] { return client.completed > before; })) return 1;
        times.push_back(engine.now() - begin);
      }
      print(is_read ? "read" : write_name, size, times);
    }
  }
  (*endpoint)->close();
  const Time end = engine.now() + seconds(1);
  while (client.error == 0 && engine.now() < end)
    if (!engine.wait(end)) break;
  return 0;
}

int run(bool is_direct, const std::string& host, std::size_t iterations, Time spin) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return 1;
  VerbsOptions options;
  options.engine.spin = spin;
  options.direct_write_is_durable = is_direct;
  // Both are children: what one process opened of a device is not for another.
  const pid_t server = fork();
  if (server == 0) _exit(serve(options, host, ends[1]));
  close(ends[1]);
  const pid_t client = fork();
  if (client == 0) _exit(measure(options, ends[0], iterations));
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
                 "usage: BTD_VERBS_ADDRESS=IP verbs_bench [ITERATIONS [SPIN_US]]\n"
                 "IP is an address of an RDMA device; `rdma link` lists them.\n");
    return 64;
  }
  const std::size_t iterations = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2000;
  const long spin = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 50;
  for (const bool is_direct : {false, true}) {
    const int code = btd::net::run(is_direct, host, std::max<std::size_t>(iterations, 1),
                                   std::chrono::microseconds(spin));
    if (code != 0) return code;
  }
  return 0;
}
