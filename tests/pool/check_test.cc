// The check finds every kind of seeded damage, and repair puts it right; a clean pool gives
// nothing.
#include "fs/check/check.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <map>

#include "alloc/file_arenas.h"
#include "alloc/heap.h"
#include "fs/namespace/layout.h"
#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"
#include "tests/pool/scratch.h"

namespace btd {
namespace {

std::string text_of(const CheckReport& report) {
  std::string text;
  for (const Finding& finding : report.findings)
    text += finding.sentence + (finding.repaired ? " [repaired]\n" : "\n");
  return text;
}

class CheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_WORKS(Pool::format(scratch_.pool(), {}));
    change([this](Pool& pool) {
      auto names = *Namespace::open(pool.meta());
      dir_ = make(*names, pool, kRootId, "dir", S_IFDIR | 0755);
      sub_ = make(*names, pool, dir_, "sub", S_IFDIR | 0755);
      file_ = make(*names, pool, sub_, "file", S_IFREG | 0644);
      link_ = make(*names, pool, dir_, "link", S_IFLNK | 0777);
      fifo_ = make(*names, pool, dir_, "fifo", S_IFIFO | 0600);
      ASSERT_WORKS(names->link(file_, dir_, "second", {}));
      ASSERT_WORKS(names->set_xattr(file_, "user.x", "value", 0, {}));
    });
  }

  template <class Change>
  void change(const Change& change) {
    auto lock = PoolLock::acquire(scratch_.pool());
    ASSERT_WORKS(lock);
    auto pool = Pool::open(scratch_.pool(), *std::move(lock));
    ASSERT_WORKS(pool);
    change(**pool);
    ASSERT_WORKS((*pool)->close());
  }

  void commit(const Batch& batch) {
    change([&](Pool& pool) { ASSERT_WORKS(pool.meta().commit(batch)); });
  }

  static InodeId make(Namespace& names, Pool& pool, InodeId parent, std::string_view name,
                      std::uint32_t mode) {
    const InodeId id = *names.allocate_id();
    if (S_ISREG(mode)) {
      EXPECT_TRUE(pool.backing().create(id).has_value());
    }
    EXPECT_TRUE(
        names.create(parent, name, id, {.mode = mode, .target = S_ISLNK(mode) ? "to" : ""}, {})
            .has_value());
    names.id_settled(id);
    return id;
  }

  rows::InodeRow row_of(InodeId id) {
    rows::InodeRow row{};
    change([&](Pool& pool) {
      const auto bytes = pool.meta().get(rows::inode_key(id));
      ASSERT_TRUE(bytes.has_value() && bytes->has_value());
      ASSERT_TRUE(rows::parse(**bytes, row));
    });
    return row;
  }

  // The key of the entry.
  std::string entry_of(InodeId dir, std::string_view name) {
    std::string found;
    change([&](Pool& pool) {
      ASSERT_WORKS(pool.meta().scan(rows::entry_key(dir, 0), rows::entry_key(dir + 1, 0),
                                    [&](std::string_view key, std::string_view value) {
                                      if (value.substr(sizeof(rows::EntryRow)) == name) found = key;
                                      return true;
                                    }));
    });
    EXPECT_FALSE(found.empty());
    return found;
  }

  std::map<std::string, std::string> all_rows() {
    std::map<std::string, std::string> rows;
    change([&](Pool& pool) {
      ASSERT_WORKS(pool.meta().scan("", "", [&](std::string_view key, std::string_view value) {
        rows.emplace(key, value);
        return true;
      }));
    });
    return rows;
  }

  CheckReport check(bool repair) {
    auto report = check_pool(scratch_.pool(), {.repair = repair});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? *report : CheckReport{};
  }

  // Found without repair, which changes nothing; repaired with it; clean after it.
  void expect_repaired(const std::string& sentence) {
    const auto before = all_rows();
    const auto found = check(false);
    EXPECT_NE(text_of(found).find(sentence), std::string::npos) << text_of(found);
    EXPECT_EQ(exit_of(found), CheckExit::kUncorrected);
    EXPECT_EQ(found.repaired, 0U);
    EXPECT_EQ(all_rows(), before);

    const auto repaired = check(true);
    EXPECT_EQ(exit_of(repaired), CheckExit::kRepaired) << text_of(repaired);
    EXPECT_NE(text_of(repaired).find(sentence), std::string::npos) << text_of(repaired);
    expect_clean();
  }

  void expect_clean() {
    const auto report = check(false);
    EXPECT_EQ(exit_of(report), CheckExit::kClean) << text_of(report);
    EXPECT_TRUE(report.findings.empty()) << text_of(report);
  }

