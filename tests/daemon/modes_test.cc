// The I/O modes of a file and the promises about its space, with passthrough and without.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "mount_fixture.h"

namespace btd {
namespace {

class Modes : public MountFixture {
 protected:
  void SetUp() override {
    MountFixture::SetUp();
    if (!HasFatalFailure()) start();
  }

  // Writes as a user without privileges, in a process of its own.
  static int write_as_nobody(int fd, const char* bytes) {
    const pid_t child = fork();
    if (child == 0) {
      if (setgid(65534) != 0 || setuid(65534) != 0) _exit(100);
      _exit(pwrite(fd, bytes, strlen(bytes), 0) == static_cast<ssize_t>(strlen(bytes)) ? 0 : errno);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  }
};
INSTANTIATE_TEST_SUITE_P(Paths, Modes, testing::Bool(),
                         [](const auto& p) { return p.param ? "passthrough" : "cached"; });

TEST_P(Modes, AMappingOutlivesCloseAndUnlink) {
  UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(0, ftruncate(fd.get(), 8192));
  auto* map =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(MAP_FAILED, map);
  map[0] = 'a';
  fd.reset();
  if (passthrough()) {  // the page cache's mapping keeps the file open, this one does not
    EXPECT_TRUE(eventually([this] { return status()["files"]["opens"].get<int>() == 0; }));
  }
  // A second open beside the mapping: one mode for the node's life, so it is coherent.
  fd.reset(open(path("f").c_str(), O_RDWR));
  ASSERT_TRUE(fd);
  map[1] = 'b';
  char bytes[3] = {};
  EXPECT_EQ(2, pread(fd.get(), bytes, 2, 0));
  EXPECT_STREQ("ab", bytes);
  EXPECT_EQ(1, pwrite(fd.get(), "c", 1, 0));
  EXPECT_EQ('c', map[0]);
  fd.reset();
  ASSERT_EQ(0, unlink(path("f").c_str()));
  map[4096] = 'd';
  EXPECT_EQ('c', map[0]);
  munmap(map, 8192);
  EXPECT_TRUE(eventually([this] { return backing_files() == 0; }));
  EXPECT_TRUE(eventually([this] { return known() == 0; })) << known();
}

// What a mapping holds is written back by msync and munmap, and when the kernel sees fit. A close
// does not wait for it, whether the file was created or opened.
TEST_P(Modes, ACloseWritesNothingBack) {
  const auto writes = [this] {
    const auto operations = status()["operations"];
    return operations.contains("write") ? operations["write"]["count"].get<int>() : 0;
  };
  for (const char* how : {"created", "opened"}) {
    UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
    ASSERT_EQ(0, ftruncate(fd.get(), 4096));
    auto* map =
        static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
    ASSERT_NE(MAP_FAILED, map);
    map[0] = 'a';
    const int before = writes();
    fd.reset();
    EXPECT_EQ(before, writes()) << how;
    munmap(map, 4096);  // this does
  }
  EXPECT_EQ('a', read_file(path("f"))[0]);
}

TEST_P(Modes, ASetuidFileLosesItsBitsOnAWriteBesideAPassthroughOpen) {
  ASSERT_EQ(0, write_file(path("f"), "0123456789"));
  const UniqueFd plain(open(path("f").c_str(), O_RDWR));
  ASSERT_EQ(0, chmod(path("f").c_str(), 06777));
  const UniqueFd seen(open(path("f").c_str(), O_RDWR));
  ASSERT_TRUE(seen) << strerror(errno);
  auto* map =
      static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, plain.get(), 0));
  ASSERT_NE(MAP_FAILED, map);
  EXPECT_EQ(0, write_as_nobody(seen.get(), "AB"));
  EXPECT_EQ(0777U, stat_of(path("f")).st_mode & 07777U);
  EXPECT_EQ('A', map[0]) << "the two ways to the data do not show the same";
  char bytes[3] = {};
  EXPECT_EQ(2, pread(plain.get(), bytes, 2, 0));
  EXPECT_STREQ("AB", bytes);
  munmap(map, 4096);
}

TEST_P(Modes, SetuidBitsGoOnEveryOtherChange) {
  const auto bits = [this] { return stat_of(path("f")).st_mode & 07777U; };
  ASSERT_EQ(0, write_file(path("f"), "0123456789"));
  ASSERT_EQ(0, chmod(path("f").c_str(), 06777));
  ASSERT_EQ(0, chown(path("f").c_str(), 1, 1));
  EXPECT_EQ(0777U, bits());
  ASSERT_EQ(0, chmod(path("f").c_str(), 04777));
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(100);
    _exit(truncate(path("f").c_str(), 3) == 0 ? 0 : errno);
  }
  int code = 0;
  waitpid(child, &code, 0);
  EXPECT_EQ(0, WEXITSTATUS(code));
  EXPECT_EQ(0777U, bits());
  EXPECT_EQ(3, stat_of(path("f")).st_size);
}

