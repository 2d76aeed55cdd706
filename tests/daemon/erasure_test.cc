// Erasure: a row goes when the removal is durable, and not before.
#include "fs/daemon/erasure.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "alloc/memory_store.h"

namespace btd {
namespace {

class ErasureTest : public ::testing::Test {
 protected:
  // The folders of backing files of some ids, in a directory `below`.
  void make(const std::string& below) {
    root_ = below + "/btd-erasure-XXXXXX";
    ASSERT_NE(::mkdtemp(root_.data()), nullptr);
    ASSERT_TRUE(Namespace::format(store_, 0755));
    auto opened = Namespace::open(store_);
    ASSERT_TRUE(opened);
    names_ = *std::move(opened);
    backing_ = std::make_unique<BackingStore>(
        UniqueFd(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  // A file that lost its name and its data, and whose folder is there or not.
  InodeId removed(bool with_folder) {
    const auto id = names_->allocate_id();
    EXPECT_TRUE(id && names_->create_nameless(kRootId, *id, {.mode = S_IFREG | 0600}, {}));
    std::array<char, 3> folder{};
    std::snprintf(folder.data(), folder.size(), "%02x", static_cast<unsigned>(*id & 255));
    if (with_folder) std::filesystem::create_directory(root_ + "/" + folder.data());
    return *id;
  }

  std::string root_;
  MemoryStore store_;
  std::unique_ptr<Namespace> names_;
  std::unique_ptr<BackingStore> backing_;
};

TEST_F(ErasureTest, EndsWithAllRowsErasedWhoseRemovalIsDurable) {
  make(std::filesystem::temp_directory_path());
  const InodeId first = removed(true), second = removed(true);
  {
    Erasure erasure(*names_, *backing_, false);
    erasure.add(first);
    erasure.add(second);
  }
  EXPECT_EQ(names_->orphans()->size(), 0U);
  EXPECT_FALSE(names_->get(first));
}

TEST_F(ErasureTest, KeepsTheRowWhereTheRemovalCannotBeMadeDurable) {
  make(std::filesystem::temp_directory_path());
  if (!backing_->outlives_machine()) GTEST_SKIP() << "the directory for temporary files is in RAM";
  const InodeId id = removed(false);
  {
    Erasure erasure(*names_, *backing_, false);
    erasure.add(id);
  }
  EXPECT_EQ(names_->orphans(), std::vector{id});
}

TEST_F(ErasureTest, ErasesAtOnceWhereNothingOutlivesTheMachine) {
  make("/dev/shm");
  const InodeId id = removed(false);
  Erasure erasure(*names_, *backing_, false);
  erasure.add(id);
  EXPECT_EQ(names_->orphans()->size(), 0U);
}

}  // namespace
}  // namespace btd
