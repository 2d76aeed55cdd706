// Who may speak on the port, and what bad peers can do: nothing to others, nothing to memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "net/tcp/handshake.h"
#include "net/tcp/key_guard.h"
#include "tests/net/tcp_port.h"

namespace btd::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time kPatience = kPortPatience;
constexpr std::size_t kRegionBytes = kPortRegionBytes;
class Secured : public ::testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] static Security security() {
    const std::string name = GetParam();
    if (name == "Key") return Secrets::mine().key();
    return name == "Tls" ? Secrets::mine().tls() : Security(NoSecurity{});
  }
};
INSTANTIATE_TEST_SUITE_P(Tcp, Secured, ::testing::Values("Plain", "Key", "Tls"),
                         [](const auto& one) { return std::string(one.param); });

TEST_P(Secured, RandomBytesAreThrownOut) {
  Port port({.security = security()}, {.connect = milliseconds(500)});
  std::mt19937 random(1);
  auto peers = strangers(port, 100);
  for (RawPeer& peer : peers) {
    std::vector<std::byte> bytes(random() % 5000);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    peer.say(bytes);
  }
  port.expect_service();
  port.expect_closed(peers);
  EXPECT_EQ(port.accepted, 1);
  port.expect_service();
}

TEST_P(Secured, TheSilentAndTheSlowHoldNobodyUpAndLearnNothing) {
  Port port({.security = security()}, {.connect = milliseconds(500)});
  auto peers = strangers(port, 60);
  // The first bytes of what is right, so that each byte gives hope: one at a time.
  const auto first = std::string(GetParam()) == "Key" ? joined(bytes_of(key_wire::Challenge{}), {})
                                                      : joined(bytes_of(hello(5)), {});
  const Time until = port.world.client().now() + milliseconds(300);
  for (std::size_t at = 0; at < first.size() - 1 && port.world.client().now() < until; ++at) {
    for (std::size_t i = 0; i < peers.size(); i += 2) {
      peers[i].say(std::span{first}.subspan(at, 1));
      EXPECT_TRUE(peers[i].hear().empty());
    }
    port.expect_service();
  }
  port.expect_closed(peers);
  EXPECT_EQ(port.accepted, 1);
  port.expect_service();
}

TEST_P(Secured, AFloodOfStrangersDisplacesStrangersOnly) {
  Port port({.security = security()});
  auto peers = strangers(port, 1500);  // more than TcpOptions::max_handshakes
  port.run(milliseconds(100));
  EXPECT_TRUE(peers.front().is_closed()) << "the oldest had to go";
  EXPECT_FALSE(peers.back().is_closed());
  port.expect_service();
  Recorder late;
  ASSERT_TRUE(port.world.client().connect(port.world.address(), late));
  EXPECT_TRUE(port.world.run_until([&] { return late.ups == 1; }, kPatience));
}

struct Pairing {
  const char* name;
  Security (*server)();
  Security (*client)();
  friend void PrintTo(const Pairing& pairing, std::ostream* out) { *out << pairing.name; }
};
Security none() { return NoSecurity{}; }
Security my_key() { return Secrets::mine().key(); }
Security other_key() { return Secrets::others().key(); }
Security my_tls() { return Secrets::mine().tls(); }
Security other_tls() { return Secrets::others().tls(); }
// My authority is trusted, and the other one's certificate shown.
Security false_tls() {
  return TlsSecurity{Secrets::mine().path("ca.pem"), Secrets::others().path("node.pem"),
                     Secrets::others().path("node.key")};
}

class Unequal : public ::testing::TestWithParam<Pairing> {};
INSTANTIATE_TEST_SUITE_P(
    Tcp, Unequal,
    ::testing::Values(Pairing{"NoneToKey", my_key, none}, Pairing{"NoneToTls", my_tls, none},
                      Pairing{"KeyToNone", none, my_key}, Pairing{"TlsToNone", none, my_tls},
                      Pairing{"KeyToTls", my_tls, my_key}, Pairing{"TlsToKey", my_key, my_tls},
                      Pairing{"OtherKey", my_key, other_key},
                      Pairing{"OtherTls", my_tls, other_tls},
                      Pairing{"FalseTls", my_tls, false_tls}),
    [](const auto& one) { return std::string(one.param.name); });

