// What happens when a home starts anew or goes, a network is cut, a peer dies, and when a file is
// made shorter behind its home's back.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/net/tcp_world.h"
#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Bytes = std::vector<std::byte>;

constexpr InodeId kFile = id_of(100);
constexpr std::size_t kBytes = 1 << 20;

// A peer that is away is forgotten soon.
net::EngineOptions hasty() { return {.patience = {.linger = milliseconds(200)}}; }

// Reads and writes pieces of a file by itself, as long as wanted, and compares with a model.
class Worker {
 public:
  explicit Worker(RemoteFiles& files) : files_(files), thread_([this] { run(); }) {}
  ~Worker() {
    is_stopping_ = true;
    thread_.join();
  }
  [[nodiscard]] std::uint64_t rounds() const { return rounds_; }

 private:
  void run() {
    std::mt19937_64 random(1);
    Bytes model(kBytes, std::byte{'a'}), got(kBytes);
    while (!is_stopping_) {
      const std::size_t size = 1 + random() % (1 << (4 + random() % 15));
      const std::size_t at = random() % (kBytes - size);
      const Bytes bytes = random_bytes(size, random());
      const Status wrote = files_.write(kFile, at, bytes);
      EXPECT_TRUE(wrote) << wrote.error().code << " " << wrote.error().message;
      std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(at));
      const std::size_t from = random() % kBytes;
      const std::size_t most = std::min<std::size_t>(kBytes - from, 300'000);
      const auto read = files_.read(kFile, from, std::span{got}.first(most));
      EXPECT_TRUE(read) << read.error().code << " " << read.error().message;
      EXPECT_EQ(read.value_or(0), most);
      EXPECT_TRUE(std::equal(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(most),
                             model.begin() + static_cast<std::ptrdiff_t>(from)));
      if (testing::Test::HasFailure()) return;
      ++rounds_;
    }
  }

  RemoteFiles& files_;
  std::atomic<bool> is_stopping_{false};
  std::atomic<std::uint64_t> rounds_{0};
  std::thread thread_;
};

bool goes_on(const Worker& worker) {
  const std::uint64_t before = worker.rounds();
  return comes_true([&] { return worker.rounds() > before + 20 || testing::Test::HasFailure(); });
}

TEST(RemoteFaults, FilesSurviveANewHome) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Worker worker(*client);
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(goes_on(worker));
    const std::string before = world.address();
    world.stop_home();
    if (i % 3 == 1) std::this_thread::sleep_for(milliseconds(300));
    world.start_home(i % 2 == 0 ? before : "127.0.0.1:0");
  }
  ASSERT_TRUE(goes_on(worker));
  EXPECT_GT(client->counters().retries, 0U);
}

TEST(RemoteFaults, FilesSurviveACutNetwork) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  const Worker worker(*client);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(goes_on(worker));
    net::cut_connections(world.address());
  }
  ASSERT_TRUE(goes_on(worker));
}

TEST(RemoteFaults, AHomeThatIsGoneIsSaidInTime) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client(milliseconds(500));
  ASSERT_TRUE(client->open(kFile, true));
  world.stop_home();
  const auto began = Clock::now();
  Bytes into(100);
  const auto got = client->read(kFile, 0, into);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, EHOSTUNREACH);
  EXPECT_NE(got.error().message.find("Node 3"), std::string::npos) << got.error().message;
  EXPECT_FALSE(client->write(kFile, 0, into));
  EXPECT_FALSE(client->attributes(kFile));
  EXPECT_FALSE(client->open(id_of(1), true));
  EXPECT_LT(Clock::now() - began, seconds(5));
  world.set_away(true);
  const auto away = Clock::now();
  EXPECT_EQ(client->read(kFile, 0, into).error().code, EHOSTUNREACH);
  EXPECT_LT(Clock::now() - away, milliseconds(400));  // nobody waits for who is known to be away
  client->close(kFile);
}

