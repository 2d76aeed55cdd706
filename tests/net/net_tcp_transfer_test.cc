// How the tcp engine moves bytes: sends without a copy, whose memory is the kernel's until it says
// otherwise, and receives that last.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/net/tcp_port.h"

namespace btd::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kLong = 512 << 10;
// Less than kLong: the rest waits in the server's socket.
constexpr int kLittle = 8 << 10;

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

// Asks the honest client's server `count` times, one after the other.
void transfer(Port& port, Verb verb, std::size_t bytes, int count) {
  std::vector<std::byte> mine(bytes, std::byte{7});
  const iovec local{.iov_base = mine.data(), .iov_len = mine.size()};
  for (int i = 0; i < count; ++i) {
    const std::size_t before = port.asked.completions.size();
    ASSERT_TRUE(verb == Verb::kRead
                    ? port.endpoint->read({&local, 1}, {port.region.key, 0}, 1, kNever)
                    : port.endpoint->write_persist({&local, 1}, {port.region.key, 0}, 1, kNever));
    ASSERT_TRUE(port.world.run_until([&] { return port.asked.completions.size() > before; },
                                     kPortPatience));
    ASSERT_EQ(port.asked.completions.back().error, 0);
    ASSERT_TRUE(std::ranges::all_of(mine, [](std::byte b) { return b == std::byte{7}; }));
  }
}

// --- Sends without a copy ---

TEST(TcpZeroCopy, IsGivenUpWhereTheKernelCopies) {
  TcpCounts counts;
  Port port({.counts = &counts});
  transfer(port, Verb::kWritePersist, kLong, 20);
  transfer(port, Verb::kRead, kLong, 20);
  port.run(milliseconds(5));
  const std::uint64_t sends = counts.zero_copy_sends;
  EXPECT_GT(sends, 0U);
  EXPECT_EQ(counts.zero_copies_copied, sends) << "loopback has become able to do without";
  transfer(port, Verb::kWritePersist, kLong, 20);
  transfer(port, Verb::kRead, kLong, 20);
  EXPECT_EQ(counts.zero_copy_sends, sends);
}

TEST(TcpZeroCopy, IsForLongPayloadsInTheClear) {
  TcpCounts counts;
  {
    Port port({.is_zero_copy_forced = true, .counts = &counts});
    transfer(port, Verb::kWritePersist, 4096, 20);
    transfer(port, Verb::kRead, 4096, 20);
    EXPECT_EQ(counts.zero_copy_sends, 0U);
    transfer(port, Verb::kWritePersist, kLong, 20);
    EXPECT_GE(counts.zero_copy_sends, 20U);
  }
  counts = {};
  Port encrypted({.security = Secrets::mine().tls(),
                  .zero_copy_bytes = 1,
                  .is_zero_copy_forced = true,
                  .counts = &counts});
  transfer(encrypted, Verb::kWritePersist, kLong, 20);
  EXPECT_EQ(counts.zero_copy_sends, 0U);
  counts = {};
  Port none({.zero_copy_bytes = UINT32_MAX, .is_zero_copy_forced = true, .counts = &counts});
  transfer(none, Verb::kWritePersist, kLong, 20);
  EXPECT_EQ(counts.zero_copy_sends, 0U);
}

// Who asks for bytes of the region and takes few of them.
class Taker {
 public:
  explicit Taker(Port& port) : port_(port), peer(port.world.address(), kLittle) {}

  void ask(std::uint64_t reads = 1) {
    peer.say(bytes_of(hello(1)));
    for (std::uint64_t seq = 0; seq < reads; ++seq)
      peer.say(bytes_of(port_.request(Verb::kRead, kLong, seq)));
    port_.run(milliseconds(30));  // all of it is the kernel's now
  }

 private:
  Port& port_;

 public:
  RawPeer peer;
};

