// The worker is killed at each named point of each kind of request. The application that made the
// call must see one effect and no error, and what the daemon counts must be right afterwards.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "mount_fixture.h"

namespace btd {
namespace {

using Points = std::vector<KillPoint>;
const Points kAll = {KillPoint::kReceived, KillPoint::kCommitted, KillPoint::kCounted,
                     KillPoint::kReplied};
const Points kChange = {KillPoint::kReceived, KillPoint::kCommitted, KillPoint::kReplied};
const Points kCount = {KillPoint::kReceived, KillPoint::kCounted, KillPoint::kReplied};
const Points kPlain = {KillPoint::kReceived, KillPoint::kReplied};

class Resend : public MountFixture {
 protected:
  void SetUp() override {
    MountFixture::SetUp();
    if (!HasFatalFailure()) start();
    ASSERT_EQ(0, mkdir(path("d").c_str(), 0755));
    baseline_ = known();
  }

  // `prepare` makes what `act` needs; `act` is called once with the worker about to die and says
  // whether it succeeded with exactly its effect; then everything is removed and must be forgotten.
  void at_each(std::uint32_t opcode, const Points& points, const std::function<void()>& prepare,
               const std::function<bool()>& act) {
    for (const KillPoint point : points) {
      SCOPED_TRACE("killed at point " + std::to_string(static_cast<int>(point)) + " of " +
                   std::string(opcode_name(opcode)));
      prepare();
      arm(point, opcode);
      EXPECT_TRUE(act()) << strerror(errno);
      EXPECT_TRUE(eventually([this] { return fired(); }, 2000)) << "the point was never reached";
      disarm();
      clean();
      EXPECT_TRUE(eventually([this] { return known() == baseline_; }))
          << known() << " known instead of " << baseline_;
      EXPECT_TRUE(eventually([this] { return backing_files() == 0; })) << backing_files();
      EXPECT_EQ(0U, status()["files"]["opens"].get<unsigned>());
    }
  }

  void clean() const {
    for (const char* name : {"a", "b", "s"}) unlink(d(name).c_str());
    rmdir(d("x").c_str());
  }
  [[nodiscard]] std::string d(const char* name) const { return path("d/") + name; }
  [[nodiscard]] bool absent(const char* name) const { return stat_of(d(name)).st_mode == 0; }

  std::uint64_t baseline_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Paths, Resend, testing::Bool(),
                         [](const auto& p) { return p.param ? "passthrough" : "cached"; });

TEST_P(Resend, MakingNames) {
  const auto nothing = [] {};
  at_each(proto::kCreate, kAll, nothing, [&] {
    const UniqueFd fd(open(d("a").c_str(), O_CREAT | O_EXCL | O_RDWR, 0640));
    return fd && write(fd.get(), "abc", 3) == 3 && read_file(d("a")) == "abc";
  });
  at_each(proto::kMkdir, kAll, nothing,
          [&] { return mkdir(d("x").c_str(), 0755) == 0 && stat_of(d("")).st_nlink == 3; });
  at_each(proto::kSymlink, kAll, nothing, [&] { return symlink("to", d("s").c_str()) == 0; });
  at_each(proto::kMknod, kAll, nothing, [&] { return mkfifo(d("a").c_str(), 0600) == 0; });
  at_each(
      proto::kLink, kAll, [&] { write_file(d("a"), "1"); },
      [&] { return link(d("a").c_str(), d("b").c_str()) == 0 && stat_of(d("a")).st_nlink == 2; });
  at_each(proto::kTmpfile, kAll, nothing, [&] {
    const UniqueFd fd(open(path("d").c_str(), O_TMPFILE | O_RDWR, 0600));
    return fd && write(fd.get(), "x", 1) == 1 &&
           linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd.get())).c_str(), AT_FDCWD,
                  d("a").c_str(), AT_SYMLINK_FOLLOW) == 0 &&
           read_file(d("a")) == "x";
  });
}

TEST_P(Resend, RemovingNames) {
  at_each(
      proto::kUnlink, kAll, [&] { write_file(d("a"), "1"); },
      [&] { return unlink(d("a").c_str()) == 0 && absent("a"); });
  at_each(
      proto::kRmdir, kAll, [&] { mkdir(d("x").c_str(), 0755); },
      [&] { return rmdir(d("x").c_str()) == 0 && stat_of(d("")).st_nlink == 2; });
  UniqueFd held;
  at_each(
      proto::kUnlink, kAll,
      [&] {
        write_file(d("a"), "kept");
        held.reset(open(d("a").c_str(), O_RDWR));
      },
      [&] {
        char bytes[5] = {};
        const bool good = unlink(d("a").c_str()) == 0 && pread(held.get(), bytes, 4, 0) == 4 &&
                          std::string(bytes) == "kept" && backing_files() == 1;
        held.reset();
        return good;
      });
}

TEST_P(Resend, Renaming) {
  at_each(
      proto::kRename, kAll, [&] { write_file(d("a"), "1"); },
      [&] { return rename(d("a").c_str(), d("b").c_str()) == 0 && read_file(d("b")) == "1"; });
  at_each(
      proto::kRename, kAll,
      [&] {
        write_file(d("a"), "1");
        write_file(d("b"), "2");
      },
      [&] {
        return rename(d("a").c_str(), d("b").c_str()) == 0 && read_file(d("b")) == "1" &&
               absent("a") && eventually([&] { return backing_files() == 1; });
      });
  at_each(
      proto::kRename, kAll,
      [&] {
        write_file(d("a"), "1");
        write_file(d("b"), "2");
      },
      [&] {
        return renameat2(AT_FDCWD, d("a").c_str(), AT_FDCWD, d("b").c_str(), RENAME_EXCHANGE) ==
                   0 &&
               read_file(d("a")) == "2" && read_file(d("b")) == "1";
      });
  at_each(
      proto::kRename, kAll, [&] { write_file(d("a"), "1"); },
      [&] {
        return renameat2(AT_FDCWD, d("a").c_str(), AT_FDCWD, d("b").c_str(), RENAME_NOREPLACE) == 0;
      });
}

