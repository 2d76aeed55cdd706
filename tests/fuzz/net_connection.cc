// The frames of a peer, in any order and cut anywhere, on a connection whose session has operations
// of its own under way.
#include <array>
#include <cstring>
#include <random>

#include "net/connection.h"
#include "tests/fuzz/target.h"

namespace btd::fuzz {

using namespace btd::net;

namespace {

constexpr std::size_t kRegionBytes = 4096;
constexpr std::size_t kBorderBytes = 64;  // around the region, never to change
constexpr std::byte kBorder{1};
constexpr Limits kLimits{.window = 8, .message_bytes = 512, .transfer_bytes = 8192};

// The first byte of an input. Nobody guesses a checksum, so most inputs get theirs right.
enum Flag : std::uint8_t {
  kMayLose = 1,
  kAsItIs = 2,     // checksums are the input's
  kWithHello = 4,  // the peer's Hello comes first
  kAgain = 8,      // what is left after an error comes on the session's next connection
  kFences = 16,    // the epoch changes now and then
};

class Sink final : public MessageSink {
 public:
  int on_message(std::span<const std::byte> message) override {
    check(message.size() <= kLimits.message_bytes);
    return message.empty() ? EBUSY : 0;
  }
};

template <class Frame>
void seal(std::span<std::uint8_t> at) {
  Frame frame;
  std::memcpy(&frame, at.data(), sizeof(frame));
  frame = wire::sealed(frame);
  std::memcpy(at.data(), &frame, sizeof(frame));
}

// Gives all frames their checksums, as far as they follow each other.
void seal_all(std::span<std::uint8_t> bytes) {
  while (!bytes.empty()) {
    std::size_t size = sizeof(wire::ResponseHeader);
    if (bytes[0] == static_cast<std::uint8_t>(wire::FrameType::kRequest)) {
      wire::RequestHeader header;
      if (bytes.size() < sizeof(header)) return;
      seal<wire::RequestHeader>(bytes);
      std::memcpy(&header, bytes.data(), sizeof(header));
      const auto verb = static_cast<Verb>(header.verb);
      const bool has_none = verb == Verb::kRead ||
                            (verb == Verb::kWritePersist && (header.flags & wire::kPlaced) != 0);
      size = sizeof(header) + (has_none ? 0 : header.length);
    } else {
      wire::ResponseHeader header;
      if (bytes.size() < sizeof(header)) return;
      seal<wire::ResponseHeader>(bytes);
      std::memcpy(&header, bytes.data(), sizeof(header));
      size = sizeof(header) + header.length;
    }
    bytes = bytes.subspan(std::min(size, bytes.size()));
  }
}

class Peer {
 public:
  Peer() : memory_(kRegionBytes + 2 * kBorderBytes, kBorder), regions_(seeded_random(1)) {
    const auto region = std::span{memory_}.subspan(kBorderBytes, kRegionBytes);
    check(regions_.add(region, kRemoteRead | kRemoteWrite | kRemoteCas, nullptr).has_value());
  }

  // False: the peer's Hello is not taken.
  bool greet(const wire::Hello& hello) { return session_.accept(hello, {}, 1).has_value(); }

  void post_some() {
    for (Token token = 0; token < 4; ++token) {
      const iovec local{.iov_base = into_.data(), .iov_len = into_.size()};
      static_cast<void>(session_.requester().post(
          {.verb = static_cast<Verb>(token + 1), .token = token, .local = {&local, 1}}, 0));
    }
  }

  // Feeds until an error; what is left.
  std::span<const std::byte> connect(std::span<const std::byte> bytes, std::uint8_t flags) {
    Connection connection(session_, sink_, (flags & kMayLose) != 0);
    send(connection);
    while (!bytes.empty()) {
      const auto n =
          std::min<std::size_t>(bytes.size(), std::to_integer<std::size_t>(bytes[0]) % 97 + 1);
      auto piece = bytes.first(n);
      bytes = bytes.subspan(n);
      if (n % 3 == 0) piece = receive_in_place(connection, piece);
      if (!connection.feed(piece, epoch_)) return bytes;
      if ((flags & kFences) != 0 && n % 7 == 0) connection.fence(++epoch_);
      if (n % 5 != 0) send(connection);
      if (n % 11 == 0) check(regions_.drain());
    }
    return {};
  }

  void end() {
    session_.requester().fail_all(ECONNRESET);
    const auto is_kept = [](std::span<const std::byte> border) {
      return std::ranges::all_of(border, [](std::byte b) { return b == kBorder; });
    };
    check(is_kept(std::span{memory_}.first(kBorderBytes)));
    check(is_kept(std::span{memory_}.last(kBorderBytes)));
  }

