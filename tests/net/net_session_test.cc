// Sessions, requesters and connections by themselves: what a network that is slow, or a peer that
// is not honest, may do to them.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "net/connection.h"

namespace btd::net {
namespace {

using std::chrono::seconds;

template <class T>
void append(std::vector<std::byte>& to, const T& header) {
  const auto bytes = std::as_bytes(std::span{&header, 1});
  to.insert(to.end(), bytes.begin(), bytes.end());
}

class Sink final : public MessageSink {
 public:
  int on_message(std::span<const std::byte> /*message*/) override {
    ++messages;
    return refusal;
  }
  int messages = 0;
  int refusal = 0;
};

constexpr wire::SessionId kId{.high = 1, .low = 2};

// One node's end of a stream, and the bytes that are on the way to it.
struct Side {
  Side(std::uint64_t seed, const Limits& limits)
      : regions(seeded_random(seed)), session(kId, regions, limits) {}
  void connect() { connection.emplace(session, sink); }
  [[nodiscard]] std::vector<Completion> completions() {
    std::vector<Completion> taken;
    session.requester().take_completions(taken);
    return taken;
  }

  RegionTable regions;
  Session session;
  Sink sink;
  std::optional<Connection> connection;
  std::vector<std::byte> coming;
};

// Two sessions over a stream that holds a few bytes only, as sockets do.
class Streams : public ::testing::Test {
 protected:
  static constexpr std::size_t kPipe = 64 << 10;

  void start(const Limits& limits = {}) {
    for (auto& side : sides) side = std::make_unique<Side>(++seed, limits);
    const auto answer = one().session.accept(zero().session.begin_attempt({.id = 1}), {.id = 2}, 7);
    ASSERT_TRUE(answer.has_value());
    ASSERT_TRUE(zero().session.answered(*answer).has_value());
    for (auto& side : sides) side->connect();
  }
  Side& zero() { return *sides[0]; }
  Side& one() { return *sides[1]; }

  // Sends what there is room for; how many bytes.
  static std::size_t send(Side& from, Side& to) {
    std::size_t moved = 0;
    std::array<iovec, 16> segments{};
    while (to.coming.size() < kPipe) {
      const std::size_t n = from.connection->gather(segments, kPipe - to.coming.size());
      std::size_t count = 0;
      for (const iovec& segment : std::span{segments}.first(n)) {
        const auto* bytes = static_cast<const std::byte*>(segment.iov_base);
        to.coming.insert(to.coming.end(), bytes, bytes + segment.iov_len);
        count += segment.iov_len;
      }
      if (count == 0) break;
      from.connection->sent(count);
      moved += count;
    }
    return moved;
  }
  static std::size_t receive(Side& side) {
    if (side.connection->is_full()) return 0;
    EXPECT_TRUE(side.connection->feed(side.coming, 0).has_value());
    const std::size_t moved = side.coming.size();
    side.coming.clear();
    return moved;
  }
  // Both ways at once; false: nothing moves any more.
  bool carry() {
    const std::size_t sent = send(zero(), one()) + send(one(), zero());
    return sent + receive(zero()) + receive(one()) > 0;
  }

