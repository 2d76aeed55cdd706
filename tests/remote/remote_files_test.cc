// What the files of another node do, seen from a node that has them open.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using std::chrono::seconds;
using Bytes = std::vector<std::byte>;

constexpr InodeId kFile = id_of(100);

Bytes read_all(RemoteFiles& files, InodeId id, std::uint64_t offset, std::size_t size) {
  Bytes bytes(size);
  const auto got = files.read(id, offset, bytes);
  EXPECT_TRUE(got) << got.error().message;
  bytes.resize(got.value_or(0));
  return bytes;
}

TEST(RemoteFiles, ReadsAndWritesOneSided) {
  World world;
  world.files().make(kFile, 3 << 20, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Bytes written = random_bytes((2 << 20) + 4321, 1);
  ASSERT_TRUE(client->write(kFile, 1234, written));
  EXPECT_EQ(read_all(*client, kFile, 1234, written.size()), written);
  const Bytes home = at_home(world, kFile);
  EXPECT_EQ(home.size(), 3U << 20);
  EXPECT_TRUE(std::ranges::equal(std::span{home}.subspan(1234, written.size()), written));
  const auto counters = client->counters();
  EXPECT_GT(counters.reads, 1U);  // split
  EXPECT_GT(counters.writes, 1U);
  EXPECT_EQ(counters.calls, 1U);  // the attach
  client->close(kFile);
}

TEST(RemoteFiles, ReadsEndAtTheEndOfTheFile) {
  World world;
  world.files().make(kFile, 1000, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, false));
  EXPECT_EQ(read_all(*client, kFile, 0, 4096).size(), 1000U);
  EXPECT_EQ(client->counters().calls, 1U);  // what the open learned was enough
  EXPECT_EQ(read_all(*client, kFile, 1000, 4096).size(), 0U);
  EXPECT_EQ(read_all(*client, kFile, 5000, 10).size(), 0U);
  client->close(kFile);
}

TEST(RemoteFiles, SeesWhatGrewElsewhere) {
  World world;
  world.files().make(kFile, 1000, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, false));
  EXPECT_EQ(read_all(*client, kFile, 0, 4096).size(), 1000U);
  world.files().make(kFile, 9000, 'b');
  const Bytes got = read_all(*client, kFile, 0, 20000);
  ASSERT_EQ(got.size(), 9000U);
  EXPECT_EQ(got.back(), std::byte{'b'});
  client->close(kFile);
}

TEST(RemoteFiles, WritesMakeItLonger) {
  World world;
  world.files().make(kFile, 0);
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  Bytes model;
  for (const std::size_t size : {1UL, 4095UL, 70'000UL, 700'001UL}) {
    const Bytes more = random_bytes(size, size);
    ASSERT_TRUE(client->write(kFile, model.size(), more));
    model.insert(model.end(), more.begin(), more.end());
    EXPECT_EQ(read_all(*client, kFile, 0, model.size() + 100), model);
  }
  EXPECT_EQ(at_home(world, kFile), model);
  client->close(kFile);
}

