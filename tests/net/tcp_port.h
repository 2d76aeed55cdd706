// Port: a server of the tcp engine with an honest client, at which strangers knock (raw_peer.h).
#pragma once

#include <vector>

#include "net/wire.h"
#include "tests/net/raw_peer.h"
#include "tests/net/tcp_world.h"

namespace btd::net {

constexpr Time kPortPatience = std::chrono::seconds(20);
constexpr std::size_t kPortRegionBytes = 1 << 20;

template <class T>
std::span<const std::byte> bytes_of(const T& object) {
  return std::as_bytes(std::span{&object, 1});
}

std::vector<std::byte> joined(std::span<const std::byte> a, std::span<const std::byte> b);

// Of a session with this number, with a window of 16.
wire::Hello hello(std::uint64_t session);

class Port {
 public:
  explicit Port(const TcpOptions& tcp = {},
                const Patience& patience = {.connect = std::chrono::seconds(10)});

  // The honest client is served, and soon.
  void expect_service();
  // All of them are thrown out.
  void expect_closed(std::vector<RawPeer>& peers);
  void run(Time time);
  // Within a second: the region is not used any more.
  bool can_deregister();
  [[nodiscard]] wire::RequestHeader request(Verb verb, std::uint32_t length,
                                            std::uint64_t seq = 0) const;

  Recorder asked, served;
  int accepted = 0;
  TcpWorld world;
  std::vector<std::byte> memory;  // of 7
  RegionDescriptor region;
  Endpoint* endpoint = nullptr;
};

std::vector<RawPeer> strangers(const Port& port, std::size_t count);

}  // namespace btd::net
