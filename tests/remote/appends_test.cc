// Appends of several nodes to one file, asked for again by a worker that replaced another.
#include "fs/remote/appends.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

wire::AppendRequest request(std::uint64_t unique, std::uint32_t slot, std::uint32_t part,
                            bool again = false) {
  return {.id = id_of(1),
          .session = 7,
          .unique = unique,
          .slot = slot,
          .part = part,
          .flags = again ? wire::kAppendAgain : 0U};
}

TEST(Appends, EachPartIsDoneOnce) {
  Appends appends;
  EXPECT_TRUE(appends.begin(kClient, request(1, 0, 0)).value());
  EXPECT_EQ(appends.begin(kClient, request(1, 0, 0)).error().code, EBUSY);
  appends.end(kClient, request(1, 0, 0), true);
  EXPECT_FALSE(appends.begin(kClient, request(1, 0, 0)).value());
  EXPECT_EQ(appends.begin(kClient, request(1, 0, 2)).error().code, EPROTO);
  EXPECT_TRUE(appends.begin(kClient, request(1, 0, 1)).value());
  appends.end(kClient, request(1, 0, 1), false);  // it failed: it may be asked for again
  EXPECT_TRUE(appends.begin(kClient, request(1, 0, 1)).value());
  appends.end(kClient, request(1, 0, 1), true);
  // From another slot, as a new worker sends it; and the slot's next request.
  EXPECT_FALSE(appends.begin(kClient, request(1, 9, 0, true)).value());
  EXPECT_FALSE(appends.begin(kClient, request(1, 9, 1, true)).value());
  EXPECT_TRUE(appends.begin(kClient, request(2, 0, 0)).value());
}

TEST(Appends, PeersAndSessionsAreApart) {
  Appends appends;
  EXPECT_TRUE(appends.begin(kClient, request(1, 0, 0)).value());
  EXPECT_TRUE(appends.begin(kClient + 1, request(1, 0, 0)).value());
  auto other = request(1, 0, 0);
  other.session = 8;
  EXPECT_TRUE(appends.begin(kClient, other).value());
}

TEST(RemoteFiles, AppendsOfThreadsAreAllThere) {
  constexpr int kClients = 3, kLines = 100;
  World world;
  const InodeId id = id_of(1);
  world.files().make(id, 0);
  std::vector<std::thread> threads;
  for (int client = 0; client < kClients; ++client)
    threads.emplace_back([&, client] {
      const auto files = world.client();
      ASSERT_TRUE(files->open(id, true));
      for (int i = 0; i < kLines; ++i) {
        const std::vector line(1 + static_cast<std::size_t>(i), std::byte(client * kLines + i + 1));
        const RemoteFiles::AppendTag tag{.unique = static_cast<std::uint64_t>(i) + 1};
        ASSERT_TRUE(files->append(id, tag, line));
        // As a worker that replaced one does, whose answer was lost.
        if (i % 7 == 0) {
          auto again = tag;
          again.is_resent = true;
          again.slot = 5;
          ASSERT_TRUE(files->append(id, again, line));
        }
      }
      files->close(id);
    });
  for (std::thread& thread : threads) thread.join();
  const auto reader = world.client();
  ASSERT_TRUE(reader->open(id, false));
  std::vector<std::byte> all(1 << 20);
  const auto size = reader->read(id, 0, all);
  ASSERT_TRUE(size);
  EXPECT_EQ(*size, kClients * kLines * (kLines + 1) / 2U);
  reader->close(id);
}

TEST(RemoteFiles, AnAppendOfManyPartsIsOneWhole) {
  World world;
  const InodeId id = id_of(2);
  world.files().make(id, 10, 'x');
  const auto files = world.client();
  ASSERT_TRUE(files->open(id, true));
  const auto bytes = random_bytes(300'000, 1);
  ASSERT_TRUE(files->append(id, {.unique = 1}, bytes));
  ASSERT_TRUE(files->append(id, {.unique = 1, .slot = 3, .is_resent = true}, bytes));
  std::vector<std::byte> read(400'000);
  EXPECT_EQ(files->read(id, 0, read).value(), 300'010U);
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), read.begin() + 10));
  files->close(id);
}

TEST(RemoteFiles, TheRegionOfRemovedDataGoesAtOnce) {
  World world;
  const InodeId id = id_of(3);
  world.files().make(id, 1 << 20, 'x');
  const auto files = world.client();
  ASSERT_TRUE(files->open(id, false));
  EXPECT_EQ(world.home().service().counters().mapped, 1U);
  world.files().remove(id);
  world.home().service().data_gone(id);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (world.home().service().counters().mapped != 0 && std::chrono::steady_clock::now() < until)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(world.home().service().counters().mapped, 0U);
  files->close(id);
}

}  // namespace
}  // namespace btd::remote
