#include "tests/net/conformance.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

namespace btd::net {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time kPatience = seconds(20);
constexpr std::size_t kRegionBytes = 4 << 20;

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  unsigned x = seed * 2654435761U + 1;
  for (std::byte& byte : bytes) {
    x = x * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(x >> 24);
  }
  return bytes;
}

iovec segment(std::span<std::byte> bytes) { return {bytes.data(), bytes.size()}; }

// A world with one connection, and a region of the server's that its client may use.
struct Pair {
  explicit Pair(const WorldMaker& maker, const WorldOptions& options = {})
      : world(maker.make(options)), memory(kRegionBytes) {
    if (world == nullptr) return;
    EXPECT_TRUE(world->listen([this](Endpoint&) { return &served; }).has_value());
    region = world->server()
                 .register_region(memory, kRemoteRead | kRemoteWrite | kRemoteCas, nullptr)
                 .value_or(RegionDescriptor{});
    EXPECT_NE(region.key, 0U);
    auto connected = world->client().connect(world->address(), asked);
    EXPECT_TRUE(connected.has_value());
    if (connected) endpoint = *connected;
    EXPECT_TRUE(world->run_until([&] { return asked.ups == 1 && served.ups == 1; }, kPatience));
  }

  [[nodiscard]] Time in(Time patience) const { return world->client().now() + patience; }
  bool complete(std::size_t count) {
    return world->run_until([&] { return asked.completions.size() >= count; }, kPatience);
  }
  // One operation, from its posting to its end.
  Completion one(Operation operation) {
    operation.token = ++token;
    if (operation.deadline == kNever) operation.deadline = in(kPatience);
    const std::size_t before = asked.completions.size();
    if (auto posted = endpoint->post(operation); !posted) return {.error = posted.error().code};
    if (!complete(before + 1)) return {.error = ETIME};
    EXPECT_EQ(asked.completions.back().token, operation.token);
    return asked.completions.back();
  }
  Completion read(std::span<std::byte> into, RemoteRange from) {
    const iovec local = segment(into);
    return one({.verb = Verb::kRead, .remote = from, .local = {&local, 1}});
  }
  Completion write(std::span<std::byte> from, RemoteRange to) {
    const iovec local = segment(from);
    return one({.verb = Verb::kWritePersist, .remote = to, .local = {&local, 1}});
  }
  Completion cas(std::uint64_t offset, std::uint64_t expected, std::uint64_t desired) {
    return one(
        {.verb = Verb::kCas8, .remote = at(offset), .expected = expected, .desired = desired});
  }
  [[nodiscard]] RemoteRange at(std::uint64_t offset) const { return {region.key, offset}; }

  Recorder asked, served;
  std::unique_ptr<World> world;
  std::vector<std::byte> memory;
  RegionDescriptor region;
  Endpoint* endpoint = nullptr;
  Token token = 0;
};

#define BTD_PAIR(name, ...)                                     \
  Pair name(GetParam() __VA_OPT__(, ) __VA_ARGS__);             \
  if (name.world == nullptr) GTEST_SKIP() << "cannot run here"; \
  ASSERT_NE(name.endpoint, nullptr)

