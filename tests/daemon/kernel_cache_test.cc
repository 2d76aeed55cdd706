// When the kernel was told of all up to a revision, without a kernel.
#include "fs/daemon/kernel_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "fs/daemon/notifier_client.h"
#include "fs/namespace/layout.h"

namespace btd {
namespace {

using namespace std::chrono_literals;

class KernelCacheWaits : public testing::Test {
 protected:
  KernelCacheWaits() {
    memory_.reset(*StateTable::create_memfd(1));
    state_ = *StateTable::attach(memory_.get());
    cache_ = std::make_unique<KernelCache>(*state_, 300ms);
  }
  void start() { cache_->start(nullptr, notifier_, false); }
  void change_root() { cache_->changed({std::string(rows::inode_key(kRootId)), {}, {}}); }

  // 0 nothing was said yet, 1 it is told, -1 it took too long.
  struct Ask {
    std::shared_ptr<std::atomic<int>> said = std::make_shared<std::atomic<int>>(0);
    [[nodiscard]] int now() const { return said->load(); }
    [[nodiscard]] int wait() const {
      for (int i = 0; i < 5000 && now() == 0; ++i) std::this_thread::sleep_for(1ms);
      return now();
    }
  };
  Ask ask(std::int64_t revision) {
    Ask ask;
    cache_->when_told(revision, [said = ask.said](bool is_told) { *said += is_told ? 1 : -1; });
    return ask;
  }

  UniqueFd memory_;
  std::unique_ptr<StateTable> state_;
  NotifierClient notifier_{-1, "", 0};
  std::unique_ptr<KernelCache> cache_;
};

TEST_F(KernelCacheWaits, EndAtOnceWhereAllIsTold) {
  EXPECT_EQ(ask(0).now(), 1);
  cache_->reached(7);
  EXPECT_EQ(ask(7).now(), 1);
}

TEST_F(KernelCacheWaits, EndWhenTheRevisionIsReached) {
  start();
  cache_->reached(7);
  const Ask next = ask(8), later = ask(9);
  EXPECT_EQ(cache_->counts().asked, 2U);
  EXPECT_GT(cache_->counts().oldest.count(), 0);
  cache_->reached(8);
  EXPECT_EQ(next.wait(), 1);
  EXPECT_EQ(later.now(), 0);
  cache_->reached(10);
  EXPECT_EQ(later.wait(), 1);
  EXPECT_EQ(cache_->counts().asked, 0U);
}

TEST_F(KernelCacheWaits, EndWhenTheWordsBeforeAreSaid) {
  change_root();  // nobody says it yet
  cache_->reached(7);
  const Ask asked = ask(7);
  EXPECT_EQ(asked.now(), 0);
  start();
  EXPECT_EQ(asked.wait(), 1);
}

// A listing that read the attributes before is told by that to tell them again.
TEST_F(KernelCacheWaits, ChangesOfWhatNoKernelKnowsAreCounted) {
  const std::uint64_t before = cache_->noted();
  cache_->attributes_changed(InodeId{7});
  EXPECT_NE(cache_->noted(), before);
}

TEST_F(KernelCacheWaits, EndWithTheirPatience) {
  start();
  const auto begun = std::chrono::steady_clock::now();
  const Ask asked = ask(8);
  EXPECT_EQ(asked.wait(), -1);
  EXPECT_GE(std::chrono::steady_clock::now() - begun, 300ms);
  cache_->reached(8);
  EXPECT_EQ(ask(8).now(), 1);
  EXPECT_EQ(asked.now(), -1);  // it is told once
}

}  // namespace
}  // namespace btd
