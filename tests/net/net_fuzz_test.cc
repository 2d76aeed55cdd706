// A short run of the fuzz targets with seeded bytes: noise, and good frames with bad bytes in them.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "net/region_table.h"
#include "net/tcp/key_guard.h"
#include "net/wire.h"
#include "tests/net/fuzz/targets.h"

namespace btd::net {
namespace {

constexpr int kRuns = 20'000;
constexpr int kHandshakeRuns = 2'000;  // a TLS context takes its time

using Random = std::mt19937_64;

std::uint64_t below(Random& random, std::uint64_t limit) { return random() % limit; }

template <class T>
void add(const T& object, std::vector<std::uint8_t>& to) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(&object);
  to.insert(to.end(), bytes, bytes + sizeof(object));
}

void add_noise(Random& random, std::size_t size, std::vector<std::uint8_t>& to) {
  for (std::size_t i = 0; i < size; ++i) to.push_back(static_cast<std::uint8_t>(random()));
}

// The key of the target's region, whose table has the same seed.
std::uint64_t region_key() {
  std::vector<std::byte> memory(4096);
  return RegionTable(seeded_random(1)).add(memory, kRemoteRead, nullptr)->key;
}

std::vector<std::uint8_t> frames(Random& random, std::uint64_t key) {
  std::vector<std::uint8_t> bytes;
  std::uint64_t seq = 0;
  for (std::uint64_t left = 1 + below(random, 12); left > 0; --left) {
    if (below(random, 3) == 0) {
      wire::ResponseHeader response;
      response.verb = static_cast<std::uint8_t>(1 + below(random, 2));
      response.seq = below(random, 5);
      response.length = below(random, 2) == 0 ? 300 : 0;
      response.error = static_cast<std::uint16_t>(below(random, 3));
      add(wire::sealed(response), bytes);
      add_noise(random, response.length, bytes);
      continue;
    }
    wire::RequestHeader request;
    request.verb = static_cast<std::uint8_t>(below(random, 6));
    request.seq = below(random, 8) == 0 ? below(random, 20) : seq++;
    request.key = below(random, 8) == 0 ? random() : key;
    request.offset = below(random, 4) == 0 ? random() : below(random, 4096) & ~7U;
    request.length = static_cast<std::uint32_t>(below(random, 600));
    if (static_cast<Verb>(request.verb) == Verb::kCas8) request.length = 16;
    if (below(random, 20) == 0) request.length = static_cast<std::uint32_t>(random());
    add(wire::sealed(request), bytes);
    if (static_cast<Verb>(request.verb) != Verb::kRead)
      add_noise(random, std::min<std::size_t>(request.length, 600), bytes);
  }
  return bytes;
}

void damage(Random& random, std::vector<std::uint8_t>& bytes) {
  for (std::uint64_t left = below(random, 3); left > 0 && !bytes.empty(); --left)
    bytes[below(random, bytes.size())] ^= static_cast<std::uint8_t>(1U << below(random, 8));
  if (below(random, 4) == 0) bytes.resize(below(random, bytes.size() + 1));
}

TEST(NetFuzz, ConnectionBearsAnyBytes) {
  const std::uint64_t key = region_key();
  for (int seed = 0; seed < kRuns; ++seed) {
    SCOPED_TRACE(seed);
    Random random(static_cast<std::uint64_t>(seed));
    std::vector<std::uint8_t> bytes;
    if (seed % 8 == 0) {
      add_noise(random, below(random, 300), bytes);
    } else {
      bytes = frames(random, key);
      damage(random, bytes);
    }
    fuzz::connection(bytes);
  }
}

TEST(NetFuzz, HandshakeBearsAnyBytes) {
  for (int seed = 0; seed < kHandshakeRuns; ++seed) {
    SCOPED_TRACE(seed);
    Random random(static_cast<std::uint64_t>(seed));
    std::vector<std::uint8_t> bytes{static_cast<std::uint8_t>(seed)};
    if (seed % 4 == 0) {
      key_wire::Challenge challenge;
      challenge.side = static_cast<std::uint8_t>(below(random, 2));
      add(challenge, bytes);
    } else if (seed % 4 == 1) {
      add(wire::sealed(wire::Hello{}), bytes);
    } else if (seed % 4 == 2) {
      add(std::array<std::uint8_t, 6>{0x16, 3, 1, 1, 0, static_cast<std::uint8_t>(seed % 3)},
          bytes);
    }
    add_noise(random, below(random, 400), bytes);
    std::vector<std::uint8_t> rest(bytes.begin() + 1, bytes.end());
    damage(random, rest);
    rest.insert(rest.begin(), bytes[0]);
    fuzz::handshake(rest);
  }
}

}  // namespace
}  // namespace btd::net