  Result<Inode> look_up(std::initializer_list<const char*> path) {
    Result<Inode> at = fail(ENOENT);
    change([&](Pool& pool) {
      auto names = *Namespace::open(pool.meta());
      at = names->get(kRootId);
      for (const char* name : path)
        if (at) at = names->lookup(at->id, name);
    });
    return at;
  }

  Scratch scratch_;
  InodeId dir_ = 0, sub_ = 0, file_ = 0, link_ = 0, fifo_ = 0;
};

TEST_F(CheckTest, ACleanPoolGivesNothing) {
  std::vector<std::string> phases;
  const auto report =
      check_pool(scratch_.pool(), {.progress = [&](std::string_view phase, std::uint64_t,
                                                   std::uint64_t) { phases.emplace_back(phase); }});
  ASSERT_WORKS(report);
  EXPECT_TRUE(report->findings.empty()) << text_of(*report);
  EXPECT_EQ(exit_of(report), CheckExit::kClean);
  EXPECT_EQ(report->files, 1U);
  EXPECT_EQ(report->directories, 3U);
  EXPECT_EQ(report->symlinks, 1U);
  EXPECT_EQ(report->others, 1U);
  EXPECT_EQ(report->entries, 6U);
  EXPECT_EQ(report->xattrs, 1U);
  EXPECT_EQ(report->backing_files, 1U);
  EXPECT_EQ(report->files_without_backing, 0U);
  EXPECT_FALSE(phases.empty());
  const auto before = all_rows();
  EXPECT_EQ(exit_of(check(true)), CheckExit::kClean);
  EXPECT_EQ(all_rows(), before);
}

TEST_F(CheckTest, WrongLinkCounts) {
  for (const InodeId id : {kRootId, dir_, file_}) {
    auto row = row_of(id);
    const auto right = row.nlink;
    row.nlink += 3;
    Batch batch;
    batch.put(rows::inode_key(id), rows::bytes_of(row));
    commit(batch);
    expect_repaired("has the link count " + std::to_string(right + 3));
    EXPECT_EQ(row_of(id).nlink, right);
  }
}

TEST_F(CheckTest, ADanglingEntry) {
  Batch batch;
  batch.erase(rows::inode_key(fifo_));
  commit(batch);
  expect_repaired("names inode " + std::to_string(fifo_) + ", which does not exist");
  EXPECT_FALSE(look_up({"dir", "fifo"}).has_value());
}

TEST_F(CheckTest, AnUnreachableFileAndDirectoryComeToLostAndFound) {
  Batch batch;
  batch.erase(entry_of(sub_, "file"));
  batch.erase(entry_of(dir_, "second"));
  batch.erase(entry_of(dir_, "sub"));
  commit(batch);
  expect_repaired("cannot be reached from the root");
  const std::string dir = "#" + std::to_string(sub_), file = "#" + std::to_string(file_);
  EXPECT_EQ(look_up({"lost+found", dir.c_str()})->id, sub_);
  EXPECT_EQ(look_up({"lost+found", file.c_str()})->nlink, 1U);
  EXPECT_EQ(look_up({"lost+found"})->nlink, 3U);
}

TEST_F(CheckTest, ALoopOfDirectories) {
  // sub's entry moves from dir into sub's own child: sub -> deep -> sub.
  InodeId deep = 0;
  change([&](Pool& pool) {
    auto names = *Namespace::open(pool.meta());
    deep = make(*names, pool, sub_, "deep", S_IFDIR | 0755);
  });
  Batch batch;
  batch.erase(entry_of(dir_, "sub"));
  rows::EntryRow row{.id = sub_, .type = S_IFDIR >> 12};
  std::string value(rows::bytes_of(row));
  value += "sub";
  // The cookie depends on the name only, so the same one is right in another directory.
  batch.put(rows::entry_key(deep, rows::number_at(entry_of(dir_, "sub"), 9)), value);
  commit(batch);
  expect_repaired("lies below itself");
  const std::string top = "#" + std::to_string(sub_);
  ASSERT_TRUE(
      look_up({"lost+found", top.c_str(), "file"}).has_value() ||
      look_up({"lost+found", ("#" + std::to_string(deep)).c_str(), "sub", "file"}).has_value());
}

TEST_F(CheckTest, ASecondNameOfADirectory) {
  const std::string key = entry_of(dir_, "sub");
  Batch batch;
  change([&](Pool& pool) {
    batch.put(rows::entry_key(kRootId, rows::number_at(key, 9)), **pool.meta().get(key));
  });
  commit(batch);
  expect_repaired("is a second name of the directory");
}

