// What the namespace promises, call by call, on the store in memory.
#include "fs/namespace/namespace.h"

#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/xattr.h>

#include <set>

#include "alloc/memory_store.h"
#include "fs/namespace/layout.h"

namespace btd {
namespace {

class NamespaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(Namespace::format(store_, 0755));
    reopen();
  }
  void reopen() {
    auto opened = Namespace::open(store_);
    ASSERT_TRUE(opened);
    ns_ = *std::move(opened);
  }
  Result<Inode> make(InodeId dir, std::string_view name, std::uint32_t mode = S_IFREG | 0644,
                     const RequestTag& tag = {}) {
    BTD_ASSIGN(const InodeId id, ns_->allocate_id());
    auto made =
        ns_->create(dir, name, id, {.mode = mode, .target = S_ISLNK(mode) ? "there" : ""}, tag);
    ns_->id_settled(id);
    return made;
  }
  template <class R>
  static int code(const R& result) {
    return result ? 0 : result.error().code;
  }

  MemoryStore store_;
  std::unique_ptr<Namespace> ns_;
};

TEST_F(NamespaceTest, OpenRefusesAStoreWithoutNamespace) {
  MemoryStore empty;
  const auto opened = Namespace::open(empty);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, EINVAL);
  EXPECT_NE(opened.error().message.find("btd format"), std::string::npos);
}

TEST_F(NamespaceTest, FormatRefusesASecondTime) {
  EXPECT_EQ(code(Namespace::format(store_, 0755)), EAGAIN);
}

TEST_F(NamespaceTest, OpenRefusesAnotherVersion) {
  rows::FormatRow row{.magic = rows::kMagic, .version = rows::kVersion + 1, .hash_key = 1};
  Batch batch;
  batch.put(rows::format_key(), rows::bytes_of(row));
  ASSERT_TRUE(store_.commit(batch));
  const auto opened = Namespace::open(store_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, EPROTO);
}

TEST_F(NamespaceTest, DamagedRowsAreErrorsNotCrashes) {
  const auto made = make(kRootId, "f");
  Batch batch;
  batch.put(rows::inode_key(made->id), "short");
  ASSERT_TRUE(store_.commit(batch));
  EXPECT_EQ(code(ns_->get(made->id)), EIO);
  EXPECT_EQ(code(ns_->lookup(kRootId, "f")), EIO);
  EXPECT_EQ(code(ns_->unlink(kRootId, "f", {})), EIO);
}

TEST_F(NamespaceTest, NamesMayHave255Bytes) {
  const std::string longest(255, 'x');
  EXPECT_TRUE(make(kRootId, longest));
  EXPECT_TRUE(ns_->lookup(kRootId, longest));
  EXPECT_EQ(code(make(kRootId, longest + "x")), ENAMETOOLONG);
  EXPECT_EQ(code(ns_->lookup(kRootId, longest + "x")), ENAMETOOLONG);
}

TEST_F(NamespaceTest, IdsAreNeverReused) {
  std::set<InodeId> seen;
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t i = 0; i < Namespace::kIdBlock + 5; ++i) {
      const auto id = ns_->allocate_id();
      ASSERT_TRUE(id);
      EXPECT_TRUE(seen.insert(*id).second);
      EXPECT_NE(*id, kRootId);
      ns_->id_settled(*id);
    }
    reopen();
  }
}

TEST_F(NamespaceTest, CollectFindsBackingFilesThatLostTheirCreate) {
  std::set<InodeId> backing;
  const InodeId stalled = *ns_->allocate_id();  // its create has not ended while others go on
  backing.insert(stalled);
  for (std::uint64_t i = 0; i < 2 * Namespace::kIdBlock; ++i) {
    const InodeId id = *ns_->allocate_id();
    if (i % 1000 == 0) {
      ASSERT_TRUE(ns_->create(kRootId, "n" + std::to_string(i), id, {.mode = S_IFREG}, {}));
      backing.insert(id);
    }
    ns_->id_settled(id);
  }
  const InodeId last = *ns_->allocate_id();
  backing.insert(last);
  reopen();
  std::set<InodeId> removed;
  ASSERT_TRUE(ns_->collect_unnamed([&](InodeId id) { return backing.contains(id); },
                                   [&](InodeId id) -> Status {
                                     removed.insert(id);
                                     return {};
                                   }));
  EXPECT_EQ(removed, (std::set<InodeId>{stalled, last}));
}