TEST(TcpZeroCopy, ARegionIsHeldUntilThePeerHasItsBytes) {
  TcpCounts counts;
  Port port(all_zero_copy(&counts));
  Taker taker(port);
  taker.ask();
  EXPECT_GE(counts.zero_copy_sends, 1U);
  std::vector<std::byte> heard;
  bool is_closed = false;
  const std::size_t all = sizeof(wire::Hello) + sizeof(wire::ResponseHeader) + kLong;
  ASSERT_TRUE(port.world.run_until(
      [&] {
        if (!is_closed && port.world.server().deregister_region(port.region.key)) {
          is_closed = true;
          EXPECT_GT(heard.size(), kLong / 2) << "the kernel still refers to what was not sent";
          std::ranges::fill(port.memory, std::byte{0xEE});  // the caller's again
        }
        append(heard, taker.peer.hear());
        return heard.size() >= all;
      },
      kPortPatience));
  EXPECT_EQ(std::ranges::count(std::span{heard}.last(kLong), std::byte{7}), kLong);
  EXPECT_TRUE(is_closed || port.can_deregister());
  EXPECT_EQ(port.served.downs, 0);
}

// Beside the test above: what was copied holds nothing.
TEST(TcpZeroCopy, WithoutItTheKernelsCopyHoldsNoRegion) {
  Port port({.zero_copy_bytes = UINT32_MAX});
  Taker taker(port);
  taker.ask();
  EXPECT_TRUE(port.world.server().deregister_region(port.region.key));
}

TEST(TcpZeroCopy, AClosingRegionDoesNotWaitForWhoTakesNothing) {
  TcpCounts counts;
  Port port(all_zero_copy(&counts), {.silence = milliseconds(300)});
  Taker taker(port);
  taker.ask(3);
  EXPECT_GE(counts.zero_copy_sends, 1U);
  EXPECT_FALSE(port.world.server().deregister_region(port.region.key));
  EXPECT_TRUE(port.can_deregister());
}

TEST(TcpZeroCopy, WhoIsKilledWithinASendLeavesNothingBehind) {
  for (const std::uint64_t reads : {1, 2, 3, 8}) {
    TcpCounts counts;
    Port port(all_zero_copy(&counts));
    Taker taker(port);
    taker.ask(reads);
    EXPECT_GE(counts.zero_copy_sends, 1U);
    taker.peer.reset();
    EXPECT_TRUE(port.world.run_until([&] { return port.served.downs == 1; }, seconds(1)));
    port.expect_service();
    EXPECT_TRUE(port.can_deregister());
  }
}

TEST(TcpZeroCopy, NobodyWaitsForAPeerThatTakesNothing) {
  for (const bool is_destroyed : {false, true}) {
    TcpCounts counts;
    Port port(all_zero_copy(&counts));
    Taker taker(port);
    taker.ask(3);
    EXPECT_GE(counts.zero_copy_sends, 1U);
    const Time before = port.world.client().now();
    if (is_destroyed) {
      port.world.kill_server();
    } else {
      ASSERT_EQ(port.served.endpoints.size(), 2U);
      port.served.endpoints.back()->close();
      EXPECT_TRUE(port.world.run_until([&] { return port.served.closes == 1; }, seconds(5)));
      EXPECT_TRUE(port.world.server().deregister_region(port.region.key));
    }
    EXPECT_LT(port.world.client().now() - before, seconds(1));
  }
}

// --- Receives that last ---

TEST(TcpMultishot, LastsWhileFramesAreSmall) {
  TcpCounts counts;
  Port port({.counts = &counts});
  transfer(port, Verb::kRead, 64, 4);
  EXPECT_EQ(counts.multishot_receives, 0U) << "it has to show first that it is worth it";
  transfer(port, Verb::kRead, 64, 200);
  EXPECT_EQ(counts.multishot_receives, 2U) << "one of each side";
}

