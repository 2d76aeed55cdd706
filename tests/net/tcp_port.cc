#include "tests/net/tcp_port.h"

#include <algorithm>

namespace btd::net {

std::vector<std::byte> joined(std::span<const std::byte> a, std::span<const std::byte> b) {
  std::vector<std::byte> all(a.begin(), a.end());
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

wire::Hello hello(std::uint64_t session) {
  wire::Hello hello;
  hello.attempt = 1;
  hello.session = {.high = session, .low = 1};
  hello.transfer_bytes = 1 << 20;
  hello.window = 16;
  hello.message_bytes = 1 << 10;
  return wire::sealed(hello);
}

Port::Port(const TcpOptions& tcp, const Patience& patience)
    : world({.patience = patience}, tcp), memory(kPortRegionBytes, std::byte{7}) {
  EXPECT_TRUE(world.listen([this](Endpoint&) {
    ++accepted;
    return &served;
  }));
  region = world.server()
               .register_region(memory, kRemoteRead | kRemoteWrite, nullptr)
               .value_or(RegionDescriptor{});
  endpoint = world.client().connect(world.address(), asked).value_or(nullptr);
  EXPECT_TRUE(world.run_until([&] { return asked.ups == 1 && served.ups == 1; }, kPortPatience));
}

void Port::expect_service() {
  constexpr std::size_t kBytes = 1000;
  std::vector<std::byte> back(kBytes);
  const iovec local{.iov_base = back.data(), .iov_len = back.size()};
  const std::size_t before = asked.completions.size();
  ASSERT_TRUE(endpoint->read({&local, 1}, {region.key, 0}, 1,
                             world.client().now() + std::chrono::seconds(5)));
  ASSERT_TRUE(world.run_until([&] { return asked.completions.size() > before; }, kPortPatience));
  EXPECT_EQ(asked.completions.back().error, 0);
  EXPECT_EQ(back, std::vector<std::byte>(kBytes, std::byte{7}));
}

void Port::expect_closed(std::vector<RawPeer>& peers) {
  EXPECT_TRUE(world.run_until(
      [&] { return std::ranges::all_of(peers, [](RawPeer& p) { return p.is_closed(); }); },
      kPortPatience));
}

void Port::run(Time time) {
  const Time until = world.client().now() + time;
  world.run_until([&] { return world.client().now() >= until; }, kPortPatience);
}

bool Port::can_deregister() {
  return world.run_until([&] { return world.server().deregister_region(region.key).has_value(); },
                         std::chrono::seconds(1));
}

wire::RequestHeader Port::request(Verb verb, std::uint32_t length, std::uint64_t seq) const {
  wire::RequestHeader request;
  request.verb = static_cast<std::uint8_t>(verb);
  request.length = length;
  request.key = region.key;
  request.seq = seq;
  return wire::sealed(request);
}

std::vector<RawPeer> strangers(const Port& port, std::size_t count) {
  std::vector<RawPeer> peers;
  for (std::size_t i = 0; i < count; ++i) peers.emplace_back(port.world.address());
  return peers;
}

}  // namespace btd::net