TEST_F(NamespaceTest, AResultRowTellsARequestSentAgain) {
  const RequestTag tag{.session = 7, .unique = 42, .slot = 3};
  const auto made = make(kRootId, "f", S_IFREG | 0600, tag);
  ASSERT_TRUE(made);
  EXPECT_FALSE(ns_->committed(tag)) << "only what an earlier worker did is told";
  reopen();
  const auto outcome = ns_->committed(tag);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->id, made->id);
  EXPECT_FALSE(ns_->committed({.session = 8, .unique = 42, .slot = 3})) << "another connection";
  EXPECT_FALSE(ns_->committed({.session = 7, .unique = 44, .slot = 3})) << "another request";

  ASSERT_TRUE(ns_->unlink(kRootId, "f", {.session = 7, .unique = 46, .slot = 3}));
  reopen();
  EXPECT_FALSE(ns_->committed(tag)) << "the slot's thread has moved on";
  const auto second = ns_->committed({.session = 7, .unique = 46, .slot = 0});
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->lost_last_link);
}

TEST_F(NamespaceTest, AFailedCallWritesNoRow) {
  ASSERT_TRUE(make(kRootId, "f"));
  const RequestTag tag{.session = 1, .unique = 2, .slot = 0};
  EXPECT_EQ(code(make(kRootId, "f", S_IFREG, tag)), EEXIST);
  reopen();
  EXPECT_FALSE(ns_->committed(tag));
}

TEST_F(NamespaceTest, SetgidDirectoriesPassOnTheirGroup) {
  auto dir = make(kRootId, "d", S_IFDIR | 0755);
  ASSERT_TRUE(ns_->change(dir->id, {.mode = 02755, .gid = 55}, {}));
  const auto file = make(dir->id, "f");
  EXPECT_EQ(file->gid, 55U);
  EXPECT_FALSE(file->mode & S_ISGID);
  const auto sub = make(dir->id, "s", S_IFDIR | 0700);
  EXPECT_EQ(sub->gid, 55U);
  EXPECT_TRUE(sub->mode & S_ISGID);
}

TEST_F(NamespaceTest, ClearSuidKeepsMandatoryLockingBit) {
  auto plain = make(kRootId, "a", S_IFREG | 06755);
  EXPECT_EQ(ns_->change(plain->id, {.clear_suid = true}, {})->mode, S_IFREG | 0755U);
  auto locking = make(kRootId, "b", S_IFREG | 06644);
  EXPECT_EQ(ns_->change(locking->id, {.clear_suid = true}, {})->mode, S_IFREG | 02644U);
}

TEST_F(NamespaceTest, SparseIsInherited) {
  auto dir = make(kRootId, "d", S_IFDIR | 0755);
  ASSERT_TRUE(ns_->change(dir->id, {.set_flags = kInodeSparse}, {}));
  EXPECT_EQ(make(dir->id, "f")->flags, kInodeSparse);
  EXPECT_EQ(make(kRootId, "g")->flags, 0U);
}

// Who made it without a name may name it once; who lost the last name may not: its data may go.
TEST_F(NamespaceTest, OnlyWhatNeverHadANameGetsOne) {
  const auto id = ns_->allocate_id();
  ASSERT_TRUE(ns_->create_nameless(kRootId, *id, {.mode = S_IFREG | 0600}, {}));
  EXPECT_EQ(ns_->link(*id, kRootId, "f", {})->nlink, 1U);
  EXPECT_TRUE(ns_->orphans()->empty());
  ASSERT_TRUE(ns_->unlink(kRootId, "f", {}));
  EXPECT_EQ(code(ns_->link(*id, kRootId, "f", {})), ENOENT);
  const auto file = make(kRootId, "g");
  ASSERT_TRUE(ns_->unlink(kRootId, "g", {}));
  EXPECT_EQ(code(ns_->link(file->id, kRootId, "g", {})), ENOENT);
  EXPECT_EQ(ns_->orphans()->size(), 2U);
}

TEST_F(NamespaceTest, AnOrphanKeepsItsRowsUntilErased) {
  auto file = make(kRootId, "f");
  ASSERT_TRUE(ns_->set_xattr(file->id, "user.a", "1", 0, {}));
  ASSERT_TRUE(ns_->link(file->id, kRootId, "g", {}));
  EXPECT_FALSE(ns_->unlink(kRootId, "f", {})->lost_last_link);
  EXPECT_TRUE(ns_->unlink(kRootId, "g", {})->lost_last_link);
  EXPECT_EQ(ns_->get(file->id)->nlink, 0U);
  EXPECT_EQ(*ns_->orphans(), std::vector<InodeId>{file->id});
  ASSERT_TRUE(ns_->erase_orphan(file->id));
  EXPECT_EQ(code(ns_->get(file->id)), ENOENT);
  EXPECT_TRUE(ns_->orphans()->empty());
  EXPECT_TRUE(ns_->list_xattrs(file->id)->empty());
  EXPECT_TRUE(ns_->erase_orphan(file->id)) << "idempotent";
}

