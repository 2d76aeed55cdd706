// Homes whose worker was replaced: whose pages are whose afterwards. The backing file is a real
// one, all messages are recorded, and tasks run when the test lets them.
#include "fs/coherent/homes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "net/sim/sim_engine.h"
#include "net/sim/sim_network.h"

namespace btd::coherent {
namespace {

constexpr InodeId kFile = 7;
constexpr NodeId kOwn = 1, kUser = 2, kThird = 3;
constexpr std::uint64_t kPages = 4;
using coherence::kPageBytes;
using coherence::Page;
using coherence::Rights;

// One file of four pages, which anybody may use.
class OneFile final : public remote::HomeFiles {
 public:
  OneFile() : fd_(::memfd_create("file", MFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(fd_.get(), kPages * kPageBytes), 0);
  }
  Result<UniqueFd> open(InodeId) override { return UniqueFd(::dup(fd_.get())); }
  Status hold(InodeId) override { return {}; }
  void unhold(InodeId) override {}
  Status prepare(InodeId, int) override { return {}; }
  Status resize(InodeId, int, std::uint64_t) override { return fail(ENOSYS); }
  Status allocate(InodeId, int, int, std::uint64_t, std::uint64_t) override { return fail(ENOSYS); }
  Status sync(InodeId, int, bool) override { return {}; }
  Status reserve(InodeId, std::uint64_t) override { return fail(ENOSYS); }
  void used(InodeId) override {}
  Status yield(InodeId, std::uint64_t, NodeId) override { return fail(ENOSYS); }
  Result<std::uint64_t> room() override { return 0; }
  Status wrote(InodeId) override { return {}; }

  [[nodiscard]] std::byte first_of(Page page) const {
    std::byte byte{};
    EXPECT_EQ(::pread(fd_.get(), &byte, 1, static_cast<off_t>(page * kPageBytes)), 1);
    return byte;
  }

 private:
  UniqueFd fd_;
};

// Tasks that the homes' workers post to the engine's thread, which is the test's.
class Tasks {
 public:
  void post(std::function<void()> task) {
    const std::scoped_lock lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.notify_one();
  }
  void run_one() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(30), [&] { return !tasks_.empty(); }));
    const auto task = std::move(tasks_.front());
    tasks_.erase(tasks_.begin());
    lock.unlock();
    task();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> tasks_;
};

class HomesTest : public ::testing::Test {
 protected:
  void attach(NodeId node, bool is_unsure, const std::vector<wire::PageReport>& holds = {}) {
    HomeMessage message{.file = kFile,
                        .words = wire::Attach{.mount = node, .is_unsure = is_unsure ? 1U : 0U},
                        .tail = {}};
    const auto bytes = std::as_bytes(std::span(holds));
    message.tail.assign(bytes.begin(), bytes.end());
    homes_.arrived(node, std::move(message));
  }
  void all_told() {
    for (const NodeId node : {kOwn, kUser, kThird}) homes_.told(node);
    tasks_.run_one();  // the file is open
  }
  void asks_for(NodeId node, Page page) {
    homes_.arrived(node, {.file = kFile,
                          .words = coherence::Acquire{.page = page, .rights = Rights::kOwned},
                          .tail = {}});
  }
  // What its kernel had stored; whether home took it.
  bool writes_back(NodeId node, Page page) {
    const std::byte byte{static_cast<unsigned char>(0x10 * node + page)};
    homes_.arrived(
        node,
        {.file = kFile,
         .words = coherence::WriteBack{.first = page, .bytes = kPageBytes, .request = ++request_},
         .tail = Bytes(kPageBytes, byte)});
    return files_.first_of(page) == byte;
  }
  template <class Words>
  [[nodiscard]] std::vector<std::size_t> said(NodeId node) const {
    std::vector<std::size_t> at;
    for (std::size_t i = 0; i < said_.size(); ++i)
      if (said_[i].first == node && std::holds_alternative<Words>(said_[i].second.words))
        at.push_back(i);
    return at;
  }

  static wire::PageReport holding(Page page, Rights rights) {
    return {.page = page, .rights = static_cast<std::uint64_t>(rights)};
  }

  OneFile files_;
  Tasks tasks_;
  std::vector<std::pair<NodeId, ClientMessage>> said_;
  net::sim::SimNetwork network_{1, {}};
  net::sim::SimEngine engine_{network_, "home", {}};
  remote::Workers workers_{1, 16};
  Homes homes_{
      engine_,
      files_,
      workers_,
      [this](NodeId node, const ClientMessage& message) { said_.emplace_back(node, message); },
      [this](std::function<void()> task) { tasks_.post(std::move(task)); },
      kOwn,
      [](InodeId) { return kOwn; },
      {kOwn, kUser, kThird},
      std::chrono::seconds(15)};
  coherence::Request request_ = 0;
};