TEST_F(CheckTest, AnEntryOfNoDirectory) {
  const std::string key = entry_of(dir_, "second");
  for (const InodeId dir : {file_, InodeId{3000}}) {
    Batch batch;
    change([&](Pool& pool) {
      batch.put(rows::entry_key(dir, rows::number_at(key, 9)), **pool.meta().get(key));
    });
    commit(batch);
    expect_repaired("belongs to no directory");
  }
}

TEST_F(CheckTest, AnEntryOfAWrongTypeOrName) {
  const std::string key = entry_of(dir_, "fifo");
  rows::EntryRow row{.id = fifo_, .type = S_IFREG >> 12};
  Batch batch;
  batch.put(key, std::string(rows::bytes_of(row)) + "fifo");
  commit(batch);
  expect_repaired("says a wrong type");
  EXPECT_TRUE(look_up({"dir", "fifo"}).has_value());

  row.type = S_IFIFO >> 12;
  Batch slash;
  slash.put(key, std::string(rows::bytes_of(row)) + "a/b");
  commit(slash);
  expect_repaired("impossible name");
}

TEST_F(CheckTest, AnEntryWhereNoLookUpFindsIt) {
  const std::string key = entry_of(dir_, "fifo");
  Batch batch;
  change([&](Pool& pool) {
    batch.put(rows::entry_key(dir_, rows::number_at(key, 9) + 1000), **pool.meta().get(key));
  });
  batch.erase(key);
  commit(batch);
  EXPECT_FALSE(look_up({"dir", "fifo"}).has_value());
  expect_repaired("where no look-up finds it");
  EXPECT_EQ(look_up({"dir", "fifo"})->id, fifo_);
}

TEST_F(CheckTest, ANameThatIsThereTwice) {
  const std::string key = entry_of(dir_, "second");
  Batch batch;
  change([&](Pool& pool) {
    batch.put(rows::entry_key(dir_, rows::number_at(key, 9) + 1), **pool.meta().get(key));
  });
  commit(batch);
  expect_repaired("is there twice");
}

TEST_F(CheckTest, ASymbolicLinkWithoutOrWithAWrongTarget) {
  Batch longer;
  longer.put(rows::target_key(link_), "elsewhere");
  commit(longer);
  expect_repaired("a target of 9 bytes");
  EXPECT_EQ(row_of(link_).size, 9U);
  Batch lost;
  lost.erase(rows::target_key(link_));
  commit(lost);
  expect_repaired("has lost its target");
}

TEST_F(CheckTest, RowsWithoutAnInode) {
  const struct {
    std::string key;
    const char* sentence;
  } kRows[] = {
      {std::string(std::string_view(rows::target_key(3000))), "belongs to no symbolic link"},
      {std::string(std::string_view(rows::target_key(file_))), "belongs to no symbolic link"},
      {std::string(std::string_view(rows::xattr_key(3000, "user.y"))), "belongs to no inode"},
      {std::string(std::string_view(rows::orphan_key(3000))), "does not exist is marked"},
      {std::string(std::string_view(rows::result_key(0, 7))), "result has a wrong size"},
      {"zebra", "of no kind"},
      {"A", "of no kind"},
      {"mother", "of no kind"},
      {"i12", "wrong size"},
      {"d12", "wrong size"},
  };
  for (const auto& row : kRows) {
    SCOPED_TRACE(row.key);
    Batch batch;
    batch.put(row.key, "v");
    commit(batch);
    expect_repaired(row.sentence);
  }
}

TEST_F(CheckTest, InodesThatCannotBe) {
  auto row = row_of(fifo_);
  row.mode = 0644;
  Batch typeless;
  typeless.put(rows::inode_key(3000), rows::bytes_of(row));
  commit(typeless);
  expect_repaired("has no type");
  row = row_of(fifo_);
  Batch impossible;
  impossible.put(rows::inode_key(kFirstVirtualId + 1), rows::bytes_of(row));
  commit(impossible);
  expect_repaired("impossible id");
  row.nlink = 0;
  Batch nameless;
  nameless.put(rows::inode_key(3000), rows::bytes_of(row));
  nameless.put(rows::xattr_key(3000, "user.z"), "z");
  commit(nameless);
  expect_repaired("nothing waits for it");
}