TEST_P(Unequal, IsNeverAccepted) {
  Port port({.security = GetParam().server()}, {.connect = milliseconds(700)});
  const auto intruder = make_engine(GetParam().client(),
                                    {.patience = {.connect = milliseconds(700)}, .spin = Time{}});
  Recorder refused;
  auto connected = intruder->connect(port.world.address(), refused);
  ASSERT_TRUE(connected.has_value());
  EXPECT_TRUE(port.world.run_until(
      [&] {
        EXPECT_TRUE(intruder->poll().has_value());
        return refused.closes == 1;
      },
      kPatience));
  EXPECT_EQ(refused.ups, 0);
  EXPECT_EQ(port.accepted, 1) << "only the honest client may have come so far";
  EXPECT_FALSE(refused.last.message.empty());
  RecordProperty("sentence", refused.last.message);
  port.expect_service();
}

// However the engine moves the bytes.
struct Way {
  const char* name;
  TcpOptions (*tcp)();
  friend void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }
};
TcpOptions as_it_is() { return {}; }
TcpOptions zero_copies() { return all_zero_copy(); }

class Moved : public ::testing::TestWithParam<Way> {
 protected:
  static TcpOptions tcp() { return GetParam().tcp(); }
};
INSTANTIATE_TEST_SUITE_P(TcpHostile, Moved,
                         ::testing::Values(Way{"AsItIs", as_it_is},
                                           Way{"SingleShots", single_shots},
                                           Way{"Multishots", [] { return multishots(); }},
                                           Way{"ZeroCopies", zero_copies}),
                         [](const auto& one) { return std::string(one.param.name); });

TEST_P(Moved, LengthsThatWereNotGrantedEndTheConnection) {
  Port port(tcp());
  for (const Verb verb :
       {Verb::kRead, Verb::kWritePersist, Verb::kSend, Verb::kCas8, Verb::kNone}) {
    wire::RequestHeader request;
    request.verb = static_cast<std::uint8_t>(verb);
    request.length = UINT32_MAX;
    request.key = port.region.key;
    std::vector<RawPeer> peers = strangers(port, 1);
    peers[0].say(joined(bytes_of(hello(100 + request.verb)), bytes_of(wire::sealed(request))));
    port.expect_closed(peers);
  }
  EXPECT_EQ(port.memory, std::vector<std::byte>(kRegionBytes, std::byte{7}));
  port.expect_service();
}

TEST_P(Moved, CutAtEveryByteOfHandshakeAndRequests) {
  Port port(tcp());
  wire::RequestHeader request;
  request.verb = static_cast<std::uint8_t>(Verb::kWritePersist);
  request.length = 100;
  request.key = port.region.key;
  request.offset = 4096;
  const std::vector<std::byte> payload(request.length, std::byte{9});
  const std::size_t whole = sizeof(wire::Hello) + sizeof(request) + payload.size();
  for (std::size_t cut = 0; cut <= whole; ++cut) {
    auto all = joined(bytes_of(hello(1000 + cut)), bytes_of(wire::sealed(request)));
    all = joined(all, payload);
    RawPeer peer(port.world.address());
    peer.say(std::span{all}.first(cut));
    if (cut % 8 == 0) port.run(milliseconds(1));
    if (cut == whole) port.run(milliseconds(20));
    if (cut % 2 == 1) peer.reset();
    if (cut % 16 == 0) port.expect_service();
  }
  port.expect_service();
  EXPECT_EQ(port.memory[4096 + 99], std::byte{9}) << "the whole one took effect";
  EXPECT_EQ(port.memory[4096 + 100], std::byte{7});
}