TEST_P(Modes, GrowthBeyondTheSpaceFailsAndChangesNothing) {
  const UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(0, ftruncate(fd.get(), 1 << 20));
  struct statfs before{}, after{};
  ASSERT_EQ(0, statfs(mnt_.c_str(), &before));
  EXPECT_NE(0, ftruncate(fd.get(), 1 << 30));
  EXPECT_EQ(ENOSPC, errno);
  EXPECT_NE(0, fallocate(fd.get(), 0, 0, 1 << 30));
  EXPECT_EQ(ENOSPC, errno);
  EXPECT_EQ(1 << 20, stat_of(path("f")).st_size);
  ASSERT_EQ(0, statfs(mnt_.c_str(), &after));
  EXPECT_EQ(before.f_bfree, after.f_bfree) << "what was reserved before it failed is not back";
  EXPECT_GE(stat_of(path("f")).st_blocks * 512, 1 << 20);
}

TEST_P(Modes, SparseIsAChoiceAndInherited) {
  ASSERT_EQ(0, mkdir(path("d").c_str(), 0755));
  ASSERT_EQ(0, setxattr(path("d").c_str(), "user.btd.sparse", "1", 1, 0)) << strerror(errno);
  const UniqueFd fd(open(path("d/f").c_str(), O_CREAT | O_RDWR, 0644));
  EXPECT_EQ(0, ftruncate(fd.get(), 1 << 30)) << strerror(errno);
  char value[8] = {};
  EXPECT_EQ(1, getxattr(path("d/f").c_str(), "user.btd.sparse", value, sizeof value));
  EXPECT_STREQ("1", value);
  EXPECT_NE(0, setxattr(path("d/f").c_str(), "user.btd.id", "1", 1, 0));
  EXPECT_EQ(EPERM, errno);
  EXPECT_GT(getxattr(path("d/f").c_str(), "user.btd.id", value, sizeof value), 0);
}

TEST_P(Modes, OpeningForWritingFillsHolesUnlessTheyWerePunched) {
  UniqueFd fd(open(path("f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(1, pwrite(fd.get(), "x", 1, (1 << 20) - 1));
  fd.reset(open(path("f").c_str(), O_RDWR));
  struct stat st{};
  ASSERT_EQ(0, fstat(fd.get(), &st));
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // the attributes' life
  EXPECT_GE(stat_of(path("f")).st_blocks * 512, 1 << 20);
  ASSERT_EQ(0, fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 19));
  fd.reset(open(path("f").c_str(), O_RDWR));
  EXPECT_LT(stat_of(path("f")).st_blocks * 512, 1 << 20);
}

TEST_P(Modes, OTruncAndAppend) {
  ASSERT_EQ(0, write_file(path("f"), "0123456789"));
  const UniqueFd held(open(path("f").c_str(), O_RDONLY));
  ASSERT_EQ(0, write_file(path("f"), "ab"));
  EXPECT_EQ("ab", read_file(path("f")));
  const UniqueFd one(open(path("f").c_str(), O_WRONLY | O_APPEND));
  const UniqueFd two(open(path("f").c_str(), O_WRONLY | O_APPEND));
  EXPECT_EQ(1, write(one.get(), "1", 1));
  EXPECT_EQ(1, write(two.get(), "2", 1));
  EXPECT_EQ("ab12", read_file(path("f")));
  struct stat st{};
  ASSERT_EQ(0, fstat(held.get(), &st));
  EXPECT_EQ(4, st.st_size);
}

}  // namespace
}  // namespace btd
