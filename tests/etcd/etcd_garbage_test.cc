// A server that answers anything at all: errors in time, nothing else.
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "net/etcd/base64.h"
#include "tests/etcd/proxy.h"
#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

constexpr std::string_view kTxn =
    R"({"header":{"revision":"5","cluster_id":"7"},"succeeded":true})";
constexpr std::string_view kRange = R"({"header":{"revision":"5","cluster_id":"7"}})";
constexpr std::string_view kCreated =
    R"({"result":{"header":{"revision":"5","cluster_id":"7"},"created":true}})"
    "\n";

// Answers each path with what it is told; the watch's answer has no end.
class FakeServer {
 public:
  std::string txn{kTxn}, range{kRange}, watch{kCreated};
  std::string status = "200 OK";
  bool endless = false;  // every answer goes on for ever
  std::atomic<int> watches{0};

  [[nodiscard]] EtcdOptions options() const {
    EtcdOptions o;
    o.endpoints = {listener_.url()};
    o.open_timeout = o.commit_timeout = o.request_timeout = std::chrono::milliseconds(300);
    o.lag_limit = std::chrono::milliseconds(50);
    o.max_answer = std::size_t{1} << 20U;
    return o;
  }

 private:
  void serve(UniqueFd fd) {
    std::string buffer;
    std::array<char, 65536> bytes;
    for (;;) {
      const ssize_t n = recv(fd.get(), bytes.data(), bytes.size(), 0);
      if (n <= 0) return;
      buffer.append(bytes.data(), static_cast<std::size_t>(n));
      while (const std::size_t size = whole_request(buffer)) {
        if (!answer(fd.get(), std::string_view(buffer).substr(0, size))) return;
        buffer.erase(0, size);
      }
    }
  }
  bool answer(int fd, std::string_view request) {
    const bool watching = request.starts_with("POST /v3/watch");
    watches += watching;
    const std::string& body = watching                                   ? watch
                              : request.starts_with("POST /v3/kv/range") ? range
                                                                         : txn;
    const bool open = watching || endless;
    if (!send_all(fd, "HTTP/1.1 " + status + "\r\n" +
                          (open ? "" : "Content-Length: " + std::to_string(body.size()) + "\r\n") +
                          "\r\n" + body))
      return false;
    if (!endless) return true;
    const std::string more(65536, '[');
    while (send_all(fd, more)) {
    }
    return false;
  }
  Listener listener_{[this](UniqueFd fd) { serve(std::move(fd)); }};
};

const std::vector<std::string> kGarbage = {
    "",
    "{",
    "null",
    "[]",
    "\"",
    "{}",
    "\xff\xfe",
    std::string(100000, '['),
    R"({"header":7})",
    R"({"header":{"revision":"5x"}})",
    R"({"header":{"revision":[]}})",
    R"({"header":{"revision":"99999999999999999999"}})",
    R"({"header":{"revision":-5}})",
    R"({"header":{"revision":"5"},"kvs":7})",
    R"({"header":{"revision":"5"},"kvs":[7]})",
    R"({"header":{"revision":"5"},"kvs":[{"key":"***"}]})",
    R"({"header":{"revision":"5"},"kvs":[{"key":"YQ=="}],"more":"yes"})",
    R"({"header":{"revision":"5"},"succeeded":7,"responses":{}})",
    R"({"header":{"revision":"5"},"responses":[{},{},{}]})",
    R"({"result":{"events":[{"kv":7}]}})",
    R"({"result":{"events":[{"kv":{"key":"YQ=="},"type":9}]}})"};

TEST(EtcdGarbage, OpenFailsInTimeWhateverTheRowsAre) {
  for (const std::string& body : kGarbage) {
    FakeServer server;
    server.range = body;
    const auto begin = EtcdClock::now();
    EXPECT_FALSE(EtcdStore::open(server.options())) << body.substr(0, 80);
    EXPECT_LT(EtcdClock::now() - begin, std::chrono::seconds(2));
  }
}

TEST(EtcdGarbage, CommitsAreInDoubtWhateverTheirAnswerIs) {
  for (const std::string& body : kGarbage) {
    FakeServer server;
    const auto store = open_store(server.options());
    server.txn = body;
    Batch b;
    b.put("x", "1");
    const Status s = store->commit(b);
    ASSERT_FALSE(s) << body.substr(0, 80);
    EXPECT_EQ(s.error().code, EIO) << s.error().message;
    EXPECT_EQ(*store->get("x"), std::nullopt);
  }
}

TEST(EtcdGarbage, TheWatchGoesOnWhateverItIsTold) {
  for (const std::string& body : kGarbage) {
    FakeServer server;
    server.watch = std::string(kCreated) + body + "\n";
    const auto store = open_store(server.options());
    EXPECT_TRUE(eventually([&] { return server.watches > 2; })) << body.substr(0, 80);
    EXPECT_TRUE(dump(*store).empty());
  }
}

// The second change of a row of which the first never came.
TEST(EtcdGarbage, AMissingEventIsNoticed) {
  FakeServer server;
  std::string event;
  append_base64(event, "/bartender/k/x");
  server.watch +=
      R"({"result":{"header":{"revision":"7","cluster_id":"7"},"events":[{"kv":{"key":")" + event +
      R"(","create_revision":"6","mod_revision":"7","version":"2"}}]}})"
      "\n";
  const auto store = open_store(server.options());
  EXPECT_TRUE(eventually([&] { return store->health().loads > 1; }));
  EXPECT_EQ(*store->get("x"), std::nullopt);
}

TEST(EtcdGarbage, RefusalsOfEveryStatusAreErrors) {
  for (const char* status : {"400 Bad", "401 No", "404 Not Found", "500 Oops", "503 Later"}) {
    for (const std::string& body : kGarbage) {
      FakeServer server;
      server.status = status;
      server.txn = body;
      EtcdOptions o = server.options();
      o.open_timeout = std::chrono::milliseconds(20);
      EXPECT_FALSE(EtcdStore::open(o));
    }
  }
}

#ifdef BTD_SANITIZE_address
constexpr long kMostMemory = 512 << 10;  // KiB; what is freed stays in quarantine, 256 MiB of it
#else
constexpr long kMostMemory = 64 << 10;
#endif

TEST(EtcdGarbage, EndlessAnswersTakeBoundedMemory) {
  FakeServer server;
  const auto store = open_store(server.options());
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  server.endless = true;
  for (int i = 0; i < 3; ++i) {
    Batch b;
    b.put("x", "1");
    EXPECT_FALSE(store->commit(b));
    EXPECT_FALSE(EtcdStore::open(server.options()));
  }
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, kMostMemory) << "KiB";
}

TEST(EtcdBase64, WhatIsWrittenIsRead) {
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 70, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    std::string text;
    append_base64(text, bytes);
    ASSERT_EQ(decode_base64(text), bytes);
  }
  for (const char* bad : {"A", "AA", "AAA", "A===", "AB==", "AA=A", "====", "AAA\n", "AA-_"})
    EXPECT_EQ(decode_base64(bad), std::nullopt) << bad;
}

}  // namespace
}  // namespace btd::net::testing
