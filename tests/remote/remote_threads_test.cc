// Threads of one node, all at the files of another.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "tests/remote/world.h"

namespace btd::remote {
namespace {

using Bytes = std::vector<std::byte>;

constexpr InodeId kShared = id_of(100);
constexpr std::size_t kThreads = 4;
constexpr std::size_t kSlot = 5000;  // neighbours share pages
constexpr std::size_t kSlots = 200;

InodeId own_file(std::size_t thread) { return id_of(200 + thread); }

// One thread's part: every fourth slot of the shared file, and a file of its own that grows and
// shrinks. Compares all that it reads with what it knows.
class Part {
 public:
  Part(RemoteFiles& files, std::size_t thread)
      : files_(files), thread_(thread), random_(thread + 1) {}

  void run(int rounds) {
    ASSERT_TRUE(files_.open(kShared, true));
    ASSERT_TRUE(files_.open(own_file(thread_), true));
    for (int i = 0; i < rounds && !testing::Test::HasFailure(); ++i) step();
    files_.close(own_file(thread_));
    files_.close(kShared);
  }

  void check_home(const Bytes& shared, const Bytes& own) const {
    for (const auto& [slot, bytes] : slots_)
      EXPECT_TRUE(std::ranges::equal(bytes, std::span{shared}.subspan(slot * kSlot, kSlot)));
    EXPECT_EQ(own, own_);
  }

 private:
  void step() {
    switch (random_() % 8) {
      case 0:
      case 1:
        return write_slot();
      case 2:
      case 3:
        return read_slot();
      case 4:
        return write_own();
      case 5:
        return read_own();
      case 6:
        return resize_own();
      default:
        // Opened and closed by many at once, it stays open for this one.
        EXPECT_TRUE(files_.open(kShared, random_() % 2 == 0));
        EXPECT_TRUE(files_.flush(kShared));
        files_.close(kShared);
    }
  }

  std::size_t my_slot() { return random_() % (kSlots / kThreads) * kThreads + thread_; }

  void write_slot() {
    const std::size_t slot = my_slot();
    slots_[slot] = random_bytes(kSlot, random_());
    const Status done = files_.write(kShared, slot * kSlot, slots_[slot]);
    EXPECT_TRUE(done) << done.error().message;
  }

  void read_slot() {
    const std::size_t slot = my_slot();
    const auto known = slots_.find(slot);
    if (known == slots_.end()) return;
    Bytes got(kSlot);
    EXPECT_EQ(files_.read(kShared, slot * kSlot, got).value_or(0), kSlot);
    EXPECT_EQ(got, known->second);
  }

  void write_own() {
    const std::size_t at = random_() % (own_.size() + 1000);
    const Bytes bytes = random_bytes(1 + random_() % 100'000, random_());
    const Status done = files_.write(own_file(thread_), at, bytes);
    EXPECT_TRUE(done) << done.error().message;
    own_.resize(std::max(own_.size(), at + bytes.size()));
    std::ranges::copy(bytes, own_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  void read_own() {
    Bytes got(own_.size() + 10);
    EXPECT_EQ(files_.read(own_file(thread_), 0, got).value_or(1), own_.size());
    got.resize(own_.size());
    EXPECT_EQ(got, own_);
  }

  void resize_own() {
    const std::size_t size = random_() % 200'000;
    EXPECT_TRUE(files_.change(own_file(thread_), {.size = size}));
    own_.resize(size);
  }

  RemoteFiles& files_;
  const std::size_t thread_;
  std::mt19937_64 random_;
  std::map<std::size_t, Bytes> slots_;
  Bytes own_;
};

TEST(RemoteThreads, AgreeWithAModel) {
  World world;
  world.files().make(kShared, kSlot * kSlots, 'a');
  const auto client = world.client();
  std::vector<Part> parts;
  for (std::size_t i = 0; i < kThreads; ++i) {
    world.files().make(own_file(i), 0);
    parts.emplace_back(*client, i);
  }
  {
    std::vector<std::jthread> threads;
    for (Part& part : parts) threads.emplace_back([&part] { part.run(400); });
  }
  const Bytes shared = at_home(world, kShared);
  for (std::size_t i = 0; i < kThreads; ++i)
    parts[i].check_home(shared, at_home(world, own_file(i)));
  EXPECT_EQ(client->counters().open, 0U);
  EXPECT_EQ(world.home().service().counters().holds, 0U);
  EXPECT_GT(client->counters().reads, 0U);
  EXPECT_GT(client->counters().writes, 0U);
}

// Of more than one instance, which end before and after their threads.
TEST(RemoteThreads, ComeAndGoWithTheirEngines) {
  World world;
  world.files().make(kShared, 100'000, 'a');
  auto first = world.client(), second = world.client();
  ASSERT_TRUE(first->open(kShared, false) && second->open(kShared, false));
  const auto read = [](RemoteFiles& files) {
    Bytes got(50'000);
    EXPECT_EQ(files.read(kShared, 1000, got).value_or(0), got.size());
  };
  for (int round = 0; round < 5; ++round) {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kThreads; ++i)
      threads.emplace_back([&] {
        read(*first);
        read(*second);
      });
  }
  std::atomic<int> is_gone{0};
  std::jthread longer([&] {
    read(*first);
    is_gone = 1;
    is_gone.notify_all();
    is_gone.wait(1);
  });
  is_gone.wait(0);
  first.reset();
  read(*second);
  is_gone = 2;
  is_gone.notify_all();
}

}  // namespace
}  // namespace btd::remote