// Its engine is alive and answers nothing: no connection ends by itself.
TEST(RemoteFaults, AHomeThatHangsIsSaidInTime) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client(milliseconds(500));
  ASSERT_TRUE(client->open(kFile, true));
  std::atomic<bool> is_over{false};
  std::thread hanging([&] {
    world.home().run([&](net::Engine&) {
      while (!is_over) std::this_thread::sleep_for(milliseconds(1));
    });
  });
  std::this_thread::sleep_for(milliseconds(20));
  const auto began = Clock::now();
  Bytes into(100'000);
  EXPECT_EQ(client->read(kFile, 0, into).error().code, ETIMEDOUT);
  EXPECT_EQ(client->attributes(kFile).error().code, ETIMEDOUT);
  EXPECT_LT(Clock::now() - began, seconds(3));
  is_over = true;
  hanging.join();
  EXPECT_TRUE(client->read(kFile, 0, into));
}

TEST(RemoteFaults, APeerThatDiesHoldsNothing) {
  World world({}, hasty());
  world.files().make(kFile, kBytes, 'a');
  auto client = world.client();
  const auto other = world.client();
  ASSERT_TRUE(client->open(kFile, true) && other->open(kFile, false));
  EXPECT_EQ(world.files().holds(kFile), 2);
  client.reset();  // without a close
  EXPECT_TRUE(comes_true([&] { return world.files().holds(kFile) == 1; }));
  EXPECT_EQ(world.files().writes(), 1);  // it may have written one-sided
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_EQ(world.files().holds(kFile), 1);
}

// A thread that opened the file ends, and no other calls: the node is there all the same.
TEST(RemoteFaults, AnIdlePeerHoldsOn) {
  World world({}, hasty());
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client();
  std::thread([&] { EXPECT_TRUE(client->open(kFile, true)); }).join();
  std::this_thread::sleep_for(milliseconds(700));
  EXPECT_EQ(world.files().holds(kFile), 1);
  net::cut_connections(world.address());
  std::this_thread::sleep_for(milliseconds(700));
  EXPECT_EQ(world.files().holds(kFile), 1);
  Bytes into(100);
  EXPECT_EQ(client->read(kFile, 0, into).value_or(0), 100U);
}

