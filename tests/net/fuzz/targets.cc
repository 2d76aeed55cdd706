#include "tests/net/fuzz/targets.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "net/connection.h"
#include "net/tcp/handshake.h"
#include "tests/net/tcp_world.h"

namespace btd::net::fuzz {

namespace {

constexpr std::size_t kRegionBytes = 4096;
constexpr std::size_t kBorderBytes = 64;  // around the region, never to change

class Sink final : public MessageSink {
 public:
  int on_message(std::span<const std::byte> /*message*/) override { return 0; }
};

void check(bool is_good) {
  if (!is_good) std::abort();
}

// Piece by piece, their lengths taken from the bytes themselves.
template <class Take>
void cut(std::span<const std::uint8_t> bytes, Take&& take) {
  auto left = std::as_bytes(bytes);
  while (!left.empty()) {
    const std::size_t n =
        std::min<std::size_t>(left.size(), std::to_integer<std::size_t>(left[0]) % 97 + 1);
    if (!take(left.first(n))) return;
    left = left.subspan(n);
  }
}

}  // namespace

void handshake(std::span<const std::uint8_t> bytes) {
  static const std::array<GuardMaker, 3> makers = {*make_guards(NoSecurity{}),
                                                   *make_guards(Secrets::mine().key()),
                                                   *make_guards(Secrets::mine().tls())};
  if (bytes.empty()) return;
  const std::size_t kind = bytes[0] % makers.size();
  const Side side = bytes[0] % 2 == 0 ? Side::kConnecting : Side::kAccepting;
  Handshake handshake(side, *makers.at(kind)(side));
  if (side == Side::kConnecting && !handshake.begin(wire::sealed(wire::Hello{}))) return;
  cut(bytes.subspan(1),
      [&](std::span<const std::byte> piece) { return handshake.take(piece).has_value(); });
  // Nobody guesses a key, or makes a certificate.
  check(kind == 0 || !handshake.guard().is_open());
  check(kind == 0 || !handshake.heard());
}

void connection(std::span<const std::uint8_t> bytes) {
  std::vector<std::byte> memory(kRegionBytes + 2 * kBorderBytes, std::byte{1});
  const std::span region = std::span{memory}.subspan(kBorderBytes, kRegionBytes);
  RegionTable regions(seeded_random(1));
  check(regions.add(region, kRemoteRead | kRemoteWrite | kRemoteCas, nullptr).has_value());
  Sink sink;
  Session session({1, 1}, regions, {.window = 8, .message_bytes = 512, .transfer_bytes = 8192});
  wire::Hello peers;
  peers.attempt = 1;
  peers.window = 8;
  peers.message_bytes = 512;
  peers.transfer_bytes = 8192;
  check(session.accept(wire::sealed(peers), {}, 1).has_value());
  std::array<std::byte, 300> into{};
  const iovec local{.iov_base = into.data(), .iov_len = into.size()};
  for (Token token = 0; token < 4; ++token)
    check(session.requester()
              .post({.verb = token % 2 == 0 ? Verb::kRead : Verb::kWritePersist,
                     .token = token,
                     .local = {&local, 1}},
                    0)
              .has_value());
  {
    Connection connection(session, regions, sink);
    std::array<iovec, 4> segments{};
    const auto send = [&] {
      while (const std::size_t n = connection.gather(segments, 500)) {
        std::size_t sum = 0;
        for (const iovec& one : std::span{segments}.first(n)) sum += one.iov_len;
        connection.sent(sum);
      }
    };
    send();
    cut(bytes, [&](std::span<const std::byte> piece) {
      const auto place = connection.direct();
      if (piece.size() % 3 == 0 && !place.empty()) {  // as a receive in place
        const std::size_t n = std::min(place.size(), piece.size());
        connection.begin_direct();
        std::memcpy(place.data(), piece.data(), n);
        connection.end_direct(n);
        piece = piece.subspan(n);
      }
      const bool is_good = connection.feed(piece, 0).has_value();
      if (piece.size() % 5 != 0) send();
      return is_good;
    });
  }
  session.requester().fail_all(ECONNRESET);
  const auto is_kept = [](std::span<const std::byte> border) {
    return std::ranges::all_of(border, [](std::byte b) { return b == std::byte{1}; });
  };
  check(is_kept(std::span{memory}.first(kBorderBytes)));
  check(is_kept(std::span{memory}.last(kBorderBytes)));
}

}  // namespace btd::net::fuzz
