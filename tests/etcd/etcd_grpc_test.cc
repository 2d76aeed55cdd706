// The watch by gRPC: its bytes, and that it tells the same as the JSON gateway's.
#include <random>

#include "net/etcd/grpc.h"
#include "net/etcd/http2.h"
#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

using namespace std::string_literals;

constexpr std::uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6, kGoAway = 7,
                       kWindowUpdate = 8;

std::string frame(std::uint8_t type, std::uint8_t flags, std::uint8_t stream,
                  const std::string& payload) {
  std::string out;
  for (const unsigned shift : {16U, 8U, 0U}) out += static_cast<char>(payload.size() >> shift);
  out += static_cast<char>(type);
  out += static_cast<char>(flags);
  return out + "\0\0\0"s + static_cast<char>(stream) + payload;
}

const std::string kOk = "\x88";  // a header: the status 200

Http2Exchange exchange(std::string_view token = "secret") {
  return Http2Exchange({.scheme = "http",
                        .authority = "127.0.0.1:1",
                        .path = etcd_grpc::kWatchPath,
                        .token = token,
                        .body = "question"});
}

// The types of the frames, in their order.
std::string types_of(std::string_view bytes) {
  std::string types;
  while (bytes.size() >= 9) {
    std::size_t size = 0;
    for (const char c : bytes.substr(0, 3)) size = size << 8U | static_cast<unsigned char>(c);
    types += std::to_string(bytes[3]);
    bytes.remove_prefix(std::min(bytes.size(), 9 + size));
  }
  return types + (bytes.empty() ? "" : "?");
}

TEST(EtcdHttp2, ARequestIsAPrefaceAndFrames) {
  const std::string out = exchange().out;
  constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  ASSERT_TRUE(out.starts_with(kPreface));
  EXPECT_EQ(types_of(std::string_view(out).substr(kPreface.size())), "4810");
  EXPECT_GT(out.size(), exchange("").out.size());
  EXPECT_TRUE(out.ends_with("question"));
}

TEST(EtcdHttp2, AnAnswerMayComeInAnyPieces) {
  const std::string said = frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 1, kOk) +
                           frame(kData, 0, 1, "one ") + frame(kPing, 0, 0, "12345678") +
                           frame(kData, 8, 1, "\3two" + std::string(3, '\0'));
  for (std::size_t piece = 1; piece <= said.size(); ++piece) {
    Http2Exchange e = exchange();
    e.out.clear();
    for (std::size_t at = 0; at < said.size(); at += piece)
      ASSERT_TRUE(e.take(std::string_view(said).substr(at, piece)));
    EXPECT_EQ(e.body, "one two");
    EXPECT_EQ(types_of(e.out), "46");  // the settings and the ping are acknowledged
    EXPECT_TRUE(e.out.ends_with("12345678"));
    EXPECT_TRUE(e.is_greeted());
  }
}

TEST(EtcdHttp2, TheWindowIsGivenBack) {
  Http2Exchange e = exchange();
  ASSERT_TRUE(e.take(frame(kSettings, 0, 0, "") + frame(kHeaders, 4, 1, kOk)));
  e.out.clear();
  std::size_t given_back = 0;
  for (int i = 0; i < 10000; ++i) {
    ASSERT_TRUE(e.take(frame(kData, 0, 1, std::string(1 << 14, 'x'))));
    e.body.clear();
    if (e.out.empty()) continue;
    ++given_back;
    ASSERT_EQ(types_of(e.out).find_first_not_of('8'), std::string::npos);
    e.out.clear();
  }
  EXPECT_GT(given_back, 10000UL * (1 << 14) / (1 << 22));
}