TEST(TcpMultishot, EndsForLongPayloads) {
  TcpCounts counts;
  Port port({.multishot_after = 0, .counts = &counts});
  for (int i = 0; i < 20; ++i) {
    port.memory.assign(port.memory.size(), std::byte{0});
    transfer(port, Verb::kWritePersist, kLong, 1);
    ASSERT_EQ(std::ranges::count(port.memory, std::byte{7}), kLong);
    transfer(port, Verb::kRead, 64, 1);
  }
  EXPECT_GE(counts.multishot_receives, 20U) << "the server's ended for each";
  // One that has to show itself anew is single after a long payload.
  counts = {};
  Port usual({.counts = &counts});
  transfer(usual, Verb::kRead, 64, 50);
  for (int i = 0; i < 20; ++i) transfer(usual, Verb::kWritePersist, kLong, 1);
  EXPECT_LE(counts.multishot_receives, 3U);
}

TEST(TcpMultishot, WhoAsksAndNeverReadsIsNotServedOn) {
  constexpr std::size_t kMost = 64 << 20;  // more than sockets and buffers hold
  TcpCounts counts;
  Port port({.multishot_after = 0, .counts = &counts});
  RawPeer peer(port.world.address(), kLittle);
  peer.say(bytes_of(hello(1)));
  port.run(milliseconds(5));
  std::vector<std::byte> asked;
  std::size_t at = 0, said = 0;
  std::uint64_t seq = 0;
  for (int idle = 0; idle < 20 && said < kMost;) {
    if (at == asked.size()) {
      asked.clear();
      at = 0;
      for (int i = 0; i < 5000; ++i)
        append(asked, bytes_of(port.request(Verb::kRead, kLong, seq++)));
    }
    const std::size_t n = peer.say_some(std::span{asked}.subspan(at));
    at += n;
    said += n;
    idle = n == 0 ? idle + 1 : 0;
    port.run(milliseconds(1));
  }
  EXPECT_LT(said, kMost);
  EXPECT_GT(peer.unsent(), 0) << "the server read on";
  EXPECT_GE(counts.multishot_receives, 1U);
  port.expect_service();
}

// More bytes at once than the ring has buffers for: who finds none is served all the same.
TEST(TcpMultishot, AFloodThatTakesAllBuffersHoldsNobodyUp) {
  constexpr std::size_t kPeers = 60, kMessages = 100, kMessageBytes = 1000;
  TcpCounts counts;
  Port port({.multishot_after = 0, .counts = &counts});
  std::vector<RawPeer> peers = strangers(port, kPeers);
  for (std::size_t i = 0; i < kPeers; ++i) peers[i].say(bytes_of(hello(100 + i)));
  ASSERT_TRUE(port.world.run_until([&] { return port.accepted == kPeers + 1; }, kPortPatience));
  port.run(milliseconds(20));
  const std::vector<std::byte> message(kMessageBytes, std::byte{5});
  std::vector<std::byte> all;
  for (std::uint64_t seq = 0; seq < kMessages; ++seq) {
    append(all, bytes_of(port.request(Verb::kSend, kMessageBytes, seq)));
    append(all, message);
  }
  for (RawPeer& peer : peers) ASSERT_EQ(peer.say_some(all), all.size());
  port.expect_service();
  std::vector<std::size_t> heard(kPeers);
  const std::size_t expected = sizeof(wire::Hello) + kMessages * sizeof(wire::ResponseHeader);
  ASSERT_TRUE(port.world.run_until(
      [&] {
        for (std::size_t i = 0; i < kPeers; ++i) heard[i] += peers[i].hear().size();
        return std::ranges::all_of(heard, [&](std::size_t n) { return n >= expected; });
      },
      kPortPatience));
  EXPECT_GT(counts.receives_without_buffer, 0U);
  EXPECT_EQ(port.served.messages.size(), kPeers * kMessages);
  EXPECT_TRUE(
      std::ranges::all_of(port.served.messages, [&](const auto& m) { return m == message; }));
}

}  // namespace
}  // namespace btd::net
