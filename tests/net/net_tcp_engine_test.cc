// What is the tcp engine's own: addresses, secrets, threads that call it, what it costs when idle.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <fstream>
#include <thread>

#include "net/load/load.h"
#include "tests/net/engine_options.h"
#include "tests/net/tcp_world.h"

namespace btd::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time kPatience = seconds(20);

Handler* refuse(Endpoint& /*endpoint*/) { return nullptr; }

TEST(TcpAddress, SaysWhatIsWrong) {
  const auto engine = make_engine(NoSecurity{});
  for (const char* text :
       {"", "host", "host:", ":x", "host:70000", "::1", "::1:5", "[::1]", "1.2.3.4:-1"}) {
    const auto got = engine->listen(text, refuse);
    ASSERT_FALSE(got.has_value()) << text;
    EXPECT_EQ(got.error().code, EINVAL) << text;
  }
  Recorder recorder;
  for (const char* text : {"localhost:0", ":5", "*:5"})
    EXPECT_EQ(engine->connect(text, recorder).error().code, EINVAL) << text;
}

TEST(TcpAddress, ConnectsByNumberAndName) {
  for (const std::string host : {"127.0.0.1", "[::1]", "localhost"}) {
    const auto server = make_engine(NoSecurity{}), client = make_engine(NoSecurity{});
    Recorder served, asked;
    const auto address = server->listen(host + ":0", [&](Endpoint&) { return &served; });
    if (!address && host == "[::1]") continue;  // no IPv6 here
    ASSERT_TRUE(address.has_value()) << address.error().message;
    const std::string port = address->substr(address->rfind(':'));
    ASSERT_TRUE(client->connect(host + port, asked));
    for (int i = 0; i < 2000 && asked.ups == 0; ++i) {
      ASSERT_TRUE(server->poll() && client->wait(client->now() + milliseconds(1)));
    }
    EXPECT_EQ(asked.ups, 1) << host;
  }
}

TEST(TcpAddress, NobodyListensIsSaid) {
  const auto engine = make_engine(NoSecurity{});
  Recorder recorder;
  std::string address;
  {
    const auto gone = make_engine(NoSecurity{});
    address = gone->listen("127.0.0.1:0", refuse).value_or("");
  }
  ASSERT_TRUE(engine->connect(address, recorder));
  const Time until = engine->now() + kPatience;
  while (recorder.closes == 0 && engine->now() < until) ASSERT_TRUE(engine->wait(until));
  EXPECT_EQ(recorder.last.code, ECONNREFUSED);
  EXPECT_NE(recorder.last.message.find("nobody listens"), std::string::npos);
}

TEST(TcpSecurity, WithoutItOnlyLoopbackIsServed) {
  const auto engine = make_engine(NoSecurity{});
  for (const char* text : {"0.0.0.0:0", "[::]:0", ":0", "*:0"}) {
    const auto got = engine->listen(text, refuse);
    ASSERT_FALSE(got.has_value()) << text;
    EXPECT_EQ(got.error().code, EACCES) << text;
    EXPECT_NE(got.error().message.find("cluster key or TLS"), std::string::npos);
  }
  Recorder recorder;
  EXPECT_EQ(engine->connect("192.0.2.1:7000", recorder).error().code, EACCES);
  EXPECT_TRUE(make_engine(NoSecurity{.is_everywhere = true})->listen("0.0.0.0:0", refuse));
  EXPECT_TRUE(make_engine(Secrets::mine().key())->listen("0.0.0.0:0", refuse));
}

TEST(TcpSecurity, SecretsThatOthersMayReadAreRefused) {
  const Secrets secrets;
  const auto code = [](const Security& security) {
    auto made = make_tcp_engine({.security = security});
    return made ? 0 : made.error().code;
  };
  EXPECT_EQ(code(secrets.key()), 0);
  ::chmod(secrets.path("key").c_str(), 0640);
  EXPECT_EQ(code(secrets.key()), EACCES);
  ::chmod(secrets.path("key").c_str(), 0400);
  EXPECT_EQ(code(secrets.key()), 0);
  ::chmod(secrets.path("node.key").c_str(), 0604);
  EXPECT_EQ(code(secrets.tls()), EACCES);
  ::chmod(secrets.path("node.key").c_str(), 0600);
  EXPECT_EQ(code(secrets.tls()), 0);
  EXPECT_EQ(code(KeySecurity{secrets.path("none")}), ENOENT);
  EXPECT_EQ(code(KeySecurity{secrets.path("node.key")}), EINVAL) << "not 32 bytes";
  EXPECT_EQ(
      code(TlsSecurity{secrets.path("none"), secrets.path("node.pem"), secrets.path("node.key")}),
      EINVAL);
  EXPECT_EQ(
      code(TlsSecurity{secrets.path("ca.pem"), secrets.path("ca.pem"), secrets.path("node.key")}),
      EINVAL)
      << "a key of another certificate";
}