// The worker of the user died earlier; since then it knows what it got.
TEST_F(HomesTest, WhatNobodySaysIsTheHomesWhoeverComesFirst) {
  attach(kUser, true, {holding(1, Rights::kOwned)});
  attach(kOwn, true);
  all_told();
  EXPECT_TRUE(writes_back(kOwn, 0));
  EXPECT_TRUE(writes_back(kUser, 1));
  EXPECT_FALSE(writes_back(kUser, 2));
  EXPECT_FALSE(writes_back(kOwn, 1));
}

TEST_F(HomesTest, WhatAnyUserSaysCountsMoreThanWhatAnotherTakesForItsOwn) {
  attach(kUser, true, {holding(0, Rights::kOwned)});
  attach(kThird, true, {holding(1, Rights::kOwned), holding(2, Rights::kShared)});
  all_told();
  EXPECT_TRUE(writes_back(kUser, 0));
  EXPECT_TRUE(writes_back(kThird, 1));
  EXPECT_FALSE(writes_back(kUser, 1));
  EXPECT_FALSE(writes_back(kUser, 2)) << "the third reads that page";
  EXPECT_TRUE(writes_back(kUser, 3));
}

TEST_F(HomesTest, WhoKnowsWhatItHoldsTakesNothingElse) {
  attach(kUser, false, {holding(0, Rights::kOwned)});
  all_told();
  EXPECT_TRUE(writes_back(kUser, 0));
  EXPECT_FALSE(writes_back(kUser, 1));
}

// A worker's successor has nothing that takes a recall before it heard that it is attached.
TEST_F(HomesTest, WhatWasAskedIsAskedAgainBehindTheAnswer) {
  attach(kUser, false, {holding(0, Rights::kOwned)});
  attach(kThird, false);
  all_told();
  asks_for(kThird, 0);
  network_.run_until([&] { return !said<coherence::Recall>(kUser).empty(); },
                     std::chrono::seconds(1));
  ASSERT_EQ(said<coherence::Recall>(kUser).size(), 1U);
  said_.clear();
  attach(kUser, true);
  ASSERT_EQ(said<wire::Attached>(kUser).size(), 1U);
  ASSERT_EQ(said<coherence::Recall>(kUser).size(), 1U);
  EXPECT_LT(said<wire::Attached>(kUser)[0], said<coherence::Recall>(kUser)[0]);
}

// The mount of kUser has the number kUser (attach()).
TEST_F(HomesTest, WhoWaitsForAMountThatEndedIsServedWhenALaterOneIsKnown) {
  attach(kUser, false, {holding(0, Rights::kOwned)});
  attach(kThird, false);
  all_told();
  asks_for(kThird, 0);
  const auto granted = [&] { return !said<coherence::Grant>(kThird).empty(); };
  network_.run_until(granted, std::chrono::seconds(1));
  homes_.mounted(kUser, kUser);
  EXPECT_FALSE(granted()) << "it is the mount that has the page";
  homes_.mounted(kUser, kUser + 1);
  EXPECT_TRUE(granted());
}

TEST_F(HomesTest, WhatAMountHeldIsNobodysThoughItsWordIsTakenLater) {
  attach(kUser, false, {holding(0, Rights::kOwned)});  // waits until all have said what they hold
  homes_.gone(kUser, kUser);
  attach(kThird, false);
  all_told();
  EXPECT_FALSE(writes_back(kUser, 0));
  asks_for(kThird, 0);
  EXPECT_EQ(said<coherence::Grant>(kThird).size(), 1U);
}

// A later mount of the node would take the answer for its own.
TEST_F(HomesTest, AMountThatEndedIsNotAnswered) {
  homes_.gone(kUser, kUser);
  attach(kUser, false);
  all_told();
  EXPECT_TRUE(said<wire::Attached>(kUser).empty());
}

TEST_F(HomesTest, AWordOfAnEarlierMountEndsNoLaterOne) {
  attach(kUser, false, {holding(0, Rights::kOwned), holding(1, Rights::kOwned)});
  all_told();
  homes_.gone(kUser, kUser - 1);
  EXPECT_TRUE(writes_back(kUser, 0));
  homes_.gone(kUser, kUser);
  EXPECT_FALSE(writes_back(kUser, 1));
}

}  // namespace
}  // namespace btd::coherent
