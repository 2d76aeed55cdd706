// mountinfo: paths with blanks, optional fields, mounts over mounts, and which one is meant.
#include "fs/cli/mount_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace btd::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr const char* kRoot = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
constexpr const char* kOurs =
    "90 22 0:50 / /mnt/bartender rw,nosuid - fuse.bartender /var/lib/pool rw,user_id=0\n";
constexpr const char* kOther =
    "91 22 0:51 / /mnt/two rw shared:7 master:3 - fuse.bartender /pool\\040two rw\n";

TEST(MountInfo, ReadsDirectorySourceTypeAndOptions) {
  const auto mounts = parse_mountinfo(std::string(kRoot) + kOurs);
  ASSERT_THAT(mounts, SizeIs(2));
  EXPECT_EQ(mounts[1].directory, "/mnt/bartender");
  EXPECT_EQ(mounts[1].type, "fuse.bartender");
  EXPECT_EQ(mounts[1].source, "/var/lib/pool");
  EXPECT_EQ(mounts[1].options, "rw,nosuid");
}

TEST(MountInfo, UndoesTheEscapes) {
  const auto mounts =
      parse_mountinfo("9 2 0:5 / /a\\040b\\011c\\134d\\012 rw - fuse.bartender /p\\0 rw\n");
  ASSERT_THAT(mounts, SizeIs(1));
  EXPECT_EQ(mounts[0].directory, "/a b\tc\\d\n");
  EXPECT_EQ(mounts[0].source, "/p\\0");
}

TEST(MountInfo, PassesOverWhatIsNoMount) {
  EXPECT_THAT(parse_mountinfo(""), SizeIs(0));
  EXPECT_THAT(parse_mountinfo("\n\nnonsense\n- - -\n1 2 3 4 5 - a b c\n1 2 3 4 5 6 - a\n"),
              SizeIs(0));
}

TEST(ChooseMount, TakesTheOnlyOne) {
  const auto mount = choose_mount(parse_mountinfo(std::string(kRoot) + kOurs), std::nullopt);
  ASSERT_TRUE(mount);
  EXPECT_EQ(mount->directory, "/mnt/bartender");
}

TEST(ChooseMount, SaysWhatToDoWhereThereAreNoneOrSeveral) {
  const auto none = choose_mount(parse_mountinfo(kRoot), std::nullopt);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().message,
            "no bartender is mounted here; mount one with `btd mount POOL DIR`");
  const auto several = choose_mount(parse_mountinfo(std::string(kOurs) + kOther), std::nullopt);
  ASSERT_FALSE(several);
  EXPECT_EQ(several.error().message,
            "several bartenders are mounted (/mnt/bartender, /mnt/two); name one");
}

TEST(ChooseMount, FindsTheMountOfAPathInIt) {
  const auto mounts = parse_mountinfo(std::string(kRoot) + kOurs + kOther);
  const auto inner = choose_mount(mounts, "/mnt/two/a/b");
  ASSERT_TRUE(inner);
  EXPECT_EQ(inner->source, "/pool two");
  EXPECT_TRUE(choose_mount(mounts, "/mnt/two"));
  const auto outside = choose_mount(mounts, "/mnt/twofold");
  ASSERT_FALSE(outside);
  EXPECT_EQ(outside.error().code, ENOENT);
  EXPECT_THAT(outside.error().message, HasSubstr("/mnt/twofold is not on a bartender mount"));
}

TEST(ChooseMount, ALaterMountHidesAnEarlierOne) {
  const std::string over = "95 90 8:2 / /mnt/bartender rw - ext4 /dev/sdb rw\n";
  EXPECT_FALSE(choose_mount(parse_mountinfo(std::string(kRoot) + kOurs + over), "/mnt/bartender"));
  EXPECT_TRUE(choose_mount(parse_mountinfo(std::string(kRoot) + over + kOurs), "/mnt/bartender"));
  const std::string inside = "96 90 8:2 / /mnt/bartender/in rw - ext4 /dev/sdb rw\n";
  EXPECT_FALSE(
      choose_mount(parse_mountinfo(std::string(kRoot) + kOurs + inside), "/mnt/bartender/in/x"));
}

}  // namespace
}  // namespace btd::cli