TEST(TcpSecurity, OnlyTlsSaysThatItEncrypts) {
  for (const bool is_tls : {false, true}) {
    TcpWorld world({}, is_tls ? Secrets::mine().tls() : Secrets::mine().key());
    Recorder served, asked;
    ASSERT_TRUE(world.listen([&](Endpoint&) { return &served; }));
    Endpoint* endpoint = world.client().connect(world.address(), asked).value_or(nullptr);
    ASSERT_TRUE(world.run_until([&] { return asked.ups == 1; }, kPatience));
    EXPECT_EQ((endpoint->capabilities() & kEncrypted) != 0, is_tls);
    EXPECT_EQ(endpoint->capabilities() & (kOneSidedReads | kNativeFlush | kDirectWrite), 0U);
  }
}

// --- Options ---

TEST(TcpOptions, WhatCannotWorkIsRefused) {
  for (const EngineOptions& options : options_that_cannot_work()) {
    const auto made = make_tcp_engine({.engine = options});
    ASSERT_FALSE(made.has_value());
    EXPECT_EQ(made.error().code, EINVAL) << made.error().message;
  }
  for (const EngineOptions& options : unusual_options()) {
    const auto made = make_tcp_engine({.engine = options});
    EXPECT_TRUE(made.has_value()) << made.error().message;
  }
}

// --- Keys ---

// The rank of rows of bits.
template <std::size_t kBits>
std::size_t rank_of(std::vector<std::bitset<kBits>> rows) {
  std::size_t rank = 0;
  for (std::size_t bit = 0; bit < kBits; ++bit) {
    const auto pivot = std::find_if(rows.begin() + static_cast<std::ptrdiff_t>(rank), rows.end(),
                                    [&](const auto& row) { return row[bit]; });
    if (pivot == rows.end()) continue;
    std::iter_swap(rows.begin() + static_cast<std::ptrdiff_t>(rank), pivot);
    for (std::size_t i = rank + 1; i < rows.size(); ++i)
      if (rows[i][bit]) rows[i] ^= rows[rank];
    ++rank;
  }
  return rank;
}

// A generator that is linear, as the Mersenne Twister is, gives bits that are sums of those of
// earlier numbers: its recurrence is over the numbers 0, 1, 156 and 312. Random ones are not.
TEST(TcpKeys, NoneCanBeGuessedFromOthers) {
  constexpr std::array<std::size_t, 4> kLags = {0, 1, 156, 312};
  constexpr std::size_t kRandomBits = 48, kBits = kLags.size() * kRandomBits, kRows = 2 * kBits;
  const auto engine = make_engine(NoSecurity{});
  std::vector<std::byte> memory(8);
  std::vector<std::uint64_t> keys;
  while (keys.size() < kRows + kLags.back()) {
    const auto region = engine->register_region(memory, kRemoteRead, nullptr);
    ASSERT_TRUE(region.has_value());
    keys.push_back(region->key >> (64 - kRandomBits));
  }
  std::vector<std::bitset<kBits>> rows(kRows);
  for (std::size_t i = 0; i < kRows; ++i)
    for (const std::size_t lag : kLags)
      rows[i] = rows[i] << kRandomBits | std::bitset<kBits>(keys[i + lag]);
  EXPECT_EQ(rank_of(std::move(rows)), kBits);
}

// An engine on a thread of its own.
class Runner {
 public:
  explicit Runner(Engine& engine)
      : thread_([this, &engine] {
          while (!stop_) EXPECT_TRUE(engine.wait(kNever).has_value());
          rusage usage{};
          ::getrusage(RUSAGE_THREAD, &usage);
        }),
        engine_(engine) {}
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  ~Runner() {
    stop_ = true;
    engine_.wake();
    thread_.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
  Engine& engine_;
};

TEST(TcpThreads, WakeAndSubmitFromManyThreads) {
  constexpr int kThreads = 4, kTasks = 2000;
  const auto engine = make_engine(NoSecurity{}, {.spin = std::chrono::microseconds(5)});
  std::atomic<int> ran = 0;
  {
    const Runner runner(*engine);
    std::vector<std::thread> threads;
    threads.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&] {
        for (int i = 0; i < kTasks; ++i) {
          while (!engine->submit([&] { ++ran; })) std::this_thread::yield();
          if (i % 16 == 0) engine->wake();
          if (i % 500 == 0) std::this_thread::sleep_for(milliseconds(1));
        }
      });
    for (std::thread& thread : threads) thread.join();
    for (int i = 0; i < 2000 && ran < kThreads * kTasks; ++i)
      std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(ran, kThreads * kTasks);
}