TEST(EtcdHttp2, WhatEndsAnAnswer) {
  const std::string hello = frame(kSettings, 0, 0, "");
  for (const std::string& end :
       {frame(kHeaders, 5, 1, kOk), frame(kData, 1, 1, ""), frame(kReset, 0, 1, "1234"),
        frame(kGoAway, 0, 0, "12345678"), frame(kData, 8, 1, ""), frame(kData, 8, 1, "\5abc"),
        "\x01\x00\x00\x00\x00\x00\x00\x00\x01"s}) {
    Http2Exchange e = exchange();
    EXPECT_FALSE(e.take(hello + end));
    EXPECT_TRUE(e.is_greeted());
  }
  for (const std::string& other : {"HTTP/1.1 400 Bad Request\r\n\r\n"s, frame(kData, 0, 1, "x"),
                                   frame(kWindowUpdate, 0, 0, "1234")}) {
    Http2Exchange e = exchange();
    EXPECT_FALSE(e.take(other));
    EXPECT_FALSE(e.is_greeted());
  }
}

// As etcd 3.4 sent it: a put of p/k, and the erasure of p/l.
const std::string kMessage =
    "\x0a\x08\x08\x07\x10\x03\x18\x09\x20\x02\x5a\x14\x12\x12\x0a\x03p/k\x10\x08\x18\x09\x20\x02"
    "\x2a\x05value\x5a\x0b\x08\x01\x12\x07\x0a\x03p/l\x18\x09"s;

TEST(EtcdGrpc, EventsAreRead) {
  const auto message = etcd_grpc::parse_watch(kMessage, "p/");
  ASSERT_TRUE(message) << message.error().message;
  EXPECT_EQ(message->cluster, 7U);
  EXPECT_EQ(message->revision, 9);
  ASSERT_EQ(message->events.size(), 2U);
  const EtcdRow& put = message->events[0];
  EXPECT_EQ(put.key, "k");
  EXPECT_EQ(put.value, "value");
  EXPECT_EQ(put.created, 8);
  EXPECT_EQ(put.modified, 9);
  EXPECT_EQ(put.version, 2);
  EXPECT_EQ(message->events[1].key, "l");
  EXPECT_EQ(message->events[1].value, std::nullopt);
}

TEST(EtcdGrpc, WhatIsCutOrWrongIsAnError) {
  EXPECT_FALSE(etcd_grpc::parse_watch(kMessage, "q/"));
  for (const std::string& bad :
       {"\x0a"s, "\x0a\x05x"s, "\x5a\x00"s, "\x5a\x02\x08\x00"s, "\x07"s, "\x00"s, "\x18"s,
        "\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s, "\x5a\x04\x08\x02\x12\x00"s,
        "\x0d\x01\x02"s})
    EXPECT_FALSE(etcd_grpc::parse_watch(bad, "")) << ::testing::PrintToString(bad);
  EXPECT_FALSE(etcd_grpc::message_bytes("\1\0\0\0\1"s));
  EXPECT_EQ(etcd_grpc::message_bytes("\0\0\1\0\2"s).value_or(0), 65538U);
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = kMessage;
    for (int j = 0; j < 3; ++j) damaged[random() % damaged.size()] = static_cast<char>(random());
    (void)etcd_grpc::parse_watch(damaged, "p/");
    Http2Exchange e = exchange();
    (void)e.take(frame(kSettings, 0, 0, "") + damaged);
  }
}

TEST(EtcdGrpc, BothWatchesTellTheSame) {
  EtcdServer server;
  EtcdOptions gateway = server.options();
  gateway.watch_by_grpc = false;
  const auto a = open_store(server.options());
  const auto b = open_store(gateway);
  for (int i = 0; i < 200; ++i) {
    Batch batch;
    batch.put("k" + std::to_string(i % 17), std::string(static_cast<std::size_t>(i) * 40, 'v'));
    batch.put(std::string("\0\xff", 2), std::to_string(i));
    batch.erase("k" + std::to_string((i + 5) % 17));
    ASSERT_TRUE((i % 2 == 0 ? a : b)->commit(batch));
  }
  EXPECT_TRUE(eventually([&] { return dump(*a) == dump(*b); }));
  EXPECT_EQ(dump(*a), server.rows());
  for (const auto* store : {&a, &b}) {
    const EtcdHealth h = (*store)->health();
    EXPECT_EQ(h.loads, 1U);
    EXPECT_EQ(h.streams, 1U);
  }
}

}  // namespace
}  // namespace btd::net::testing