// At home another program may have made it shorter meanwhile; the daemon there says so first.
TEST(RemoteFiles, ChangesOfTheSizeMoveTheEnd) {
  World world;
  world.files().make(kFile, 300'000, 'a');
  const auto client = world.client(), other = world.client();
  ASSERT_TRUE(client->open(kFile, true) && other->open(kFile, true));
  EXPECT_EQ(read_all(*other, kFile, 0, 300'000).size(), 300'000U);
  const auto shorter = client->change(kFile, {.size = 100'000});
  ASSERT_TRUE(shorter) << shorter.error().message;
  EXPECT_EQ(shorter->st_size, 100'000);
  EXPECT_EQ(world.home().service().counters().mapped, 0U);  // it went first
  EXPECT_EQ(read_all(*client, kFile, 0, 300'000).size(), 100'000U);
  EXPECT_EQ(read_all(*other, kFile, 0, 300'000).size(), 100'000U);  // its region went
  EXPECT_EQ(read_all(*other, kFile, 200'000, 10).size(), 0U);
  ASSERT_TRUE(client->change(kFile, {.size = 200'000}));
  const Bytes got = read_all(*other, kFile, 99'999, 300'000);
  ASSERT_EQ(got.size(), 100'001U);
  EXPECT_EQ(got[0], std::byte{'a'});
  EXPECT_TRUE(
      std::all_of(got.begin() + 1, got.end(), [](std::byte b) { return b == std::byte{}; }));
  EXPECT_EQ(client->change(kFile, {.size = UINT64_MAX}).error().code, EFBIG);
}

TEST(RemoteFiles, ChangesOfTimesAreThoseOfHome) {
  World world;
  world.files().make(kFile, 10);
  const auto client = world.client();
  const auto set = client->change(kFile, {.atime = {-5, 7}, .mtime = {1'700'000'000, 123'456'789}});
  ASSERT_TRUE(set);
  const auto got = client->attributes(kFile);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->st_atim.tv_sec, -5);
  EXPECT_EQ(got->st_atim.tv_nsec, 7);
  EXPECT_EQ(got->st_mtim.tv_sec, 1'700'000'000);
  EXPECT_EQ(got->st_mtim.tv_nsec, 123'456'789);
  EXPECT_EQ(got->st_size, 10);
  EXPECT_EQ(got->st_ino, kFile);
  const auto now = client->change(kFile, {.mtime = {0, UTIME_NOW}});
  ASSERT_TRUE(now);
  EXPECT_GT(now->st_mtim.tv_sec, 1'700'000'000);
  EXPECT_EQ(now->st_atim.tv_sec, -5);
}

// A one-sided write is not seen by home's file system: the flush after it is what sets the time.
TEST(RemoteFiles, FlushSetsTheTimeOfWrites) {
  World world;
  world.files().make(kFile, 100);
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  ASSERT_TRUE(client->change(kFile, {.mtime = {1000, 0}}));
  ASSERT_TRUE(client->flush(kFile));
  EXPECT_EQ(client->attributes(kFile)->st_mtim.tv_sec, 1000);  // nothing was written
  ASSERT_TRUE(client->write(kFile, 0, random_bytes(10, 1)));
  EXPECT_EQ(client->counters().writes, 1U);
  EXPECT_EQ(world.files().writes(), 0);
  ASSERT_TRUE(client->flush(kFile));
  EXPECT_GT(client->attributes(kFile)->st_mtim.tv_sec, 1000);
  EXPECT_EQ(world.files().writes(), 1);  // privilege bits go with it
  ASSERT_TRUE(client->change(kFile, {.mtime = {1000, 0}}));
  ASSERT_TRUE(client->write(kFile, 0, random_bytes(10, 2)));
  client->close(kFile);  // without a flush
  EXPECT_GT(client->attributes(kFile)->st_mtim.tv_sec, 1000);
}

TEST(RemoteFiles, SparseFilesAreReachedByCalls) {
  World world;
  world.files().make_sparse(kFile, 10 << 20);
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Bytes written = random_bytes(300'000, 1);
  ASSERT_TRUE(client->write(kFile, 5 << 20, written));
  EXPECT_EQ(read_all(*client, kFile, 5 << 20, written.size()), written);
  const Bytes before = read_all(*client, kFile, (5 << 20) - 1000, 1000);
  EXPECT_EQ(before, Bytes(1000));
  EXPECT_EQ(read_all(*client, kFile, (10 << 20) - 5, 1000).size(), 5U);
  EXPECT_EQ(read_all(*client, kFile, 20 << 20, 1000).size(), 0U);
  const auto counters = client->counters();
  EXPECT_EQ(counters.reads + counters.writes, 0U);
  EXPECT_EQ(client->seek(kFile, 0, SEEK_DATA).value_or(0), std::uint64_t{5} << 20);
  EXPECT_GE(client->seek(kFile, 5 << 20, SEEK_HOLE).value_or(0), (5U << 20) + written.size());
  EXPECT_EQ(client->seek(kFile, 11 << 20, SEEK_DATA).error().code, ENXIO);
  // It still has its holes.
  EXPECT_LT(client->attributes(kFile)->st_blocks * 512, 1 << 20);
}

TEST(RemoteFiles, HolesAreFilledWhenItIsOpenedForWriting) {
  World world;
  world.files().make(kFile, 0);
  ASSERT_EQ(::truncate(world.files().path(kFile).c_str(), 1 << 20), 0);
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, false));
  EXPECT_EQ(read_all(*client, kFile, 0, 100), Bytes(100));
  EXPECT_EQ(client->counters().reads, 0U);
  ASSERT_TRUE(client->open(kFile, true));
  ASSERT_TRUE(client->write(kFile, 0, random_bytes(100, 1)));
  EXPECT_EQ(read_all(*client, kFile, 0, 100), random_bytes(100, 1));
  EXPECT_EQ(client->counters().reads, 1U);
  EXPECT_EQ(client->counters().writes, 1U);
}

TEST(RemoteFiles, PunchedHolesEndTheRegion) {
  World world;
  world.files().make(kFile, 1 << 20, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  EXPECT_EQ(read_all(*client, kFile, 0, 10), Bytes(10, std::byte{'a'}));
  EXPECT_EQ(world.home().service().counters().mapped, 1U);
  ASSERT_TRUE(client->allocate(kFile, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 65536));
  EXPECT_EQ(world.home().service().counters().mapped, 0U);
  const Bytes got = read_all(*client, kFile, 65530, 12);
  EXPECT_EQ(std::ranges::count(got, std::byte{'a'}), 6);
  EXPECT_EQ(client->counters().reads, 1U);  // only the one before
  ASSERT_TRUE(client->allocate(kFile, 0, 0, 3 << 20));
  EXPECT_EQ(client->attributes(kFile)->st_size, 3 << 20);
  EXPECT_EQ(client->allocate(kFile, FALLOC_FL_COLLAPSE_RANGE, 0, 4096).error().code, EOPNOTSUPP);
}

TEST(RemoteFiles, OpenFilesAreHeld) {
  Bytes into(1);
  World world;
  world.files().make(kFile, 10);
  const auto client = world.client(), other = world.client();
  EXPECT_EQ(client->read(kFile, 0, into).error().code, EBADF);
  ASSERT_TRUE(client->open(kFile, true) && client->open(kFile, true) && other->open(kFile, false));
  EXPECT_EQ(world.files().holds(kFile), 2);
  client->close(kFile);
  EXPECT_EQ(world.files().holds(kFile), 2);
  // A hold that the keeper says again may pass the close, and is taken back when it is answered.
  client->close(kFile);
  EXPECT_TRUE(comes_true([&] { return world.files().holds(kFile) == 1; }));
  EXPECT_TRUE(world.home().service().is_held(kFile));
  other->close(kFile);
  EXPECT_TRUE(comes_true([&] { return world.files().holds(kFile) == 0; }));
  EXPECT_FALSE(world.home().service().is_held(kFile));
  EXPECT_EQ(client->read(kFile, 0, into).error().code, EBADF);
}

// Home is slow with what it is told again, and the client closes its last file meanwhile.
TEST(RemoteFiles, AHoldThatIsSaidAgainDoesNotOutliveTheFile) {
  World world;
  std::atomic<bool> is_slow{false};
  std::atomic<int> slow{0};
  world.files().before_holds([&](InodeId id) {
    if (id != kFile || !is_slow.load()) return;
    ++slow;
    while (is_slow.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  world.files().make(kFile, 10);
  world.files().make(id_of(2), 10);
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const std::string address = world.address();
  world.stop_home();
  is_slow.store(true);
  world.start_home(address);
  ASSERT_TRUE(comes_true([&] { return slow.load() != 0; }));
  // By that its thread is the client's for home, so a hold counts.
  ASSERT_TRUE(client->open(id_of(2), false));
  client->close(id_of(2));
  client->close(kFile);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  is_slow.store(false);
  EXPECT_TRUE(comes_true([&] { return world.files().holds(kFile) == 0; }));
  EXPECT_FALSE(world.home().service().is_held(kFile));
}

TEST(RemoteFiles, DataThatAreGoneAreStale) {
  World world;
  const auto client = world.client();
  EXPECT_EQ(client->open(kFile, true).error().code, ESTALE);
  EXPECT_EQ(client->attributes(kFile).error().code, ESTALE);
  EXPECT_EQ(client->counters().open, 0U);
  EXPECT_EQ(world.files().holds(kFile), 0);
}

TEST(RemoteFiles, UnusedFilesAreUnmapped) {
  World world({.regions = {.files = 4, .idle = std::chrono::milliseconds(50)}});
  const auto client = world.client();
  for (std::uint64_t i = 0; i < 10; ++i) {
    world.files().make(id_of(200 + i), 5000, 'a');
    ASSERT_TRUE(client->open(id_of(200 + i), true));
    EXPECT_LE(world.home().service().counters().mapped, 4U);
  }
  for (std::uint64_t i = 0; i < 10; ++i)  // those whose region had to go have it made again
    EXPECT_EQ(read_all(*client, id_of(200 + i), 0, 5000).size(), 5000U);
  EXPECT_EQ(world.home().service().counters().mapped, 4U);
  for (std::uint64_t i = 0; i < 10; ++i) client->close(id_of(200 + i));
  EXPECT_TRUE(comes_true([&] { return world.home().service().counters().mapped == 0; }));
}

TEST(RemoteFiles, FilesLargerThanAMappingAreReachedByCalls) {
  World world({.regions = {.bytes = 1 << 20}});
  world.files().make(kFile, 2 << 20, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Bytes written = random_bytes(1'500'000, 1);
  ASSERT_TRUE(client->write(kFile, 100'000, written));
  EXPECT_EQ(read_all(*client, kFile, 100'000, written.size()), written);
  EXPECT_EQ(client->counters().reads + client->counters().writes, 0U);
}

// Pages that must be synced would block the engine: what is written there is a call.
TEST(RemoteFiles, OnADiskOnlyReadsAreOneSided) {
  const std::string disk = std::filesystem::temp_directory_path();
  struct statfs facts{};
  if (::statfs(disk.c_str(), &facts) != 0 || facts.f_type == TMPFS_MAGIC)
    GTEST_SKIP() << disk << " is no disk";
  World world({}, {}, disk);
  world.files().make(kFile, 1 << 20, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Bytes written = random_bytes(300'000, 1);
  ASSERT_TRUE(client->write(kFile, 1000, written));
  EXPECT_EQ(read_all(*client, kFile, 1000, written.size()), written);
  EXPECT_EQ(client->counters().writes, 0U);
  EXPECT_EQ(client->counters().reads, 1U);
  EXPECT_TRUE(client->flush(kFile));
}

TEST(RemoteFiles, EpochsAreFenced) {
  World world;
  world.files().make(kFile, 1 << 20, 'a');
  const auto client = world.client(std::chrono::milliseconds(300));
  ASSERT_TRUE(client->open(kFile, true));
  world.home().run([](net::Engine& engine) { engine.set_epoch(7); });
  EXPECT_EQ(client->write(kFile, 0, random_bytes(10, 1)).error().code, ETIMEDOUT);
  EXPECT_EQ(client->attributes(kFile).error().code, ETIMEDOUT);
  EXPECT_EQ(at_home(world, kFile)[0], std::byte{'a'});
  client->set_epoch(7);
  EXPECT_TRUE(client->write(kFile, 0, random_bytes(10, 1)));
  EXPECT_TRUE(client->attributes(kFile));
}

}  // namespace
}  // namespace btd::remote
