// Files that move to other homes: who else has one open, and who has not heard of it yet.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using std::chrono::milliseconds;

constexpr NodeId kElsewhere = 9;
constexpr std::uint64_t kNumber = 77;

TEST(RemoteMoves, AreRefusedWhileAnotherClientHasTheFileOpen) {
  World world;
  world.files().make(id_of(1), 1000);
  const auto program = world.client(), mover = world.client();
  ASSERT_TRUE(mover->open(id_of(1), false));
  ASSERT_TRUE(mover->reserve(id_of(1), kNumber));
  EXPECT_EQ(world.files().reserved(), kNumber);
  ASSERT_TRUE(program->open(id_of(1), false));
  const Status refused = mover->yield(id_of(1), kNumber, kClient);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ETXTBSY);
  EXPECT_NE(refused.error().message.find("node " + std::to_string(kClient)), std::string::npos);
  EXPECT_EQ(mover->reserve(id_of(1), kNumber).error().code, ETXTBSY);
  program->close(id_of(1));
  EXPECT_EQ(mover->yield(id_of(1), kNumber, kClient).error().code, ECONNABORTED) << "it was used";
  ASSERT_TRUE(mover->reserve(id_of(1), kNumber));
  ASSERT_TRUE(mover->open(id_of(1), true));  // itself again
  ASSERT_TRUE(mover->yield(id_of(1), kNumber, kClient));
  EXPECT_EQ(world.files().yielded_to(), kClient);
  EXPECT_EQ(mover->yield(id_of(1), kNumber + 1, kClient).error().code, ECONNABORTED);
  EXPECT_EQ(mover->yield(id_of(1), kNumber, kHome).error().code, EINVAL);
  mover->close(id_of(1));
}

TEST(RemoteMoves, AreRefusedWhileAProgramHasALock) {
  World world;
  world.files().make(id_of(1), 1000);
  const auto mover = world.client();
  const LockClient program{kClient, 5};
  ASSERT_TRUE(mover->open(id_of(1), false));
  LockService& locks = world.home().service().locks();
  for (const std::uint32_t kind : {0U, 0U + wire::kLockFile}) {
    const wire::LockRequest request{
        .id = id_of(1), .owner = 1, .end = 9, .flags = kind | wire::kLockExclusive};
    ASSERT_TRUE(locks.lock(program, request));
    EXPECT_EQ(mover->reserve(id_of(1), kNumber).error().code, ETXTBSY);
    ASSERT_TRUE(locks.unlock(program, request));
    ASSERT_TRUE(mover->reserve(id_of(1), kNumber));
    ASSERT_TRUE(locks.lock(program, request));
    EXPECT_EQ(mover->yield(id_of(1), kNumber, kClient).error().code, ETXTBSY);
    ASSERT_TRUE(locks.unlock(program, request));
  }
  EXPECT_TRUE(mover->yield(id_of(1), kNumber, kClient));
  mover->close(id_of(1));
}

// Who copies from a mapping that breaks may have got zeros.
TEST(RemoteMoves, AreRefusedWhereBytesCouldNotBeRead) {
  World world;
  world.files().make(id_of(1), 1 << 20, 'a');
  const auto mover = world.client(std::chrono::seconds(2));
  std::vector<std::byte> into(100);  // longer ones are read by the kernel, which says so
  ASSERT_TRUE(mover->open(id_of(1), false));
  ASSERT_TRUE(mover->reserve(id_of(1), kNumber));
  ASSERT_TRUE(mover->read(id_of(1), 0, into));
  std::filesystem::resize_file(world.files().path(id_of(1)), 4096);
  static_cast<void>(mover->read(id_of(1), 512 << 10, into));
  EXPECT_EQ(mover->yield(id_of(1), kNumber, kClient).error().code, ECONNABORTED);
  ASSERT_TRUE(mover->reserve(id_of(1), kNumber));
  EXPECT_TRUE(mover->yield(id_of(1), kNumber, kClient));
  mover->close(id_of(1));
}

// The home hears of a move before this node does, or after it: both agree in a moment.
TEST(RemoteMoves, AreFollowed) {
  std::atomic<NodeId> home{kElsewhere};
  World world({.home_of = [&](InodeId) { return home.load(); }});
  world.files().make(id_of(1), 1000);
  const auto client = world.client();
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(50));
    home = kHome;
  });
  ASSERT_TRUE(client->open(id_of(1), true));
  later.join();
  EXPECT_EQ(client->attributes(id_of(1))->st_size, 1000);
  // One that is open does not move, unless home took this node for dead.
  home = kElsewhere;
  std::byte byte{};
  EXPECT_EQ(client->write(id_of(1), 5000, {&byte, 1}).error().code, ESTALE);
  home = kHome;
  client->close(id_of(1));
}

TEST(RemoteMoves, AFileThatCameHereIsToBeLookedUpAgain) {
  World world;
  world.files().make(id_of(1), 1000);
  std::atomic<NodeId> home{kHome};
  const auto client =
      world.client(std::chrono::seconds(5), {}, {},
                   {.home_of = [&](InodeId) { return home.load(); }, .own = kClient});
  EXPECT_TRUE(client->attributes(id_of(1)));
  home = kClient;
  EXPECT_EQ(client->open(id_of(1), false).error().code, ESTALE);
  EXPECT_EQ(client->attributes(id_of(1)).error().code, ESTALE);
  EXPECT_EQ(client->counters().open, 0);
}

TEST(RemoteMoves, OfWhatNobodyKnowsFailInTime) {
  World world({.home_of = [](InodeId) { return kElsewhere; }});
  world.files().make(id_of(1), 1000);
  const auto client = world.client(milliseconds(100));
  EXPECT_EQ(client->open(id_of(1), false).error().code, ETIMEDOUT);
}

}  // namespace
}  // namespace btd::remote