TEST_F(NamespaceTest, EraseOrphanRefusesANamedInode) {
  auto file = make(kRootId, "f");
  EXPECT_EQ(code(ns_->erase_orphan(file->id)), EBUSY);
  EXPECT_TRUE(ns_->lookup(kRootId, "f"));
}

TEST_F(NamespaceTest, ARemovedDirectoryTakesNoNewNames) {
  auto dir = make(kRootId, "d", S_IFDIR | 0755);
  ASSERT_TRUE(ns_->rmdir(kRootId, "d", {}));
  EXPECT_EQ(code(make(dir->id, "f")), ENOENT);
}

TEST_F(NamespaceTest, DirectoryLinkCountsFollowRenames) {
  auto a = make(kRootId, "a", S_IFDIR | 0755);
  auto b = make(kRootId, "b", S_IFDIR | 0755);
  auto sub = make(a->id, "s", S_IFDIR | 0755);
  ASSERT_TRUE(sub);
  EXPECT_EQ(ns_->get(a->id)->nlink, 3U);
  ASSERT_TRUE(ns_->rename(a->id, "s", b->id, "s", 0, {}));
  EXPECT_EQ(ns_->get(a->id)->nlink, 2U);
  EXPECT_EQ(ns_->get(b->id)->nlink, 3U);
  ASSERT_TRUE(make(a->id, "f"));
  ASSERT_TRUE(ns_->rename(a->id, "f", b->id, "s", RENAME_EXCHANGE, {}));
  EXPECT_EQ(ns_->get(a->id)->nlink, 3U);
  EXPECT_EQ(ns_->get(b->id)->nlink, 2U);
}

TEST_F(NamespaceTest, RenameTellsWhomItReplaced) {
  auto old = make(kRootId, "old");
  auto young = make(kRootId, "young");
  const auto outcome = ns_->rename(kRootId, "young", kRootId, "old", 0, {});
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->id, young->id);
  EXPECT_EQ(outcome->replaced, old->id);
  EXPECT_TRUE(outcome->replaced_lost_last_link);
  EXPECT_EQ(ns_->lookup(kRootId, "old")->id, young->id);
}

TEST_F(NamespaceTest, RenameRefusesUnknownFlagsAndItself) {
  auto dir = make(kRootId, "d", S_IFDIR | 0755);
  EXPECT_EQ(code(ns_->rename(kRootId, "d", kRootId, "e", 0x80, {})), EINVAL);
  EXPECT_EQ(code(ns_->rename(kRootId, "d", dir->id, "e", 0, {})), EINVAL);
}

TEST_F(NamespaceTest, ListGoesOnWhereItStopped) {
  constexpr int kFiles = 1000;
  for (int i = 0; i < kFiles; ++i) ASSERT_TRUE(make(kRootId, "f" + std::to_string(i)));
  for (const std::size_t step : {1UL, 7UL, 2000UL}) {
    std::set<std::string> names;
    std::uint64_t cookie = 0;
    for (;;) {
      const auto page = ns_->list(kRootId, cookie, step);
      ASSERT_TRUE(page);
      if (page->empty()) break;
      for (const auto& entry : *page) {
        EXPECT_GT(entry.cookie, cookie);
        EXPECT_GE(entry.cookie, rows::kFirstCookie);
        cookie = entry.cookie;
        EXPECT_TRUE(names.insert(entry.name).second);
      }
    }
    EXPECT_EQ(names.size(), kFiles);
  }
}

TEST_F(NamespaceTest, EachChangeOfADirectoryHasATimeOfItsOwn) {
  std::set<Timestamp> seen;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(make(kRootId, "f" + std::to_string(i)));
    const auto root = ns_->get(kRootId);
    ASSERT_TRUE(root);
    EXPECT_TRUE(seen.empty() || root->mtime > *seen.rbegin());
    seen.insert(root->mtime);
  }
  EXPECT_LT(seen.rbegin()->nanoseconds - Timestamp::now().nanoseconds, 1'000'000);
  // A time that somebody set far ahead does not stay.
  ASSERT_TRUE(ns_->change(kRootId, {.mtime = Timestamp{4'000'000'000'000'000'000}}, {}));
  ASSERT_TRUE(make(kRootId, "last"));
  EXPECT_LE(ns_->get(kRootId)->mtime.nanoseconds, Timestamp::now().nanoseconds + 1'000'000);
}