TEST(RemoteFaults, ANewHomeIsToldWhatIsOpen) {
  World world;
  for (std::uint64_t i = 0; i < 5; ++i) world.files().make(id_of(200 + i), 100);
  const auto client = world.client();
  for (std::uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(client->open(id_of(200 + i), i % 2 == 0));
  client->close(id_of(200));
  const std::string before = world.address();
  world.stop_home();
  EXPECT_EQ(world.files().holds(id_of(203)), 0);
  world.start_home(before);
  EXPECT_TRUE(comes_true([&] { return world.home().service().counters().holds == 4; }));
  EXPECT_TRUE(comes_true([&] { return world.files().holds(id_of(200)) == 0; }));
  EXPECT_TRUE(comes_true([&] { return world.files().holds(id_of(203)) == 1; }));
  for (std::uint64_t i = 1; i < 5; ++i) client->close(id_of(200 + i));
  EXPECT_TRUE(comes_true([&] { return world.home().service().counters().holds == 0; }));
}

// --- A file that is made shorter behind the home's back ---

class TruncatedBehind : public testing::Test {
 protected:
  void SetUp() override {
    world.files().make(kFile, kBytes, 'a');
    client = world.client();
    ASSERT_TRUE(client->open(kFile, true));
    Bytes into(kBytes);
    ASSERT_EQ(client->read(kFile, 0, into).value_or(0), kBytes);
    ASSERT_EQ(::truncate(world.files().path(kFile).c_str(), 4096), 0);
  }
  std::size_t read(std::uint64_t offset, std::size_t size) {
    Bytes into(size);
    const auto got = client->read(kFile, offset, into);
    EXPECT_TRUE(got) << got.error().message;
    return got.value_or(99);
  }
  // And the home is as good as before.
  void check() {
    EXPECT_EQ(read(0, 100), 100U);
    ASSERT_TRUE(client->change(kFile, {.size = kBytes}));
    const Bytes bytes = random_bytes(kBytes, 9);
    ASSERT_TRUE(client->write(kFile, 0, bytes));
    Bytes got(kBytes);
    ASSERT_EQ(client->read(kFile, 0, got).value_or(0), kBytes);
    EXPECT_EQ(got, bytes);
  }

  World world;
  std::unique_ptr<RemoteFiles> client;
};

// Short ones are copied by the processor, and long ones by the kernel, which does not signal.
TEST_F(TruncatedBehind, AShortReadFaults) {
  static_cast<void>(read(500'000, 100));  // what it gets, it gets from nowhere
  EXPECT_TRUE(comes_true([&] { return read(500'000, 100) == 0; }));
  EXPECT_GE(world.home().service().counters().broken, 1U);
  check();
}

TEST_F(TruncatedBehind, ALongReadIsShort) {
  const auto began = Clock::now();
  EXPECT_EQ(read(4000, 800'000), 96U);
  EXPECT_LT(Clock::now() - began, seconds(5));
  check();
}

TEST_F(TruncatedBehind, AShortWriteFaults) {
  EXPECT_TRUE(client->write(kFile, 500'000, random_bytes(100, 1)));
  EXPECT_TRUE(comes_true([&] { return world.home().service().counters().broken == 1; }));
  EXPECT_TRUE(client->write(kFile, 600'000, random_bytes(100, 1)));
  EXPECT_EQ(client->attributes(kFile)->st_size, 600'100);
  check();
}

TEST_F(TruncatedBehind, ALongWriteMakesItLonger) {
  const Bytes bytes = random_bytes(400'000, 1);
  ASSERT_TRUE(client->write(kFile, 500'000, bytes));
  EXPECT_EQ(client->attributes(kFile)->st_size, 900'000);
  EXPECT_EQ(read(500'000, 400'000), 400'000U);
  check();
}

// A program at home makes it shorter, and its daemon says so first: nothing faults.
TEST(RemoteFaults, BeforeItIsShortenedNobodyReachesIt) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client();
  ASSERT_TRUE(client->open(kFile, true));
  Bytes into(kBytes);
  ASSERT_EQ(client->read(kFile, 0, into).value_or(0), kBytes);
  {
    const auto unmapped = world.home().service().before_shrink(kFile);
    ASSERT_TRUE(unmapped);
    EXPECT_EQ(world.home().service().counters().mapped, 0U);
    EXPECT_EQ(client->read(kFile, 0, std::span{into}.first(10)).value_or(0), 10U);
    EXPECT_EQ(world.home().service().counters().mapped, 0U);
    ASSERT_EQ(::truncate(world.files().path(kFile).c_str(), 5000), 0);
  }
  EXPECT_EQ(client->read(kFile, 0, into).value_or(0), 5000U);
  EXPECT_EQ(world.home().service().counters().mapped, 1U);  // that it was not was for then
  EXPECT_EQ(client->read(kFile, 6000, into).value_or(1), 0U);
  EXPECT_EQ(world.home().service().counters().broken, 0U);
}

// The same again and again, while a peer reads and writes all the time.
TEST(RemoteFaults, ShorteningRacesWithAPeersThreads) {
  World world;
  world.files().make(kFile, kBytes, 'a');
  const auto client = world.client();
  std::atomic<bool> is_over{false};
  std::atomic<int> rounds{0};
  std::thread peer([&] {
    Bytes into(200'000);
    std::mt19937_64 random(1);
    while (!is_over) {
      EXPECT_TRUE(client->open(kFile, true));  // its holes are filled then
      EXPECT_TRUE(client->read(kFile, random() % kBytes, into));
      const Status wrote =
          client->write(kFile, random() % (kBytes / 2), random_bytes(random() % 40'000, 1));
      EXPECT_TRUE(wrote) << wrote.error().message;
      client->close(kFile);
      ++rounds;
    }
  });
  const auto let_peer_run = [&] {
    const int before = rounds;
    EXPECT_TRUE(comes_true([&] { return rounds >= before + 2; }));
  };
  for (int i = 0; i < 50 && !testing::Test::HasFailure(); ++i) {
    let_peer_run();
    const auto unmapped = world.home().service().before_shrink(kFile);
    EXPECT_TRUE(unmapped) << unmapped.error().message;
    EXPECT_EQ(::truncate(world.files().path(kFile).c_str(), i % 2 == 0 ? 4096 : kBytes), 0);
    let_peer_run();
    EXPECT_EQ(world.home().service().counters().mapped, 0U);
  }
  is_over = true;
  peer.join();
  EXPECT_EQ(world.home().service().counters().broken, 0U);
}

}  // namespace
}  // namespace btd::remote