  std::array<std::unique_ptr<Side>, 2> sides;
  std::uint64_t seed = 0;
};

TEST_F(Streams, BothReadFromEachOtherMoreThanAQueueHolds) {
  start();
  std::vector<std::byte> memory(8 << 20, std::byte{1});
  std::array<std::vector<std::byte>, 2> into;
  for (std::size_t i = 0; i < 2; ++i) {
    into.at(i).resize(memory.size());
    const auto region = sides.at(1 - i)->regions.add(memory, kRemoteRead, nullptr);
    ASSERT_TRUE(region.has_value());
    const iovec local{into.at(i).data(), into.at(i).size()};
    ASSERT_TRUE(
        sides.at(i)
            ->session.requester()
            .post({.verb = Verb::kRead, .remote = {region->key, 0}, .local = {&local, 1}}, 0)
            .has_value());
  }
  while (carry()) continue;
  for (auto& side : sides) EXPECT_EQ(side->completions().size(), 1U) << "each waits for the other";
  EXPECT_TRUE(into[0] == memory && into[1] == memory);
}

// What comes from a peer that reads all the time does not keep it from being asked something.
TEST_F(Streams, RequestsLeaveWhileAnswersAreQueued) {
  start();
  std::vector<std::byte> memory(2 << 20), into(2 << 20);
  const auto region = one().regions.add(memory, kRemoteRead, nullptr);
  ASSERT_TRUE(region.has_value());
  const iovec local{into.data(), into.size()};
  const Operation read{.verb = Verb::kRead, .remote = {region->key, 0}, .local = {&local, 1}};
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(zero().session.requester().post(read, 0).has_value());
  std::array<std::byte, 8> message{};
  std::size_t reads = 0;
  for (; reads < 100 && zero().sink.messages == 0; ++reads) {
    while (!zero().session.requester().has_completions()) ASSERT_TRUE(carry());
    EXPECT_EQ(zero().completions().size(), 1U);
    ASSERT_TRUE(zero().session.requester().post(read, 0).has_value());
    if (reads == 0) {
      const iovec from{message.data(), message.size()};
      ASSERT_TRUE(one()
                      .session.requester()
                      .post({.verb = Verb::kSend, .local = {&from, 1}}, 0)
                      .has_value());
    }
  }
  EXPECT_LT(reads, 20U) << "the message never left";
}

class LateAnswers : public Streams {
 protected:
  // A message from one side; what its receiver answers is still there.
  static void message(Side& from, Side& to) {
    std::array<std::byte, 8> bytes{};
    const iovec local{bytes.data(), bytes.size()};
    ASSERT_TRUE(
        from.session.requester().post({.verb = Verb::kSend, .local = {&local, 1}}, 0).has_value());
    send(from, to);
    receive(to);
  }
  std::size_t completed() { return zero().completions().size(); }
};

TEST_F(LateAnswers, GoWithWhatLeavesNext) {
  start();
  message(zero(), one());
  EXPECT_FALSE(one().connection->has_output());
  EXPECT_TRUE(one().connection->has_late());
  EXPECT_TRUE(one().connection->is_taken());
  EXPECT_FALSE(one().connection->is_drained());
  message(one(), zero());
  EXPECT_EQ(completed(), 1U);
  EXPECT_FALSE(one().connection->has_late());
}

TEST_F(LateAnswers, GoByThemselvesWhenTheyHaveWaitedLongEnough) {
  start();
  message(zero(), one());
  one().connection->hurry();
  EXPECT_TRUE(one().connection->has_output());
  while (carry()) continue;
  EXPECT_EQ(completed(), 1U);
  message(zero(), one());
  EXPECT_FALSE(one().connection->has_output()) << "the haste was that of the first";
}

TEST_F(LateAnswers, OfManyMessagesWaitForNothing) {
  start();
  for (int i = 0; i < 15; ++i) message(zero(), one());
  EXPECT_FALSE(one().connection->has_output());
  message(zero(), one());
  EXPECT_TRUE(one().connection->has_output());
}

TEST_F(LateAnswers, AreNeverThoseThatSomebodyWaitsFor) {
  start();
  one().sink.refusal = EBUSY;
  message(zero(), one());
  EXPECT_TRUE(one().connection->has_output()) << "it is an error";
  while (carry()) continue;
  one().sink.refusal = 0;
  message(zero(), one());
  ASSERT_TRUE(zero().session.requester().post({.verb = Verb::kNone}, 0).has_value());
  send(zero(), one());
  receive(one());
  EXPECT_TRUE(one().connection->has_output()) << "behind it is one that is no message's";
}

TEST_F(LateAnswers, GoBeforeTheLastFrame) {
  start();
  message(zero(), one());
  one().connection->say_bye();
  while (carry()) continue;
  EXPECT_EQ(completed(), 1U);
  EXPECT_TRUE(zero().connection->has_bye());
}

TEST_F(Streams, RefusesAFrameOfAnUnknownKind) {
  start();
  ASSERT_TRUE(one().session.requester().post({.verb = Verb::kNone}, 0).has_value());
  std::array<iovec, 4> segments{};
  ASSERT_GT(one().connection->gather(segments, SIZE_MAX), 0U);
  wire::ResponseHeader header;
  header.type = static_cast<wire::FrameType>(99);
  std::vector<std::byte> bytes;
  append(bytes, wire::sealed(header));
  const auto fed = one().connection->feed(bytes, 0);
  ASSERT_FALSE(fed.has_value());
  EXPECT_EQ(fed.error().code, EPROTO);
}

TEST_F(Streams, AnswersMayComeWhileItCloses) {
  start();
  std::vector<std::byte> memory(4096), into(4096);
  const auto region = one().regions.add(memory, kRemoteRead, nullptr);
  ASSERT_TRUE(region.has_value());
  const iovec local{into.data(), into.size()};
  ASSERT_TRUE(zero()
                  .session.requester()
                  .post({.verb = Verb::kRead, .remote = {region->key, 0}, .local = {&local, 1}}, 0)
                  .has_value());
  send(zero(), one());
  zero().session.requester().down();
  zero().connection->say_bye();
  receive(one());
  send(one(), zero());
  receive(zero());
  send(zero(), one());
  receive(one());
  EXPECT_TRUE(one().connection->has_bye());
}

class Requests : public ::testing::Test {
 protected:
  void up(bool is_known = false, std::uint32_t message_bytes = 1 << 20) {
    requester.up({.window = 16,
                  .message_bytes = message_bytes,
                  .transfer_bytes = 1 << 20,
                  .is_known = is_known});
  }
  void post(Verb verb, Time deadline, Token token) {
    const iovec local{bytes.data(), bytes.size()};
    ASSERT_TRUE(
        requester
            .post({.verb = verb, .token = token, .deadline = deadline, .local = {&local, 1}}, 0)
            .has_value());
  }
  void answer(std::uint64_t seq, Verb verb) {
    wire::ResponseHeader header;
    header.seq = seq;
    header.verb = static_cast<std::uint8_t>(verb);
    ASSERT_TRUE(requester.begin_response(header).has_value());
    requester.end_response(header);
  }
  std::vector<Completion> completions() {
    std::vector<Completion> taken;
    requester.take_completions(taken);
    return taken;
  }