TEST_F(NamespaceTest, CollidingNamesShareAProbeWindow) {
  // Take the place where "wanted" would go, and the next two, by hand.
  rows::FormatRow format{};
  ASSERT_TRUE(rows::parse(**store_.get(rows::format_key()), format));
  const std::uint64_t first = rows::name_cookie("wanted", format.hash_key);
  for (std::uint64_t i = 0; i < 3; ++i) {
    rows::EntryRow row{.id = 1000 + i, .type = S_IFREG >> 12};
    Batch batch;
    batch.put(rows::entry_key(kRootId, first + i),
              std::string(rows::bytes_of(row)) + "squatter" + std::to_string(i));
    ASSERT_TRUE(store_.commit(batch));
  }
  EXPECT_EQ(code(ns_->lookup(kRootId, "wanted")), ENOENT);
  const auto made = make(kRootId, "wanted");
  ASSERT_TRUE(made);
  EXPECT_EQ(ns_->lookup(kRootId, "wanted")->id, made->id);
  EXPECT_EQ(code(make(kRootId, "wanted")), EEXIST);
  Batch batch;  // a squatter goes: the name is still found behind the gap
  batch.erase(rows::entry_key(kRootId, first));
  ASSERT_TRUE(store_.commit(batch));
  EXPECT_EQ(ns_->lookup(kRootId, "wanted")->id, made->id);
  EXPECT_EQ(code(make(kRootId, "wanted")), EEXIST);
}

TEST_F(NamespaceTest, AFullProbeWindowIsAnErrorThatLosesNothing) {
  rows::FormatRow format{};
  ASSERT_TRUE(rows::parse(**store_.get(rows::format_key()), format));
  const std::uint64_t first = rows::name_cookie("wanted", format.hash_key);
  for (std::uint64_t i = 0; i < rows::kProbe; ++i) {
    rows::EntryRow row{.id = 1000 + i, .type = S_IFREG >> 12};
    Batch batch;
    batch.put(rows::entry_key(kRootId, first + i),
              std::string(rows::bytes_of(row)) + "squatter" + std::to_string(i));
    ASSERT_TRUE(store_.commit(batch));
  }
  EXPECT_EQ(code(make(kRootId, "wanted")), ENOSPC);
}

TEST_F(NamespaceTest, XattrErrors) {
  auto file = make(kRootId, "f");
  EXPECT_EQ(code(ns_->get_xattr(file->id, "user.a")), ENODATA);
  EXPECT_EQ(code(ns_->remove_xattr(file->id, "user.a", {})), ENODATA);
  EXPECT_EQ(code(ns_->set_xattr(file->id, "user.a", "1", XATTR_REPLACE, {})), ENODATA);
  EXPECT_TRUE(ns_->set_xattr(file->id, "user.a", "1", XATTR_CREATE, {}));
  EXPECT_EQ(code(ns_->set_xattr(file->id, "user.a", "2", XATTR_CREATE, {})), EEXIST);
  EXPECT_EQ(code(ns_->set_xattr(file->id, "user.b", std::string(65537, 'x'), 0, {})), E2BIG);
  EXPECT_TRUE(ns_->set_xattr(file->id, "user.b", std::string(65536, 'x'), 0, {}));
  EXPECT_EQ(ns_->get_xattr(file->id, "user.b")->size(), 65536U);
  EXPECT_EQ(code(ns_->set_xattr(99999, "user.a", "1", 0, {})), ENOENT);
  EXPECT_EQ(code(ns_->set_xattr(file->id, std::string(256, 'n'), "1", 0, {})), ERANGE);
  EXPECT_EQ(ns_->list_xattrs(file->id)->size(), 2U);
}

TEST_F(NamespaceTest, XattrListIsBounded) {
  auto file = make(kRootId, "f");
  int code_seen = 0;
  for (int i = 0; i < 400 && code_seen == 0; ++i)
    code_seen = code(ns_->set_xattr(
        file->id, "user." + std::to_string(1000 + i) + std::string(240, 'n'), "", 0, {}));
  EXPECT_EQ(code_seen, ENOSPC);
  ASSERT_TRUE(ns_->unlink(kRootId, "f", {}));
  EXPECT_TRUE(ns_->erase_orphan(file->id));
  EXPECT_TRUE(ns_->list_xattrs(file->id)->empty());
}

}  // namespace
}  // namespace btd
