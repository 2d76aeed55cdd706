// Files that leave for other nodes: only where nobody uses them, and nobody while that is
// committed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <memory>
#include <thread>

#include "alloc/memory_store.h"
#include "fs/daemon/files.h"

namespace btd {
namespace {

constexpr NodeId kOwn = 1, kElsewhere = 2;
constexpr std::uint64_t kNumber = 7;

class FilesLeavingThreads : public ::testing::Test {
 protected:
  void SetUp() override {
    ::signal(SIGIO, SIG_IGN);
    ASSERT_NE(::mkdtemp(root_.data()), nullptr);
    ASSERT_TRUE(Namespace::format(store_, 0755));
    names_ = *Namespace::open(store_, kOwn);
    id_ = *names_->allocate_id();
    ASSERT_TRUE(names_->create(kRootId, "file", id_, {.mode = S_IFREG | 0600}, {}));
    std::array<char, 3> folder{};
    std::snprintf(folder.data(), folder.size(), "%02x", static_cast<unsigned>(id_ & 255));
    std::filesystem::create_directory(root_ + "/" + folder.data());
    backing_ = std::make_unique<BackingStore>(
        UniqueFd(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    ASSERT_TRUE(backing_->create(id_));
    memory_.reset(*StateTable::create_memfd(1));
    state_ = *StateTable::attach(memory_.get());
    files_ = std::make_unique<FileTable>(*state_, *names_, *backing_, 16, kOwn,
                                         [this](InodeId) { return home_.load(); });
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  [[nodiscard]] int reserved() const { return code(files_->reserve(id_, kNumber)); }
  [[nodiscard]] int left() const { return code(files_->begin_leaving(id_, kNumber)); }
  static int code(const auto& result) { return result ? 0 : result.error().code; }

  std::string root_ = "/dev/shm/btd-leaving-XXXXXX";
  MemoryStore store_;
  std::unique_ptr<Namespace> names_;
  std::unique_ptr<BackingStore> backing_;
  UniqueFd memory_;
  std::unique_ptr<StateTable> state_;
  std::atomic<NodeId> home_{kOwn};
  std::unique_ptr<FileTable> files_;
  InodeId id_ = 0;
};

TEST_F(FilesLeavingThreads, WhatIsOpenOrMappedStays) {
  EXPECT_EQ(reserved(), 0);
  ASSERT_TRUE(files_->open(kNoSlot, id_, 0, -1, true));
  EXPECT_EQ(reserved(), ETXTBSY);
  files_->release(kNoSlot, id_);
  EXPECT_EQ(reserved(), 0);
  for (const int access : {O_RDONLY, O_RDWR}) {
    void* mapped = MAP_FAILED;
    {
      const UniqueFd fd = *backing_->open(id_, access);
      ASSERT_EQ(::ftruncate((*backing_->open(id_, O_RDWR)).get(), 4096), 0);
      EXPECT_EQ(reserved(), ETXTBSY) << "a program has its backing file";
      mapped = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 0);
      ASSERT_NE(mapped, MAP_FAILED);
    }
    EXPECT_EQ(reserved(), ETXTBSY) << "a mapping outlives the close";
    ::munmap(mapped, 4096);
    EXPECT_EQ(reserved(), 0);
  }
  ASSERT_TRUE(files_->hold(id_));  // who moves it
  EXPECT_EQ(reserved(), 0);
  ASSERT_TRUE(files_->hold(id_));
  EXPECT_EQ(reserved(), ETXTBSY);
}

TEST_F(FilesLeavingThreads, WhoeverUsesItMeanwhileEndsTheMove) {
  EXPECT_EQ(left(), ECONNABORTED) << "it was not reserved";
  EXPECT_EQ(reserved(), 0);
  ASSERT_TRUE(files_->open(kNoSlot, id_, 0, -1, true));
  files_->release(kNoSlot, id_);
  EXPECT_EQ(left(), ECONNABORTED);
  EXPECT_EQ(reserved(), 0);
  ASSERT_TRUE(files_->hold(id_));
  EXPECT_EQ(left(), 0) << "who moves it may say again that it has it open";
  files_->end_leaving(id_);
  EXPECT_EQ(reserved(), 0);
  files_->used(id_);
  EXPECT_EQ(left(), ECONNABORTED);
  EXPECT_EQ(reserved(), 0);
  files_->unhold(id_);
  EXPECT_EQ(left(), ECONNABORTED);
  EXPECT_EQ(reserved(), 0);
  (*files_->descriptor(id_)).reset();
  EXPECT_EQ(left(), ECONNABORTED);
  EXPECT_EQ(reserved(), 0);
  ASSERT_EQ(::ftruncate((*backing_->open(id_, O_RDWR)).get(), 100), 0);
  EXPECT_EQ(left(), ECONNABORTED) << "a peer changed it by path";
  EXPECT_EQ(reserved(), 0);
  EXPECT_EQ(code(files_->begin_leaving(id_, kNumber + 1)), ECONNABORTED) << "of another attempt";
  EXPECT_EQ(left(), 0);
  files_->end_leaving(id_);
}

TEST_F(FilesLeavingThreads, OpensWaitForTheCommitAndFindItElsewhere) {
  for (const bool is_moved : {false, true}) {
    ASSERT_EQ(reserved(), 0);
    ASSERT_EQ(left(), 0);
    std::atomic<bool> is_over{false};
    const auto waits = [&](const auto& use, int expected) {
      return std::thread([&, use, expected] {
        EXPECT_EQ(code(use()), expected);
        EXPECT_TRUE(is_over.load());
      });
    };
    std::thread users[] = {
        waits([this] { return files_->open(kNoSlot, id_, 0, -1, true); }, is_moved ? ESTALE : 0),
        waits([this] { return files_->descriptor(id_); }, is_moved ? ESTALE : 0),
        waits([this] { return files_->hold(id_); }, is_moved ? EXDEV : 0),
        waits([this] { return files_->descriptor_for_peers(id_); }, is_moved ? EXDEV : 0)};
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (is_moved) home_ = kElsewhere;
    is_over = true;
    files_->end_leaving(id_);
    for (std::thread& user : users) user.join();
    if (is_moved) break;
    files_->release(kNoSlot, id_);
    files_->unhold(id_);
  }
  ASSERT_TRUE(files_->remove_copy(id_));
  EXPECT_FALSE(backing_->exists(id_));
  EXPECT_EQ(reserved(), ESTALE);
  // Here its name going is none of this node's business.
  ASSERT_TRUE(names_->unlink(kRootId, "file", {}));
  files_->unhold(id_);
  EXPECT_TRUE(names_->get(id_));
}

// A program wrote to it past the daemon, which nobody has looked at since.
TEST_F(FilesLeavingThreads, WhatWasWrittenLeavesWithoutPrivilegeBits) {
  for (const bool is_written : {false, true}) {
    ASSERT_TRUE(names_->change(id_, {.mode = 04755}, {}));
    ASSERT_TRUE(files_->open(kNoSlot, id_, 0, -1, true));
    ASSERT_TRUE(files_->watch_writes(id_));
    if (is_written) {
      ASSERT_EQ(::fchmod((*backing_->open(id_, O_RDWR)).get(), 0600), 0);
    }
    files_->release(kNoSlot, id_);
    EXPECT_EQ(reserved(), 0);
    EXPECT_EQ(names_->get(id_)->mode & 07777U, is_written ? 0755U : 04755U);
  }
}

// A copy that comes back has another time.
TEST_F(FilesLeavingThreads, NobodyWatchesTheTimeOfWhatIsGone) {
  ASSERT_TRUE(state_->add(kNoSlot, id_, 1, 0));
  state_->set_suid_watch(id_, 77);
  files_->end_leaving(id_);
  EXPECT_EQ(state_->find(id_)->suid_watch, 77U);
  home_ = kElsewhere;
  files_->end_leaving(id_);
  EXPECT_EQ(state_->find(id_)->suid_watch, 0U);
}

}  // namespace
}  // namespace btd