TEST_F(CheckTest, ADirectoryThatSaysAWrongParent) {
  rows::InodeRow row = row_of(sub_);
  ASSERT_EQ(row.size, dir_);
  row.size = kRootId;
  Batch batch;
  batch.put(rows::inode_key(sub_), rows::bytes_of(row));
  commit(batch);
  expect_repaired("says that it lies in");
  EXPECT_EQ(row_of(sub_).size, dir_);
}

TEST_F(CheckTest, IdsThatWouldBeHandedOutTwice) {
  const rows::IdsRow ids{.limit = 3, .suspicious = 3};
  Batch batch;
  batch.put(rows::ids_key(0), rows::bytes_of(ids));
  commit(batch);
  expect_repaired("handed out a second time");
}

TEST_F(CheckTest, AMissingRootAndAMissingFormat) {
  Batch batch;
  batch.erase(rows::inode_key(kRootId));
  commit(batch);
  expect_repaired("there is no root directory");
  ASSERT_TRUE(look_up({"lost+found"}).has_value());
  Batch format;
  format.erase(rows::format_key());
  change([&](Pool& pool) { ASSERT_WORKS(pool.meta().commit(format)); });
  EXPECT_EQ(exit_of(check(true)), CheckExit::kUncorrected);
}

TEST_F(CheckTest, AnOrphanIsANoteAndGoesWithItsFile) {
  change([&](Pool& pool) {
    auto names = *Namespace::open(pool.meta());
    ASSERT_WORKS(names->unlink(dir_, "second", {}));
    ASSERT_WORKS(names->unlink(sub_, "file", {}));
  });
  const auto found = check(false);
  EXPECT_EQ(exit_of(found), CheckExit::kClean);
  EXPECT_EQ(found.notes, 1U);
  EXPECT_EQ(found.orphans, 1U);
  const std::string backing = scratch_.pool() + "/" + BackingStore::path(file_);
  EXPECT_TRUE(std::filesystem::exists(backing));
  EXPECT_EQ(exit_of(check(true)), CheckExit::kClean);
  EXPECT_FALSE(std::filesystem::exists(backing));
  expect_clean();
}

TEST_F(CheckTest, ANamedInodeMarkedAsNameless) {
  Batch batch;
  batch.put(rows::orphan_key(file_), "");
  commit(batch);
  expect_repaired("its data would be removed");
}

TEST_F(CheckTest, BackingFiles) {
  const std::string pool = scratch_.pool() + "/";
  // Below the first suspicious id: no crash leaves that. From there on: a crash may.
  const rows::IdsRow ids{.limit = 5000, .suspicious = 4000};
  Batch batch;
  batch.put(rows::ids_key(0), rows::bytes_of(ids));
  commit(batch);
  for (const InodeId leaked : {InodeId{3000}, InodeId{9000}, fifo_}) {
    write_whole(pool + BackingStore::path(leaked), "leak");
    expect_repaired(BackingStore::path(leaked) + " belongs to no file");
    EXPECT_FALSE(std::filesystem::exists(pool + BackingStore::path(leaked)));
  }
  write_whole(pool + BackingStore::path(4500), "left");
  EXPECT_EQ(check(false).notes, 1U);
  EXPECT_EQ(exit_of(check(true)), CheckExit::kClean);
  EXPECT_FALSE(std::filesystem::exists(pool + BackingStore::path(4500)));

  std::filesystem::remove(pool + BackingStore::path(file_));
  expect_clean();
  EXPECT_EQ(check(false).files_without_backing, 1U);

  std::filesystem::remove(pool + "data/a0");
  expect_repaired("data/a0 is missing");
  write_whole(pool + "data/a0/notes.txt", "mine");
  EXPECT_EQ(check(true).notes, 1U);
  EXPECT_EQ(read_whole(pool + "data/a0/notes.txt"), "mine");
}

TEST_F(CheckTest, SuperblockAndItsCopy) {
  const std::string first = scratch_.pool() + "/superblock", copy = first + ".copy";
  const std::string good = read_whole(first);
  const auto expect_restored = [&](const std::string& sentence) {
    const auto found = check(false);
    EXPECT_EQ(exit_of(found), CheckExit::kUncorrected);
    EXPECT_NE(text_of(found).find(sentence), std::string::npos) << text_of(found);
    EXPECT_EQ(exit_of(check(true)), CheckExit::kRepaired);
    EXPECT_EQ(read_whole(first), good);
    EXPECT_EQ(read_whole(copy), good);
    expect_clean();
  };
  write_whole(first, good.substr(0, 99));
  expect_restored("truncated");
  write_whole(first, std::string(4096, 'x'));
  expect_restored("does not begin");
  std::filesystem::remove(first);
  expect_restored("the superblock is missing");
  write_whole(copy, "x");
  expect_restored("copy of the superblock");
  std::filesystem::remove(copy);
  expect_restored("copy of the superblock");
  write_whole(first, "x");
  write_whole(copy, "x");
  EXPECT_EQ(exit_of(check(true)), CheckExit::kUncorrected);
}