TEST_P(Moved, CutWithinAPayloadThatGoesStraightIntoPlace) {
  Port port(tcp());
  wire::RequestHeader request;
  request.verb = static_cast<std::uint8_t>(Verb::kWritePersist);
  request.length = 512 << 10;
  request.key = port.region.key;
  request.offset = 64 << 10;
  const std::vector<std::byte> payload(request.length, std::byte{9});
  for (std::size_t i = 0; i < 20; ++i) {
    auto all = joined(bytes_of(hello(5000 + i)), bytes_of(wire::sealed(request)));
    all = joined(all, std::span{payload}.first(i * 20'000));
    RawPeer peer(port.world.address());
    peer.say(all);
    port.run(milliseconds(2));
    if (i % 2 == 0) peer.reset();
  }
  port.run(milliseconds(50));
  port.expect_service();
  // Nothing holds the region, so no receive into it can be under way.
  EXPECT_TRUE(port.world.run_until(
      [&] { return port.world.server().deregister_region(port.region.key).has_value(); },
      kPatience));
}

// --- Transfers that stall ---

wire::RequestHeader long_write(const Port& port) {
  return port.request(Verb::kWritePersist, 512 << 10);
}

TEST_P(Moved, AClosingRegionDoesNotWaitForWhoStallsInATransfer) {
  for (const std::size_t part : {1'000, 200'000}) {  // by way of a buffer, and straight into place
    Port port(tcp(), {.silence = milliseconds(300)});
    RawPeer peer(port.world.address());
    const std::vector<std::byte> payload(part, std::byte{9});
    peer.say(joined(joined(bytes_of(hello(1)), bytes_of(long_write(port))), payload));
    ASSERT_TRUE(port.world.run_until([&] { return port.memory[999] == std::byte{9}; }, kPatience));
    port.run(milliseconds(5));
    EXPECT_TRUE(port.world.run_until(
        [&] { return port.world.server().deregister_region(port.region.key).has_value(); },
        seconds(5)));
  }
}

// Its bytes are in the socket, and the kernel may be about to put them into place.
TEST_P(Moved, NoByteOfAnOlderEpochLands) {
  for (const std::size_t part : {1'000, 200'000}) {
    Port port(tcp());
    RawPeer peer(port.world.address());
    const std::vector<std::byte> payload(512 << 10, std::byte{9});
    peer.say(joined(joined(bytes_of(hello(1)), bytes_of(long_write(port))),
                    std::span{payload}.first(part)));
    ASSERT_TRUE(
        port.world.run_until([&] { return port.memory[part - 1] == std::byte{9}; }, kPatience));
    port.run(milliseconds(5));
    peer.say(std::span{payload}.subspan(part, 50'000));
    port.world.server().set_epoch(1);
    const std::vector<std::byte> then = port.memory;
    std::vector<std::byte> heard;
    std::size_t said = part + 50'000;
    ASSERT_TRUE(port.world.run_until(
        [&] {
          const std::size_t n = std::min<std::size_t>(payload.size() - said, 50'000);
          if (n > 0) peer.say(std::span{payload}.subspan(said, n));
          said += n;
          heard = joined(heard, peer.hear());
          return heard.size() >= sizeof(wire::Hello) + sizeof(wire::ResponseHeader);
        },
        kPatience));
    EXPECT_EQ(port.memory, then) << part;
    wire::ResponseHeader answer;
    std::memcpy(&answer, heard.data() + sizeof(wire::Hello), sizeof(answer));
    EXPECT_EQ(answer.error, ESTALE);
    EXPECT_EQ(answer.value, 1U);
    EXPECT_EQ(port.served.downs, 0) << "it is said, and costs no connection";
  }
}

TEST_P(Moved, WhoAsksAndNeverReadsIsNotServedOnAndHoldsNobodyUp) {
  Port port(tcp());
  std::vector<RawPeer> peers = strangers(port, 8);
  std::uint64_t session = 7000;
  for (RawPeer& peer : peers) {
    peer.say(bytes_of(hello(session++)));
    for (std::uint64_t seq = 0; seq < 200; ++seq) {
      wire::RequestHeader request;
      request.verb = static_cast<std::uint8_t>(Verb::kRead);
      request.length = kRegionBytes;
      request.key = port.region.key;
      request.seq = seq;
      peer.say(bytes_of(wire::sealed(request)));
    }
  }
  port.run(milliseconds(100));
  for (int i = 0; i < 20; ++i) port.expect_service();
}

// --- The key's challenge, without sockets ---

std::unique_ptr<Guard> guard(Side side, const Secrets& secrets = Secrets::mine()) {
  static const GuardMaker mine = *make_guards(Secrets::mine().key());
  static const GuardMaker others = *make_guards(Secrets::others().key());
  return *(&secrets == &Secrets::mine() ? mine : others)(side);
}

TEST(TcpKey, ReplayedHandshakesProveNothing) {
  const auto client = guard(Side::kConnecting), server = guard(Side::kAccepting);
  Bytes said, answer, proof, plain, last;
  ASSERT_TRUE(client->begin(said));
  ASSERT_TRUE(server->take(said, plain, answer));
  ASSERT_TRUE(client->take(answer, plain, proof));
  ASSERT_TRUE(server->take(proof, plain, last));
  EXPECT_TRUE(server->is_open());
  ASSERT_TRUE(client->take(last, plain, answer));
  EXPECT_TRUE(client->is_open());
  const auto again = guard(Side::kAccepting);
  Bytes ignored, nothing;
  ASSERT_TRUE(again->take(said, plain, ignored));
  EXPECT_FALSE(again->take(proof, plain, nothing));
  EXPECT_FALSE(again->is_open());
  EXPECT_TRUE(nothing.empty()) << "the accepting side proved itself to a stranger";
}

TEST(TcpKey, OneSidesWordsAreNeverTheOthers) {
  // A man in the middle hands the server's challenge to another server, to have it prove for him.
  const auto server = guard(Side::kAccepting), other = guard(Side::kAccepting);
  Bytes challenge, plain, answer;
  ASSERT_TRUE(server->take(bytes_of(key_wire::Challenge{}), plain, challenge));
  EXPECT_FALSE(other->take(challenge, plain, answer));
  EXPECT_TRUE(answer.empty());
}

TEST(TcpKey, AnotherKeyOpensNothing) {
  const auto client = guard(Side::kConnecting, Secrets::others()), server = guard(Side::kAccepting);
  Bytes said, answer, proof, plain, last;
  ASSERT_TRUE(client->begin(said));
  ASSERT_TRUE(server->take(said, plain, answer));
  ASSERT_TRUE(client->take(answer, plain, proof));
  auto taken = server->take(proof, plain, last);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, EKEYREJECTED);
  EXPECT_TRUE(last.empty());
}

TEST(TcpKey, WorksCutAnywhere) {
  for (std::size_t piece = 1; piece < 45; ++piece) {
    Handshake client(Side::kConnecting, guard(Side::kConnecting));
    Handshake server(Side::kAccepting, guard(Side::kAccepting));
    ASSERT_TRUE(client.begin(hello(1)));
    for (int turn = 0; turn < 4 && !server.heard(); ++turn) {
      for (auto [from, to] : {std::pair{&client, &server}, std::pair{&server, &client}}) {
        const Bytes bytes = std::exchange(from->output(), {});
        for (std::size_t at = 0; at < bytes.size(); at += piece)
          ASSERT_TRUE(to->take(std::span{bytes}.subspan(at, std::min(piece, bytes.size() - at))));
      }
    }
    ASSERT_TRUE(server.heard().has_value()) << piece;
    EXPECT_EQ(std::get<wire::Hello>(*server.heard()).session.high, 1U);
  }
}

TEST(TcpHandshake, IsBounded) {
  static const GuardMaker tls = *make_guards(Secrets::mine().tls());
  Handshake server(Side::kAccepting, *tls(Side::kAccepting));
  const std::vector<std::byte> zeros(1000);
  std::size_t taken = 0;
  while (server.take(zeros) && taken < 2 * Handshake::kMostBytes) taken += zeros.size();
  EXPECT_LE(taken, Handshake::kMostBytes);
}

}  // namespace
}  // namespace btd::net
