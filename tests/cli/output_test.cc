// Tables, exit codes, extents and paths.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>

#include "alloc/unique_fd.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/extents.h"
#include "fs/cli/paths.h"
#include "fs/cli/terminal.h"

namespace btd::cli {
namespace {

using namespace std::chrono_literals;

TEST(Table, AlignsByCharactersNotBytes) {
  EXPECT_EQ(format_table({{"NAME"}, {"SIZE", true}, {"X"}},
                         {{"é", "1", "last"}, {"longer", "12345", ""}}),
            "NAME     SIZE  X\n"
            "é           1  last\n"
            "longer  12345\n");
}

TEST(Table, WithoutRowsIsItsHeader) { EXPECT_EQ(format_table({{"A"}, {"B"}}, {}), "A  B\n"); }

TEST(Paint, LeavesAPipeAlone) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  std::FILE* pipe = ::fdopen(ends[1], "w");
  EXPECT_FALSE(has_colours(pipe));
  EXPECT_EQ(paint(pipe, Colour::kRed, "text"), "text");
  std::fclose(pipe);
  ::close(ends[0]);
}

TEST(Paint, ColoursATerminalUnlessToldNotTo) {
  const UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY));
  ASSERT_TRUE(master);
  ASSERT_EQ(::grantpt(master.get()), 0);
  ASSERT_EQ(::unlockpt(master.get()), 0);
  char name[128];
  ASSERT_EQ(::ptsname_r(master.get(), name, sizeof name), 0);
  std::FILE* terminal = std::fopen(name, "w");
  ASSERT_NE(terminal, nullptr);
  ::unsetenv("NO_COLOR");
  ::setenv("TERM", "xterm", 1);
  EXPECT_EQ(paint(terminal, Colour::kRed, "text"), "\x1b[31mtext\x1b[0m");
  ::setenv("NO_COLOR", "1", 1);
  EXPECT_EQ(paint(terminal, Colour::kRed, "text"), "text");
  ::unsetenv("NO_COLOR");
  ::setenv("TERM", "dumb", 1);
  EXPECT_EQ(paint(terminal, Colour::kRed, "text"), "text");
  std::fclose(terminal);
}

TEST(ExitCode, TellsScriptsWhatToDo) {
  EXPECT_EQ(exit_code_for(EINVAL), kExitUsage);
  EXPECT_EQ(exit_code_for(EILSEQ), kExitConfig);
  EXPECT_EQ(exit_code_for(EUCLEAN), kExitData);
  EXPECT_EQ(exit_code_for(EPROTO), kExitData);
  EXPECT_EQ(exit_code_for(ENOENT), kExitNoInput);
  EXPECT_EQ(exit_code_for(EOPNOTSUPP), kExitUnavailable);
  EXPECT_EQ(exit_code_for(EEXIST), kExitCannotCreate);
  EXPECT_EQ(exit_code_for(ENOSPC), kExitCannotCreate);
  EXPECT_EQ(exit_code_for(EIO), kExitIo);
  EXPECT_EQ(exit_code_for(EBUSY), kExitBusy);
  EXPECT_EQ(exit_code_for(EROFS), kExitNoPermission);
  EXPECT_EQ(exit_code_for(ENOMEM), kExitOsError);
}

class Scratch : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "btd_cli_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(Scratch, ExtentsCountTheRunsOfASparseFile) {
  const UniqueFd file(::open((dir_ + "/f").c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_EQ(*count_extents(file.get()), 0U);
  constexpr off_t kFar = 1 << 20;
  for (off_t i = 0; i < 3; ++i) ASSERT_EQ(::pwrite(file.get(), "x", 1, i * kFar), 1);
  EXPECT_EQ(*count_extents(file.get()), 3U);
  ASSERT_EQ(::ftruncate(file.get(), kFar), 0);
  EXPECT_EQ(*count_extents(file.get()), 1U);
}

TEST_F(Scratch, ExtentsOfTmpfsAreItsRunsOfData) {
  const UniqueFd file(::open("/dev/shm", O_TMPFILE | O_RDWR, 0600));
  ASSERT_TRUE(file);
  constexpr off_t kFar = 1 << 20;
  for (off_t i = 1; i < 5; ++i) ASSERT_EQ(::pwrite(file.get(), "x", 1, i * kFar), 1);
  EXPECT_EQ(*count_extents(file.get()), 4U);
}

TEST(AbsolutePath, IsFromTheRootAndPlain) {
  EXPECT_EQ(*absolute_path("/a//b/../c/"), "/a/c");
  EXPECT_EQ(*absolute_path("/"), "/");
  EXPECT_EQ(*absolute_path("x"), std::filesystem::current_path().string() + "/x");
  EXPECT_FALSE(absolute_path(""));
}

TEST_F(Scratch, ReadFileDoesNotWaitForOneThatNeverAnswers) {
  const std::string fifo = dir_ + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const auto begin = std::chrono::steady_clock::now();
  const auto text = read_file_within(fifo, 50ms);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, ETIMEDOUT);
  // Lets the reader that was left behind end before the test does.
  const UniqueFd writer(::open(fifo.c_str(), O_WRONLY));
}

TEST_F(Scratch, ReadFileNamesWhatIsMissing) {
  const auto text = read_file_within(dir_ + "/none", 1s);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().message, dir_ + "/none: No such file or directory");
}

}  // namespace
}  // namespace btd::cli