  std::vector<std::byte> bytes = std::vector<std::byte>(4096);
  Requester requester{Limits{}};
};

// A peer that answers a write before it took its bytes, and then takes none.
TEST_F(Requests, ADeadlineEndsWhatIsAnsweredButPinned) {
  up();
  post(Verb::kWritePersist, seconds(5), 1);
  ASSERT_TRUE(requester.next().has_value());
  answer(0, Verb::kWritePersist);
  EXPECT_TRUE(completions().empty()) << "its bytes are still referred to";
  EXPECT_LE(requester.next_deadline(), seconds(5));
  EXPECT_FALSE(requester.expire(seconds(6))) << "the connection must end";
  requester.unpin(0);
  EXPECT_EQ(completions().size(), 1U);
}

// A peer that leaves out an answer: what came after it completes all the same.
TEST_F(Requests, AnswersDoNotWaitForANumberThatWasGivenUp) {
  up();
  post(Verb::kRead, seconds(1), 1);
  post(Verb::kSend, kNever, 2);
  post(Verb::kSend, seconds(3), 3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(requester.next().has_value());
  for (const std::uint64_t seq : {1U, 2U}) requester.unpin(seq);
  answer(1, Verb::kSend);
  answer(2, Verb::kSend);
  EXPECT_TRUE(completions().empty()) << "they complete in order";
  EXPECT_TRUE(requester.expire(seconds(2)));
  const auto done = completions();
  ASSERT_EQ(done.size(), 3U);
  EXPECT_EQ(done[0].error, ETIMEDOUT);
  EXPECT_EQ(done[1].error, 0);
  EXPECT_EQ(done[2].error, 0);
  EXPECT_EQ(requester.oldest(), 0U) << "its number is still needed";
}

TEST_F(Requests, ADeadlineHoldsForWhatIsAnsweredOutOfOrder) {
  up();
  post(Verb::kRead, kNever, 1);
  post(Verb::kRead, seconds(3), 2);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(requester.next().has_value());
  wire::ResponseHeader header;
  header.seq = 1;
  header.verb = static_cast<std::uint8_t>(Verb::kRead);
  header.length = 4096;
  ASSERT_TRUE(requester.begin_response(header).has_value());
  requester.end_response(header);
  EXPECT_TRUE(completions().empty());
  EXPECT_TRUE(requester.expire(seconds(4)));
  const auto done = completions();
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].token, 2U);
  EXPECT_EQ(done[0].error, ETIMEDOUT);
}

TEST_F(Requests, SaysThatTheOutcomeIsUnknownWhenTheLimitShrank) {
  up();
  post(Verb::kSend, kNever, 1);
  ASSERT_TRUE(requester.next().has_value());
  requester.down();
  requester.unpin(0);
  up(true, 100);
  const auto done = completions();
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].error, ECONNRESET) << "it may have been taken";
}