TEST_P(Conformance, ReadsAndWritesAnySize) {
  BTD_PAIR(p);
  for (const std::size_t size : {0U, 1U, 8U, 64U, 1000U, 1024U, 1025U, 4096U, 65'535U, 65'536U,
                                 262'145U, 1U << 20, 3U << 20}) {
    auto sent = pattern(size, static_cast<unsigned>(size));
    EXPECT_EQ(p.write(sent, p.at(4096)).error, 0) << size;
    EXPECT_TRUE(std::ranges::equal(sent, std::span{p.memory}.subspan(4096, size))) << size;
    std::vector<std::byte> back(size);
    EXPECT_EQ(p.read(back, p.at(4096)).error, 0) << size;
    EXPECT_EQ(back, sent) << size;
  }
}

TEST_P(Conformance, ScattersAndGathers) {
  BTD_PAIR(p);
  auto sent = pattern(20'000, 1);
  const std::span all{sent};
  const iovec from[] = {segment(all.first(7)), segment(all.subspan(7, 0)),
                        segment(all.subspan(7, 9000)), segment(all.subspan(9007))};
  EXPECT_EQ(p.one({.verb = Verb::kWritePersist, .remote = p.at(8), .local = from}).error, 0);
  std::vector<std::byte> back(20'000);
  const std::span into{back};
  const iovec to[] = {segment(into.first(12'000)), segment(into.subspan(12'000, 1)),
                      segment(into.subspan(12'001))};
  EXPECT_EQ(p.one({.verb = Verb::kRead, .remote = p.at(8), .local = to}).error, 0);
  EXPECT_EQ(back, sent);
}

TEST_P(Conformance, ComparesAndSwaps) {
  BTD_PAIR(p);
  Completion first = p.cas(16, 0, 7);
  EXPECT_EQ(first.error, 0);
  EXPECT_EQ(first.value, 0U);
  Completion second = p.cas(16, 0, 9);
  EXPECT_EQ(second.error, 0);
  EXPECT_EQ(second.value, 7U) << "it must say what was there";
  std::uint64_t word = 0;
  std::memcpy(&word, p.memory.data() + 16, sizeof(word));
  EXPECT_EQ(word, 7U);
  EXPECT_EQ(p.cas(17, 0, 1).error, EINVAL);
}

TEST_P(Conformance, SendsMessagesBothWays) {
  BTD_PAIR(p);
  for (const std::size_t size : {0U, 1U, 4096U, 60'000U}) {
    auto message = pattern(size, 3);
    const iovec local = segment(message);
    EXPECT_EQ(p.one({.verb = Verb::kSend, .local = {&local, 1}}).error, 0) << size;
    ASSERT_FALSE(p.served.messages.empty());
    EXPECT_EQ(p.served.messages.back(), message);
  }
  ASSERT_EQ(p.served.endpoints.size(), 1U);
  auto message = pattern(100, 4);
  const iovec local = segment(message);
  ASSERT_TRUE(p.served.endpoints[0]->send({&local, 1}, 5, p.in(kPatience)).has_value());
  ASSERT_TRUE(p.world->run_until([&] { return p.served.completions.size() == 1; }, kPatience));
  EXPECT_EQ(p.served.completions[0].token, 5U);
  EXPECT_EQ(p.served.completions[0].error, 0);
  ASSERT_EQ(p.asked.messages.size(), 1U);
  EXPECT_EQ(p.asked.messages[0], message);
}

TEST_P(Conformance, ToldThatTheReceiverIsBusy) {
  BTD_PAIR(p);
  p.served.refusal = EBUSY;
  auto message = pattern(100, 4);
  const iovec local = segment(message);
  EXPECT_EQ(p.one({.verb = Verb::kSend, .local = {&local, 1}}).error, EBUSY);
}

TEST_P(Conformance, CompletesInOrderWithManyInFlight) {
  BTD_PAIR(p);
  // More than the window, in any case.
  const std::size_t count = p.world->is_far() ? 600 : 2000;
  std::vector<std::uint64_t> words(count);
  std::size_t posted = 0;
  const bool done = p.world->run_until(
      [&] {
        for (; posted < count; ++posted) {
          words[posted] = posted;
          const iovec local = {&words[posted], sizeof(std::uint64_t)};
          const RemoteRange to = p.at(8 * (posted % 64));
          const auto status =
              posted % 3 == 0 ? p.endpoint->read({&local, 1}, to, posted, p.in(kPatience))
              : posted % 3 == 1
                  ? p.endpoint->write_persist({&local, 1}, to, posted, p.in(kPatience))
                  : p.endpoint->cas8(p.at(4096), posted / 3, posted / 3 + 1, posted,
                                     p.in(kPatience));
          if (!status) {
            EXPECT_EQ(status.error().code, EAGAIN);
            break;
          }
        }
        return p.asked.completions.size() == count;
      },
      kPatience);
  ASSERT_TRUE(done) << p.asked.completions.size();
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(p.asked.completions[i].token, i);
    EXPECT_EQ(p.asked.completions[i].error, 0);
    if (i % 3 == 2) {
      EXPECT_EQ(p.asked.completions[i].value, i / 3);
    }
  }
}

TEST_P(Conformance, RefusesWhatIsNotAllowed) {
  BTD_PAIR(p);
  std::vector<std::byte> bytes(64);
  EXPECT_EQ(p.read(bytes, {p.region.key ^ (1ULL << 40), 0}).error, EACCES);
  EXPECT_EQ(p.read(bytes, {0, 0}).error, EACCES);
  EXPECT_EQ(p.read(bytes, p.at(kRegionBytes - 63)).error, ERANGE);
  EXPECT_EQ(p.write(bytes, p.at(UINT64_MAX - 10)).error, ERANGE);
  std::vector<std::byte> readable(4096);
  const auto only_read = p.world->server()
                             .register_region(readable, kRemoteRead, nullptr)
                             .value_or(RegionDescriptor{});
  EXPECT_EQ(p.read(bytes, {only_read.key, 0}).error, 0);
  EXPECT_EQ(p.write(bytes, {only_read.key, 0}).error, EACCES);
  EXPECT_TRUE(p.world->server().deregister_region(only_read.key).has_value());
  EXPECT_EQ(p.read(bytes, {only_read.key, 0}).error, EACCES);
  EXPECT_EQ(p.world->server().deregister_region(only_read.key).error().code, ENOENT);
  EXPECT_EQ(p.read(bytes, p.at(0)).error, 0) << "a refusal must leave the endpoint as it was";
}

TEST_P(Conformance, RefusesWhatDoesNotFit) {
  WorldOptions options;
  options.limits.queued = 8;
  options.limits.message_bytes = 1024;
  options.limits.transfer_bytes = 1 << 20;
  BTD_PAIR(p, options);
  std::vector<std::byte> bytes(1024);
  iovec many[kMaxSegments + 1];
  std::ranges::fill(many, segment(bytes));
  EXPECT_EQ(p.one({.verb = Verb::kRead, .remote = p.at(0), .local = many}).error, EINVAL);
  std::vector<std::byte> large((1 << 20) + 1);
  EXPECT_EQ(p.write(large, p.at(0)).error, EMSGSIZE);
  const iovec local = {large.data(), 1025};
  EXPECT_EQ(p.one({.verb = Verb::kSend, .local = {&local, 1}}).error, EMSGSIZE);
  const iovec small = segment(bytes);
  for (Token token = 0; token < 8; ++token)
    EXPECT_TRUE(p.endpoint->read({&small, 1}, p.at(0), token, p.in(kPatience)).has_value());
  const auto full = p.endpoint->read({&small, 1}, p.at(0), 8, p.in(kPatience));
  ASSERT_FALSE(full.has_value());
  EXPECT_EQ(full.error().code, EAGAIN);
  EXPECT_FALSE(full.error().message.empty());
  EXPECT_TRUE(p.complete(8));
}

TEST_P(Conformance, FencesByTheEpoch) {
  WorldOptions options;
  options.epoch = 5;
  BTD_PAIR(p, options);
  auto bytes = pattern(64, 1);
  EXPECT_EQ(p.write(bytes, p.at(0)).error, 0);
  p.world->server().set_epoch(6);
  auto other = pattern(64, 2);
  const Completion old = p.write(other, p.at(0));
  EXPECT_EQ(old.error, ESTALE);
  EXPECT_EQ(old.value, 6U);
  EXPECT_TRUE(std::ranges::equal(bytes, std::span{p.memory}.first(64))) << "nothing may be written";
  p.world->client().set_epoch(7);
  const Completion young = p.write(other, p.at(0));
  EXPECT_EQ(young.error, EAGAIN);
  EXPECT_EQ(young.value, 6U);
  p.world->server().set_epoch(7);
  EXPECT_EQ(p.write(other, p.at(0)).error, 0);
}

// What was decided in an epoch is not done in the next one, though it is sent then.
TEST_P(Conformance, FencesByTheEpochOfThePosting) {
  WorldOptions options;
  options.epoch = 5;
  BTD_PAIR(p, options);
  auto bytes = pattern(64, 1);
  const iovec local = segment(bytes);
  ASSERT_TRUE(p.endpoint->write_persist({&local, 1}, p.at(0), 1, p.in(kPatience)).has_value());
  p.world->client().set_epoch(6);
  p.world->server().set_epoch(6);
  ASSERT_TRUE(p.complete(1));
  EXPECT_EQ(p.asked.completions[0].error, ESTALE);
  EXPECT_EQ(p.asked.completions[0].value, 6U);
  EXPECT_EQ(p.memory[0], std::byte{}) << "nothing may be written";
  EXPECT_EQ(p.write(bytes, p.at(0)).error, 0);
}

TEST_P(Conformance, WritesAreDurableWhenTheyComplete) {
  BTD_PAIR(p);
  if (p.world->is_direct()) GTEST_SKIP() << "emulated NVRAM has to be flushed";
  const auto nvram = p.world->make_server_nvram(64 << 10);
  ASSERT_TRUE(nvram.has_value()) << nvram.error().message;
  const std::uint64_t key = (*nvram)->region().key;
  for (unsigned i = 1; i <= 8; ++i) {
    auto bytes = pattern(100 * i * i, i);
    ASSERT_EQ(p.write(bytes, {key, 5000 * i}).error, 0);
    ASSERT_EQ(
        p.one({.verb = Verb::kCas8, .remote = {key, 0}, .expected = i - 1, .desired = i}).error, 0);
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      const auto after = (*nvram)->after_crash(seed);
      ASSERT_TRUE(after.has_value()) << after.error().message;
      EXPECT_EQ(std::memcmp(after->data() + 5000 * i, bytes.data(), bytes.size()), 0)
          << i << ' ' << seed;
      std::uint64_t word = 0;
      std::memcpy(&word, after->data(), sizeof(word));
      EXPECT_EQ(word, i);
    }
  }
}

TEST_P(Conformance, GivesUpAtTheDeadline) {
  BTD_PAIR(p);
  if (p.world->is_served_by_nic()) GTEST_SKIP() << "no processor of the server's is waited for";
  p.world->pause_server(true);
  auto bytes = pattern(64, 9);
  const iovec local = segment(bytes);
  const Completion late = p.one({.verb = Verb::kWritePersist,
                                 .deadline = p.in(milliseconds(50)),
                                 .remote = p.at(0),
                                 .local = {&local, 1}});
  EXPECT_EQ(late.error, ETIMEDOUT);
  p.world->pause_server(false);
  EXPECT_EQ(p.read(bytes, p.at(0)).error, 0) << "the endpoint goes on";
}

TEST_P(Conformance, GoesOnAfterTheConnectionBroke) {
  BTD_PAIR(p);
  const std::uint64_t steps = p.world->is_far() ? 120 : 300;
  std::vector<std::byte> data = pattern(4096, 1);
  std::vector<std::byte> back(4096);
  std::uint64_t word = 0, step = 0;
  while (step < steps) {
    const std::size_t before = p.asked.completions.size();
    std::size_t count = 0;
    const iovec out = segment(data), in = segment(back), message = {&word, sizeof(word)};
    word = step;
    for (int i = 0; i < 4; ++i, ++step, count += 3) {
      ASSERT_TRUE(p.endpoint->cas8(p.at(0), step, step + 1, step, p.in(kPatience)).has_value());
      ASSERT_TRUE(
          p.endpoint->write_persist({&out, 1}, p.at(4096), step, p.in(kPatience)).has_value());
      ASSERT_TRUE(p.endpoint->read({&in, 1}, p.at(4096), step, p.in(kPatience)).has_value());
    }
    ASSERT_TRUE(p.endpoint->send({&message, 1}, step, p.in(kPatience)).has_value());
    ++count;
    // Before they are sent, while they are done, or when their answers are on the way.
    std::uint64_t turns = step % 12 == 0 ? step / 12 % 16 : UINT64_MAX;
    ASSERT_TRUE(p.world->run_until(
        [&] {
          if (turns != UINT64_MAX && turns-- == 0) p.world->cut();
          return p.asked.completions.size() >= before + count;
        },
        kPatience))
        << step;
    if (turns != UINT64_MAX) p.world->cut();
    for (std::size_t i = before; i < p.asked.completions.size(); ++i) {
      const Completion& completion = p.asked.completions[i];
      ASSERT_EQ(completion.error, 0) << step << ", operation " << i - before;
      if (i - before < 12 && (i - before) % 3 == 0) {
        ASSERT_EQ(completion.value, completion.token) << "a swap ran twice, or not at all";
      }
    }
    ASSERT_EQ(back, data);
  }
  EXPECT_GT(p.asked.ups, static_cast<int>(steps / 30));
  std::uint64_t count = 0;
  std::memcpy(&count, p.memory.data(), sizeof(count));
  EXPECT_EQ(count, steps);
  ASSERT_EQ(p.served.messages.size(), steps / 4) << "a message came twice, or not at all";
  for (std::uint64_t i = 0; i < steps / 4; ++i)
    EXPECT_EQ(std::memcmp(p.served.messages[i].data(), &(word = 4 * i), sizeof(word)), 0);
}

TEST_P(Conformance, ClosesOnBothSides) {
  BTD_PAIR(p);
  std::vector<std::byte> bytes(64);
  const iovec local = segment(bytes);
  p.world->pause_server(true);
  ASSERT_TRUE(p.endpoint->read({&local, 1}, p.at(0), 1, p.in(kPatience)).has_value());
  p.endpoint->close();
  EXPECT_EQ(p.endpoint->read({&local, 1}, p.at(0), 2, p.in(kPatience)).error().code, ENOTCONN);
  ASSERT_TRUE(p.world->run_until([&] { return p.asked.closes == 1; }, kPatience));
  ASSERT_EQ(p.asked.completions.size(), 1U) << "every operation completes, before the last call";
  EXPECT_TRUE(p.asked.completions[0].error == ECONNRESET ||
              p.asked.completions[0].error == ECANCELED);
  p.world->pause_server(false);
  EXPECT_TRUE(p.world->run_until([&] { return p.served.closes == 1; }, kPatience));
}

TEST_P(Conformance, SaysThatNobodyListens) {
  BTD_PAIR(p);
  const std::string address = p.world->address();
  p.world->kill_server();
  Recorder lonely;
  ASSERT_TRUE(p.world->client().connect(address, lonely).has_value());
  ASSERT_TRUE(p.world->run_until([&] { return lonely.closes == 1; }, kPatience));
  EXPECT_NE(lonely.last.code, 0);
  EXPECT_FALSE(lonely.last.message.empty());
  EXPECT_EQ(lonely.ups, 0);
}

TEST_P(Conformance, OutlivesItsPeer) {
  BTD_PAIR(p);
  std::vector<std::byte> bytes(64);
  const iovec local = segment(bytes);
  ASSERT_TRUE(p.endpoint->write_persist({&local, 1}, p.at(0), 1, p.in(kPatience)).has_value());
  p.world->kill_server();
  ASSERT_TRUE(p.world->run_until([&] { return p.asked.closes == 1; }, kPatience));
  ASSERT_EQ(p.asked.completions.size(), 1U);
}

TEST_P(Conformance, OneEndpointDoesNotWaitForAnother) {
  BTD_PAIR(p);
  Recorder second;
  const auto other = p.world->client().connect(p.world->address(), second);
  ASSERT_TRUE(other.has_value());
  ASSERT_TRUE(p.world->run_until([&] { return second.ups == 1; }, kPatience));
  // The first asks for more than its share, and a long transfer is under way all the time.
  std::vector<std::byte> large(2 << 20);
  const iovec local = segment(large);
  for (Token token = 0; token < 16; ++token)
    ASSERT_TRUE(p.endpoint->read({&local, 1}, p.at(0), token, p.in(kPatience)).has_value());
  std::vector<std::byte> bytes(64);
  const iovec small = segment(bytes);
  ASSERT_TRUE((*other)->read({&small, 1}, p.at(0), 1, p.in(kPatience)).has_value());
  ASSERT_TRUE(p.world->run_until([&] { return second.completions.size() == 1; }, kPatience));
  EXPECT_LT(p.asked.completions.size(), 16U);
  EXPECT_TRUE(p.complete(16));
}

TEST_P(Conformance, ServesManyEndpoints) {
  BTD_PAIR(p);
  constexpr std::size_t kCount = 50;
  std::vector<Recorder> recorders(kCount);
  std::vector<std::uint64_t> words(kCount);
  std::vector<Endpoint*> endpoints;
  for (Recorder& recorder : recorders) {
    auto connected = p.world->client().connect(p.world->address(), recorder);
    ASSERT_TRUE(connected.has_value());
    endpoints.push_back(*connected);
  }
  for (std::size_t i = 0; i < kCount; ++i) {  // posted before they are up
    words[i] = i;
    const iovec local = {&words[i], sizeof(words[i])};
    ASSERT_TRUE(
        endpoints[i]->write_persist({&local, 1}, p.at(8 * i), i, p.in(kPatience)).has_value());
  }
  ASSERT_TRUE(p.world->run_until(
      [&] {
        return std::ranges::all_of(recorders, [](const Recorder& r) {
          return r.completions.size() == 1 && r.completions[0].error == 0;
        });
      },
      kPatience));
  for (std::size_t i = 0; i < kCount; ++i)
    EXPECT_EQ(std::memcmp(p.memory.data() + 8 * i, &words[i], sizeof(words[i])), 0);
}

TEST_P(Conformance, ThreadsSubmitWork) {
  BTD_PAIR(p);
  std::vector<std::byte> bytes(64);
  const iovec local = segment(bytes);
  std::thread other([&] {
    const Status submitted = p.world->client().submit([&] {
      EXPECT_TRUE(p.endpoint->read({&local, 1}, p.at(0), 77, p.in(kPatience)).has_value());
    });
    EXPECT_TRUE(submitted.has_value());
  });
  if (p.world->is_simulated()) other.join();
  EXPECT_TRUE(p.complete(1));
  if (other.joinable()) other.join();
  ASSERT_FALSE(p.asked.completions.empty());
  EXPECT_EQ(p.asked.completions[0].token, 77U);
}

}  // namespace

}  // namespace btd::net