TEST_P(Resend, Attributes) {
  const auto file = [&] { write_file(d("a"), "0123456789"); };
  at_each(proto::kSetattr, kChange, file, [&] {
    return chmod(d("a").c_str(), 0600) == 0 && (stat_of(d("a")).st_mode & 07777) == 0600;
  });
  at_each(proto::kSetattr, kChange, file,
          [&] { return truncate(d("a").c_str(), 4) == 0 && read_file(d("a")) == "0123"; });
  at_each(proto::kSetattr, kChange, file, [&] {
    const timespec times[2] = {{5, 6}, {7, 8}};
    return utimensat(AT_FDCWD, d("a").c_str(), times, 0) == 0 &&
           stat_of(d("a")).st_mtim.tv_sec == 7 && stat_of(d("a")).st_mtim.tv_nsec == 8;
  });
  at_each(proto::kSetxattr, kChange, file,
          [&] { return setxattr(d("a").c_str(), "user.k", "v", 1, XATTR_CREATE) == 0; });
  at_each(
      proto::kRemovexattr, kChange,
      [&] {
        file();
        setxattr(d("a").c_str(), "user.k", "v", 1, 0);
      },
      [&] { return removexattr(d("a").c_str(), "user.k") == 0; });
}

TEST_P(Resend, OpeningAndClosing) {
  const auto file = [&] { write_file(d("a"), "0123456789"); };
  at_each(proto::kOpen, kCount, file, [&] { return read_file(d("a")) == "0123456789"; });
  at_each(proto::kOpen, kCount, file, [&] {
    const UniqueFd fd(open(d("a").c_str(), O_WRONLY | O_TRUNC));
    return fd && stat_of(d("a")).st_size == 0;
  });
  at_each(proto::kRelease, kCount, file, [&] { return read_file(d("a")) == "0123456789"; });
  at_each(proto::kReaddirplus, kCount, file, [&] {
    DIR* dir = opendir(d("").c_str());
    int names = 0;
    while (readdir(dir) != nullptr) ++names;
    closedir(dir);
    return names == 3;
  });
}

TEST_P(Resend, Data) {
  UniqueFd fd;
  const auto file = [&] {
    write_file(d("a"), std::string(100'000, 'x'));
    fd.reset(open(d("a").c_str(), O_RDWR));
  };
  const auto closing = [&](bool good) {
    fd.reset();
    return good;
  };
  at_each(proto::kFallocate, kChange, file, [&] {
    return closing(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 65536) == 0 &&
                   lseek(fd.get(), 0, SEEK_DATA) == 65536);
  });
  at_each(proto::kFsync, kPlain, file, [&] { return closing(fsync(fd.get()) == 0); });
  at_each(proto::kLseek, kPlain, file,
          [&] { return closing(lseek(fd.get(), 5, SEEK_HOLE) == 100'000); });
  at_each(proto::kCopyFileRange, kPlain, file, [&] {
    const UniqueFd to(open(d("b").c_str(), O_CREAT | O_RDWR, 0600));
    off_t from_at = 0, to_at = 0;
    return closing(copy_file_range(fd.get(), &from_at, to.get(), &to_at, 50'000, 0) == 50'000 &&
                   read_file(d("b")) == std::string(50'000, 'x'));
  });
  if (passthrough()) return;
  at_each(proto::kWrite, kPlain, file, [&] {
    return closing(pwrite(fd.get(), "yz", 2, 7) == 2 && read_file(d("a")).substr(6, 4) == "xyzx");
  });
}

// Names that the kernel does not know yet: made by an earlier mount.
TEST_P(Resend, LookingUp) {
  for (const char* name : {"1", "3", "4"}) ASSERT_EQ(0, write_file(d(name), "x"));
  ASSERT_EQ(0, stop());
  start();
  for (const KillPoint point : kCount) {
    const std::string name = std::to_string(static_cast<int>(point));
    (void)stat_of(d(""));
    arm(point, proto::kLookup);
    EXPECT_EQ(1, stat_of(d(name.c_str())).st_size) << name;
    EXPECT_TRUE(eventually([this] { return fired(); }, 2000));
  }
  for (const char* name : {"1", "3", "4"}) EXPECT_EQ(0, unlink(d(name).c_str()));
  EXPECT_TRUE(eventually([&] { return known() == baseline_; })) << known();
}

// The second death comes while the request is executed again.
TEST_P(Resend, DyingAgainWhileExecutingAgain) {
  int deaths = 0;
  for (int round = 0; round < 10; ++round) {
    write_file(d("a"), "1");
    arm(KillPoint::kCommitted, proto::kRename);
    std::thread other([&] {
      EXPECT_TRUE(eventually([this] { return fired(); }, 2000));
      arm(KillPoint::kReceived, proto::kRename);
    });
    EXPECT_EQ(0, rename(d("a").c_str(), d("b").c_str()));
    other.join();
    deaths += fired() ? 1 : 0;
    disarm();
    EXPECT_EQ("1", read_file(d("b")));
    EXPECT_TRUE(absent("a"));
  }
  EXPECT_GT(deaths, 0) << "it never died a second time";
  clean();
  EXPECT_TRUE(eventually([&] { return known() == baseline_; })) << known();
}

}  // namespace
}  // namespace btd
