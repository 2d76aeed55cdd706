// The decisions of the verbs engine, which need no device.
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <random>

#include "net/address.h"
#include "net/verbs/handshake.h"
#include "net/verbs/rules.h"
#include "net/verbs/verbs_engine.h"
#include "tests/net/engine_options.h"

namespace btd::net::verbs {
namespace {

constexpr std::array kFlushes{Flush::kNone, Flush::kGlobal, Flush::kPersistent};

TEST(VerbsKey, HoldsWhatTheDeviceNeeds) {
  RegionTable table(seeded_random(1));
  std::vector<std::byte> memory(64);
  for (const Flush flush : kFlushes) {
    const DeviceKey device{.rkey = 0xDEADBEEF, .page_offset = 0xABC, .flush = flush};
    const auto first = table.add(memory, kRemoteRead, nullptr, fixed_bits(device));
    const auto second = table.add(memory, kRemoteRead, nullptr, fixed_bits(device));
    ASSERT_TRUE(first && second);
    for (const std::uint64_t key : {first->key, second->key}) {
      EXPECT_EQ(device_key(key).rkey, device.rkey);
      EXPECT_EQ(device_key(key).page_offset, device.page_offset);
      EXPECT_EQ(device_key(key).flush, flush);
      EXPECT_EQ(table.find(key, 0, 64, kRemoteRead).error, 0);
    }
    EXPECT_NE(first->key, second->key);
  }
}

TEST(VerbsRoute, OneKindWaitsForTheOther) {
  EXPECT_EQ(route(true, 0, 0), Route::kOneSided);
  EXPECT_EQ(route(true, 3, 3), Route::kOneSided);
  EXPECT_EQ(route(true, 4, 3), Route::kWait) << "a frame is not answered";
  EXPECT_EQ(route(false, 4, 0), Route::kStream);
  EXPECT_EQ(route(false, 4, 1), Route::kWait) << "the NIC has not finished";
}

TEST(VerbsRoute, AsksTheProcessorAboutWhatNoNicChecks) {
  const RemoteRange good{.key = std::uint64_t{7} << 32, .offset = 8};
  EXPECT_TRUE(can_be_one_sided({.verb = Verb::kRead, .length = 8, .remote = good}));
  EXPECT_TRUE(can_be_one_sided({.verb = Verb::kWritePersist, .length = 8, .remote = good}));
  EXPECT_FALSE(can_be_one_sided({.verb = Verb::kRead, .length = 0, .remote = good}));
  EXPECT_FALSE(can_be_one_sided({.verb = Verb::kCas8, .length = 8, .remote = good}));
  EXPECT_FALSE(can_be_one_sided({.verb = Verb::kSend, .length = 8}));
  EXPECT_FALSE(can_be_one_sided({.verb = Verb::kRead, .length = 8, .remote = {.key = 5}}));
  EXPECT_FALSE(can_be_one_sided(
      {.verb = Verb::kRead, .length = 8, .remote = {.key = good.key, .offset = UINT64_MAX - 3}}))
      << "its end wraps";
}

// A region is registered for what its memory needs, and for nothing that the device can't.
TEST(VerbsFlush, IsWhatTheMemoryNeeds) {
  using btd::Domain;
  constexpr Flush n = Flush::kNone, g = Flush::kGlobal, p = Flush::kPersistent;
  struct Row {
    std::optional<Domain> domain;
    bool is_direct;
    Flush neither, global, persistent, both;  // by what the device can
  };
  constexpr std::array kRows{
      Row{std::nullopt, false, n, g, n, g},       Row{std::nullopt, true, n, g, n, g},
      Row{Domain::kCacheLine, false, n, n, p, p}, Row{Domain::kCacheLine, true, n, g, p, g},
      Row{Domain::kMsync, false, n, n, n, n},     Row{Domain::kMsync, true, n, n, n, n},
      Row{Domain::kProcess, false, n, g, n, g},   Row{Domain::kProcess, true, n, g, n, g},
      Row{Domain::kEmulated, false, n, n, n, n},  Row{Domain::kEmulated, true, n, n, n, n},
  };
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    const Row& row = kRows[i];
    EXPECT_EQ(choose_flush({}, row.domain, row.is_direct), row.neither) << i;
    EXPECT_EQ(choose_flush({.global = true}, row.domain, row.is_direct), row.global) << i;
    EXPECT_EQ(choose_flush({.persistent = true}, row.domain, row.is_direct), row.persistent) << i;
    EXPECT_EQ(choose_flush({.global = true, .persistent = true}, row.domain, row.is_direct),
              row.both)
        << i;
  }
}

// Every combination of capabilities and flushes, also one that no version makes.
TEST(VerbsDurability, TakesTheCheapestThatIsSafe) {
  for (const bool mine : {false, true})
    for (const bool peers : {false, true})
      for (const bool is_direct : {false, true})
        for (const Flush flush : {Flush::kNone, Flush::kGlobal, Flush::kPersistent, Flush{3}}) {
          const bool is_flushed =
              mine && peers && (flush == Flush::kGlobal || flush == Flush::kPersistent);
          const Durability expected = is_flushed  ? Durability::kNativeFlush
                                      : is_direct ? Durability::kReadBehind
                                                  : Durability::kAcknowledge;
          // What counts is where the bytes lie, so my own platform's promise does not.
          for (const std::uint32_t promise : {0U, std::uint32_t{kDirectWrite}})
            EXPECT_EQ(choose_durability(kOneSidedReads | promise | (mine ? kNativeFlush : 0U),
                                        kOneSidedReads | (peers ? kNativeFlush : 0U) |
                                            (is_direct ? kDirectWrite : 0U),
                                        flush),
                      expected)
                << mine << peers << is_direct << static_cast<int>(flush);
        }
}

// What a connection says of itself is what its link does, with regions that can be flushed.
TEST(VerbsDurability, IsWhatTheCapabilitiesSay) {
  for (const std::uint32_t mine : {0U, 0U + kNativeFlush, 0U + kDirectWrite})
    for (const std::uint32_t peers : {0U, 0U + kNativeFlush, 0U + kDirectWrite}) {
      const bool asks = choose_durability(kOneSidedReads | mine, kOneSidedReads | peers,
                                          Flush::kPersistent) == Durability::kAcknowledge;
      const bool is_said = writes_are_one_sided(kOneSidedReads | (mine & peers));
      EXPECT_FALSE(is_said && asks) << mine << " " << peers;
    }
  EXPECT_FALSE(writes_are_one_sided(kOneSidedReads)) << "the peer's processor makes them durable";
  EXPECT_FALSE(writes_are_one_sided(kDirectWrite));
}

// Two sides that send whatever they may, in any order: no buffer is missing, and nobody waits for
// ever.
TEST(VerbsCredits, NeitherRunDryNorStop) {
  std::mt19937 random(1);
  struct Side {
    Credits credits;
    std::vector<std::uint32_t> arriving;  // credits in the messages on their way to it
    std::uint32_t kept = 0;               // messages whose buffers it has not freed
    std::uint64_t sent = 0;
  };
  Side sides[2];
  for (int step = 0; step < 200'000; ++step) {
    const unsigned who = random() % 2;
    Side &me = sides[who], &other = sides[1 - who];
    switch (random() % 3) {
      case 0:
        if (!me.credits.can_send()) break;
        other.arriving.push_back(me.credits.send());
        ++me.sent;
        break;
      case 1:
        if (me.arriving.empty()) break;
        ASSERT_TRUE(me.credits.received(me.arriving.front()));
        me.arriving.erase(me.arriving.begin());
        ++me.kept;
        break;
      default:
        if (me.kept > 0) {
          --me.kept;
          me.credits.freed();
        }
        if (me.credits.must_return()) other.arriving.push_back(me.credits.send());
    }
    ASSERT_LE(me.arriving.size() + me.kept, Credits::kEach);
    ASSERT_LE(other.arriving.size() + other.kept, Credits::kEach);
  }
  EXPECT_GT(sides[0].sent, 10'000U);
  EXPECT_GT(sides[1].sent, 10'000U);
}

TEST(VerbsCredits, NoticesAPeerThatInventsThem) {
  Credits credits;
  EXPECT_FALSE(credits.received(1));
  EXPECT_EQ(credits.send(), 0U);
  EXPECT_TRUE(credits.received(1));
  EXPECT_FALSE(credits.received(Credits::kEach));
}

TEST(VerbsCut, KeepsEveryByteInItsPlace) {
  std::mt19937 random(2);
  std::vector<Request> requests;
  for (int round = 0; round < 500; ++round) {
    std::vector<LocalBytes> local;
    std::uint64_t total = 0;
    for (unsigned i = 0, n = 1 + random() % kMaxSegments; i < n; ++i) {
      const auto length = static_cast<std::uint32_t>(random() % 5000);
      local.push_back({.address = 1'000'000 * (i + 1), .length = length, .lkey = i});
      total += length;
    }
    const std::uint64_t most = 1 + random() % 4000;
    const std::size_t segments = 1 + random() % 4;
    std::uint64_t at = 777;
    std::size_t segment = 0;
    std::uint64_t offset = 0;
    cut(local, 777, most, segments, requests);
    for (const Request& request : requests) {
      EXPECT_EQ(request.remote, at);
      EXPECT_LE(request.length, most);
      EXPECT_LE(request.local.size(), segments);
      std::uint64_t sum = 0;
      for (const LocalBytes& bytes : request.local) {
        while (local[segment].length == offset) {
          ++segment;
          offset = 0;
        }
        EXPECT_EQ(bytes.address, local[segment].address + offset);
        EXPECT_EQ(bytes.lkey, local[segment].lkey);
        offset += bytes.length;
        sum += bytes.length;
      }
      EXPECT_EQ(sum, request.length);
      at += request.length;
    }
    EXPECT_EQ(at, 777 + total);
  }
}

TEST(VerbsHandshake, ProofsAreOfOneKeySideAndConnection) {
  const auto a = make_nonce(), b = make_nonce();
  ASSERT_TRUE(a && b);
  EXPECT_NE(*a, *b);
  wire::Hello hello;
  const Proof proof = *prove_connecting("key", *a, *b, hello);
  EXPECT_TRUE(is_same(proof, *prove_connecting("key", *a, *b, hello)));
  EXPECT_FALSE(is_same(proof, *prove_connecting("kez", *a, *b, hello)));
  EXPECT_FALSE(is_same(proof, *prove_connecting("key", *b, *a, hello)));
  hello.node = 1;
  EXPECT_FALSE(is_same(proof, *prove_connecting("key", *a, *b, hello)));
  EXPECT_FALSE(is_same(*prove_accepting("key", *a, *b), *prove_accepting("key", *b, *a)));
}

TEST(VerbsHandshake, RefusesWhatIsNone) {
  ConnectData data;
  const auto bytes = std::as_bytes(std::span{&data, 1});
  EXPECT_TRUE(parse<ConnectData>(bytes).has_value());
  EXPECT_FALSE(parse<ConnectData>(bytes.first(39)).has_value());
  data.magic = 1;
  EXPECT_FALSE(parse<ConnectData>(bytes).has_value());
}

TEST(VerbsAddress, TakesNumbers) {
  for (const char* good : {"10.1.2.3:7000", "[fd00::1]:7000"}) {
    const auto parsed = parse_numeric_address(good, false);
    ASSERT_TRUE(parsed.has_value()) << good;
    EXPECT_EQ(parsed->text(), good);
  }
  EXPECT_TRUE(parse_numeric_address("*:0", true).has_value());
  for (const char* bad : {"", "10.1.2.3", "10.1.2.3:", "10.1.2.3:0", "10.1.2.3:70000", "host:1"})
    EXPECT_FALSE(parse_numeric_address(bad, false).has_value()) << bad;
}

// They are judged before a device is looked for.
TEST(VerbsOptions, WhatCannotWorkIsRefused) {
  for (const EngineOptions& options : options_that_cannot_work()) {
    const auto made = make_verbs_engine({.engine = options, .device = "no such device"});
    ASSERT_FALSE(made.has_value());
    EXPECT_EQ(made.error().code, EINVAL) << made.error().message;
  }
  for (const EngineOptions& options : unusual_options()) {
    const auto made = make_verbs_engine({.engine = options, .device = "no such device"});
    ASSERT_FALSE(made.has_value());
    EXPECT_NE(made.error().code, EINVAL) << made.error().message;
  }
}

}  // namespace
}  // namespace btd::net::verbs