TEST_F(Requests, AnAnswerThatNobodyTookYetIsNoTimeout) {
  up();
  post(Verb::kSend, seconds(1), 1);
  ASSERT_TRUE(requester.next().has_value());
  requester.unpin(0);
  answer(0, Verb::kSend);
  EXPECT_TRUE(requester.has_completions());
  EXPECT_TRUE(requester.expire(seconds(2)));
  const auto done = completions();
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].error, 0);
  EXPECT_FALSE(requester.has_completions());
}

// Operations of several segments come and go, and each keeps its own.
TEST_F(Requests, KeepsTheSegmentsOfEach) {
  up();
  const auto segments_for = [&](std::uint64_t seq) {
    std::vector<iovec> segments;
    for (std::uint64_t i = 0; i < seq % (kMaxSegments + 1); ++i)
      segments.push_back({.iov_base = bytes.data() + seq, .iov_len = i + 1});
    return segments;
  };
  std::uint64_t posted = 0;
  for (std::uint64_t round = 0; round < 50; ++round) {
    for (int i = 0; i < 7; ++i, ++posted) {
      const auto segments = segments_for(posted);
      const Time deadline = posted % 5 == 0 ? seconds(1) : kNever;
      ASSERT_TRUE(
          requester.post({.verb = Verb::kRead, .deadline = deadline, .local = segments}, 0));
    }
    EXPECT_TRUE(requester.expire(seconds(2)));
    for (std::uint64_t seq = posted - 7; seq < posted; ++seq) {
      const auto kept = requester.segments(seq);
      const auto wanted = seq % 5 == 0 ? std::vector<iovec>{} : segments_for(seq);
      EXPECT_TRUE(std::ranges::equal(kept, wanted, [](const iovec& a, const iovec& b) {
        return a.iov_base == b.iov_base && a.iov_len == b.iov_len;
      })) << seq;
    }
    while (requester.next().has_value()) continue;
    for (std::uint64_t seq = posted - 7; seq < posted; ++seq) {
      wire::ResponseHeader header;
      header.seq = seq;
      header.verb = static_cast<std::uint8_t>(seq % 5 == 0 ? Verb::kNone : Verb::kRead);
      header.error = EIO;
      header.value = seq;
      ASSERT_TRUE(requester.begin_response(header).has_value());
      requester.end_response(header);
    }
    ASSERT_EQ(completions().size(), 7U);
  }
}

TEST_F(Requests, RefusesWhatNoPeerWouldTake) {
  const iovec local{bytes.data(), 8};
  EXPECT_EQ(requester.post({.verb = Verb::kNone, .local = {&local, 1}}, 0).error().code, EINVAL);
  EXPECT_EQ(requester.post({.verb = static_cast<Verb>(9)}, 0).error().code, EINVAL);
  const std::array<iovec, 2> endless{iovec{bytes.data(), SIZE_MAX}, iovec{bytes.data(), 9}};
  EXPECT_EQ(requester.post({.verb = Verb::kRead, .local = endless}, 0).error().code, EMSGSIZE);
}

}  // namespace
}  // namespace btd::net