TEST(TcpThreads, ConcurrentEnginesMoveBytes) {
  const auto server = make_engine(Secrets::mine().key());
  const auto client = make_engine(Secrets::mine().key());
  LoadServer lender(*server, 1 << 20, true);
  const std::string address = lender.listen("127.0.0.1:0").value_or("");
  {
    const Runner runner(*server);
    LoadClient load(*client);
    ASSERT_TRUE(load.connect(address, kPatience));
    for (const Verb verb : {Verb::kRead, Verb::kWritePersist, Verb::kCas8, Verb::kSend}) {
      const auto report = load.run({.verb = verb,
                                    .bytes = 3000,
                                    .in_flight = 16,
                                    .warm_up = milliseconds(5),
                                    .duration = milliseconds(100)});
      ASSERT_TRUE(report.has_value()) << report.error().message;
      EXPECT_GT(report->operations, 0U);
    }
  }
}

struct Usage {
  Time processor;
  long sleeps;  // what it was made to wait for by others does not count
};
Usage thread_usage() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto time = [](const timeval& t) {
    return seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
  };
  return {time(usage.ru_utime) + time(usage.ru_stime), usage.ru_nvcsw};
}

TEST(TcpIdle, UsesNoProcessor) {
  const auto server = make_engine(NoSecurity{});
  Recorder served, asked;
  const auto address = server->listen("127.0.0.1:0", [&](Endpoint&) { return &served; });
  ASSERT_TRUE(address.has_value());
  std::atomic<bool> is_up = false;
  std::thread client_thread([&] {
    const auto client = make_engine(NoSecurity{});
    ASSERT_TRUE(client->connect(*address, asked));
    while (asked.ups == 0) ASSERT_TRUE(client->wait(kNever));
    is_up = true;
    const Time until = client->now() + seconds(3);
    while (client->now() < until) ASSERT_TRUE(client->wait(until));
  });
  while (!is_up) ASSERT_TRUE(server->wait(server->now() + milliseconds(10)));
  const Time settled = server->now() + milliseconds(100);
  while (server->now() < settled) ASSERT_TRUE(server->wait(settled));
  const Usage before = thread_usage();
  const Time until = server->now() + seconds(2);
  int waits = 0;
  for (; server->now() < until; ++waits) ASSERT_TRUE(server->wait(until));
  const Usage after = thread_usage();
  EXPECT_LE(after.sleeps - before.sleeps, 3);
  // Of 2 s: who spins takes all of them; a machine under load may charge us some of its own work.
  EXPECT_LE(after.processor - before.processor, milliseconds(40));
  EXPECT_LE(waits, 3);
  client_thread.join();
}

long resident_kib() {
  std::ifstream file("/proc/self/statm");
  long size = 0, pages = 0;
  file >> size >> pages;
  return pages * (::sysconf(_SC_PAGESIZE) / 1024);
}

#if defined(BTD_SANITIZE_address) || defined(BTD_SANITIZE_thread)
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif

class TcpThousand : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Tcp, TcpThousand, ::testing::Bool(),
                         [](const auto& one) { return one.param ? "Tls" : "Key"; });

TEST_P(TcpThousand, ConnectionsCostLittleMemory) {
  if (kIsSanitized) GTEST_SKIP() << "a sanitizer's memory is not the engine's";
  constexpr std::size_t kConnections = 1000;
  constexpr long kMostKib = 64;  // of one end, idle after it was used
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 2 * kConnections + 100) GTEST_SKIP() << "too few open files are allowed";
  TcpWorld world({.patience = {.connect = seconds(30)}},
                 GetParam() ? Secrets::mine().tls() : Secrets::mine().key());
  Recorder served, asked;
  ASSERT_TRUE(world.listen([&](Endpoint&) { return &served; }));
  std::vector<std::byte> memory(64 << 10), into(64 << 10);
  const auto region = world.server().register_region(memory, kRemoteRead, nullptr);
  const iovec local{.iov_base = into.data(), .iov_len = into.size()};
  const auto add = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      Endpoint* endpoint = world.client().connect(world.address(), asked).value_or(nullptr);
      ASSERT_NE(endpoint, nullptr);
      ASSERT_TRUE(endpoint->read({&local, 1}, {region->key, 0}, i, kNever));
    }
    const std::size_t all = asked.completions.size() + count;
    ASSERT_TRUE(world.run_until([&] { return asked.completions.size() == all; }, seconds(60)));
  };
  add(50);  // what the engines themselves need
  const long before = resident_kib();
  for (std::size_t i = 0; i < kConnections; i += 100) add(100);
  const long grown = resident_kib() - before;
  for (const Completion& completion : asked.completions) ASSERT_EQ(completion.error, 0);
  RecordProperty("kib_per_end", std::to_string(grown / static_cast<long>(2 * kConnections)));
  EXPECT_LE(grown / static_cast<long>(2 * kConnections), kMostKib);
  std::printf("%ld KiB for each end of a connection\n",
              grown / static_cast<long>(2 * kConnections));
}

}  // namespace
}  // namespace btd::net