TEST_F(CheckTest, LeakedBlocksOfTheHeap) {
  {
    const UniqueFd meta(::open((scratch_.pool() + "/meta").c_str(), O_RDONLY | O_CLOEXEC));
    auto arenas = FileArenas::open(meta.get(), 64, FileArenas::Mode::kShared);
    ASSERT_WORKS(arenas);
    auto heap = Heap::open(**arenas);
    ASSERT_WORKS(heap);
    for (const std::size_t bytes : {100, 5000, 200'000}) {
      Tx tx = (*heap)->begin();
      ASSERT_WORKS(tx.alloc(bytes));
      ASSERT_WORKS(tx.commit());
    }
    ASSERT_WORKS((*heap)->close());
  }
  expect_repaired("3 blocks of the heap");
}

TEST_F(CheckTest, AFullPoolCanBeEmptiedAndStaysClean) {
  if (!is_root()) GTEST_SKIP() << "mounting needs root";
  ASSERT_WORKS(Pool::format(scratch_.path("small"),
                            {.emulate = Emulation::kRam, .capacity = std::uint64_t{16} << 20}));
  auto pool = Pool::open(scratch_.path("small"), *PoolLock::acquire(scratch_.path("small")));
  ASSERT_WORKS(pool);
  auto names = *Namespace::open((*pool)->meta());
  // Data takes all that is left, then names what their arena has.
  const auto hog = (*pool)->backing().create(1000);
  ASSERT_WORKS(hog);
  const auto room = (*pool)->backing().statfs();
  ASSERT_EQ(::fallocate(hog->get(), 0, 0, static_cast<off_t>(room->f_bavail * room->f_frsize)), 0);
  int made = 0;
  for (;; ++made) {
    const auto id = names->allocate_id();
    const std::string name = std::to_string(made) + std::string(200, 'n');
    const auto created = id ? names->create(kRootId, name, *id, {.mode = S_IFREG | 0644}, {})
                            : Result<Inode>(std::unexpected(id.error()));
    if (created) continue;
    ASSERT_EQ(created.error().code, ENOSPC) << created.error().message;
    break;
  }
  EXPECT_GT(made, 500);
  for (int i = 0; i < made; ++i)
    ASSERT_WORKS(names->unlink(kRootId, std::to_string(i) + std::string(200, 'n'), {}));
  const auto orphans = names->orphans();
  ASSERT_WORKS(orphans);
  for (const InodeId id : *orphans) ASSERT_WORKS(names->erase_orphan(id));
  ASSERT_WORKS((*pool)->backing().remove(1000));
  ASSERT_WORKS((*pool)->close());
  names.reset();
  pool->reset();
  const auto report = check_pool(scratch_.path("small"), {});
  EXPECT_EQ(exit_of(report), CheckExit::kClean) << text_of(*report);
  EXPECT_EQ(report->entries, 0U);
}

TEST_F(CheckTest, OperationalErrors) {
  const auto none = check_pool(scratch_.path("none"), {});
  EXPECT_EQ(exit_of(none), CheckExit::kOperational);
  const auto lock = PoolLock::acquire(scratch_.pool());
  ASSERT_WORKS(lock);
  const auto busy = check_pool(scratch_.pool(), {.repair = true});
  EXPECT_EQ(exit_of(busy), CheckExit::kOperational);
  EXPECT_EQ(busy.error().code, EBUSY);
}

TEST_F(CheckTest, AThousandFaultsAtOnce) {
  Batch batch;
  for (InodeId id = 100; id < 1600; ++id) {
    auto row = row_of(fifo_);
    row.nlink = 1 + static_cast<std::uint32_t>(id % 3);
    batch.put(rows::inode_key(id), rows::bytes_of(row));
    if (id % 100 != 0) continue;
    commit(batch);
    batch = {};
  }
  commit(batch);
  const auto found = check(false);
  EXPECT_EQ(found.uncorrected, 1500U);
  EXPECT_EQ(found.findings.size(), CheckReport::kMaxFindings);
  EXPECT_EQ(exit_of(check(true)), CheckExit::kRepaired);
  expect_clean();
}

}  // namespace
}  // namespace btd