 private:
  static std::span<const std::byte> receive_in_place(Connection& connection,
                                                     std::span<const std::byte> piece) {
    const auto place = connection.direct();
    if (place.empty()) return piece;
    const std::size_t n = std::min(place.size(), piece.size());
    connection.begin_direct();
    std::memcpy(place.data(), piece.data(), n);
    connection.end_direct(n);
    return piece.subspan(n);
  }
  void send(Connection& connection) {
    while (const std::size_t n = connection.gather(segments_, 500)) {
      std::size_t sum = 0;
      for (const iovec& one : std::span{segments_}.first(n)) sum += one.iov_len;
      check(sum <= 500);
      connection.sent(sum);
    }
  }

  std::vector<std::byte> memory_;
  RegionTable regions_;
  Session session_{{1, 1}, regions_, kLimits};
  Sink sink_;
  Epoch epoch_ = 0;
  std::array<std::byte, 300> into_{};
  std::array<iovec, 4> segments_{};
};

wire::Hello good_hello(std::uint32_t attempt) {
  wire::Hello hello;
  hello.attempt = attempt;
  hello.window = kLimits.window;
  hello.message_bytes = kLimits.message_bytes;
  hello.transfer_bytes = kLimits.transfer_bytes;
  return wire::sealed(hello);
}

void run(Input input) {
  if (input.empty()) return;
  const std::uint8_t flags = input[0];
  std::vector<std::uint8_t> bytes(input.begin() + 1, input.end());
  std::size_t begin = 0;
  Peer peer;
  wire::Hello hello = good_hello(1);
  if ((flags & kWithHello) != 0 && bytes.size() >= sizeof(hello)) {
    if ((flags & kAsItIs) == 0) seal<wire::Hello>(bytes);
    std::memcpy(&hello, bytes.data(), sizeof(hello));
    begin = sizeof(hello);
  }
  if (!peer.greet(hello)) return;
  const auto frames = std::span{bytes}.subspan(begin);
  if ((flags & kAsItIs) == 0) seal_all(frames);
  peer.post_some();
  auto left = peer.connect(std::as_bytes(frames), flags);
  if ((flags & kAgain) != 0 && hello.attempt < UINT32_MAX &&
      peer.greet(good_hello(hello.attempt + 1)))
    left = peer.connect(left, flags);
  peer.end();
}

using Random = std::mt19937_64;

std::string noise(Random& random, std::size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

std::string a_response(Random& random) {
  wire::ResponseHeader response;
  response.verb = static_cast<std::uint8_t>(1 + random() % 4);
  response.seq = random() % 5;
  response.length = response.verb == 1 && random() % 2 == 0 ? 300 : 0;
  response.error = static_cast<std::uint16_t>(random() % 3);
  return raw_of(wire::sealed(response)) + noise(random, response.length);
}

std::string a_request(Random& random, std::uint64_t key, std::uint64_t& seq) {
  wire::RequestHeader request;
  request.verb = static_cast<std::uint8_t>(random() % 5);
  request.seq = random() % 8 == 0 ? random() % 20 : seq++;
  request.key = random() % 8 == 0 ? random() : key;
  request.offset = random() % 8 == 0 ? random() : random() % kRegionBytes & ~7ULL;
  request.length = static_cast<std::uint32_t>(random() % 600);
  const auto verb = static_cast<Verb>(request.verb);
  if (verb == Verb::kNone) request.length = 0;
  if (verb == Verb::kCas8) request.length = sizeof(wire::CasOperands);
  if (verb == Verb::kSend) request.length %= kLimits.message_bytes + 1;
  if (random() % 20 == 0) request.length = static_cast<std::uint32_t>(random());
  const std::size_t payload =
      verb == Verb::kRead ? 0 : std::min<std::size_t>(request.length, kLimits.message_bytes);
  return raw_of(wire::sealed(request)) + noise(random, payload);
}

std::string frames(Random& random) {
  std::vector<std::byte> memory(kRegionBytes);
  const std::uint64_t key = RegionTable(seeded_random(1)).add(memory, kRemoteRead, nullptr)->key;
  std::string bytes;
  std::uint64_t seq = 0;
  for (std::uint64_t left = 1 + random() % 12; left > 0; --left)
    bytes += random() % 3 == 0 ? a_response(random) : a_request(random, key, seq);
  if (random() % 4 == 0)
    bytes += raw_of(wire::sealed(wire::ResponseHeader{.type = wire::FrameType::kBye}));
  return bytes;
}

}  // namespace

Target connection_target() {
  Target target{.run = run, .most_bytes = 8192};
  for (unsigned seed = 0; seed < 64; ++seed) {
    Random random(seed);
    const auto flags = static_cast<char>(seed % 32);
    std::string input(1, flags);
    if ((flags & kWithHello) != 0) input += raw_of(good_hello(1));
    target.seeds.push_back(input + frames(random));
  }
  return target;
}

}  // namespace btd::fuzz
