// Mount options: every kind, negation, what belongs to others, and what is refused.
#include "fs/cli/mount_args.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace btd::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

MountOptions accept(std::string_view list, Unknown unknown = Unknown::kRefuse) {
  MountOptions options;
  const Status applied = apply_mount_options(list, unknown, options);
  EXPECT_TRUE(applied) << list << ": " << (applied ? "" : applied.error().message);
  return options;
}

std::string refusal(std::string_view list) {
  MountOptions options;
  const Status applied = apply_mount_options(list, Unknown::kRefuse, options);
  if (applied) return "(accepted)";
  EXPECT_EQ(applied.error().code, EINVAL);
  return applied.error().message;
}

TEST(MountArgs, SwitchesGoBothWays) {
  EXPECT_TRUE(accept("io_uring").io_uring);
  EXPECT_FALSE(accept("io_uring,noio_uring").io_uring);
  EXPECT_FALSE(accept("nopassthrough").passthrough);
  EXPECT_TRUE(accept("nopassthrough,passthrough").passthrough);
  EXPECT_FALSE(accept("noallow_other").allow_other);
  EXPECT_TRUE(accept("ro").read_only);
  EXPECT_TRUE(accept("read_only").read_only);
  EXPECT_FALSE(accept("ro,rw").read_only);
}

TEST(MountArgs, ValuesAreChecked) {
  const MountOptions options =
      accept("threads=4,spin_us=-1,idle_ids=9,log_level=trace,noshare_processor");
  EXPECT_EQ(options.threads, 4U);
  EXPECT_EQ(options.spin_us, -1);
  EXPECT_EQ(options.idle_ids, 9U);
  EXPECT_FALSE(options.share_processor);
  EXPECT_EQ(options.log_level, "trace");
  EXPECT_EQ(refusal("threads=-1"), "option threads takes 0 to 256, not -1");
  EXPECT_EQ(refusal("threads=four"), "option threads takes a whole number, not 'four'");
  EXPECT_EQ(refusal("threads=4x"), "option threads takes a whole number, not '4x'");
  EXPECT_EQ(refusal("threads="), "option threads takes a whole number, not ''");
  EXPECT_EQ(refusal("threads"), "option threads takes a value, as NAME=VALUE");
  EXPECT_EQ(refusal("io_uring=1"), "option io_uring takes no value; write io_uring or noio_uring");
  EXPECT_EQ(refusal("log_level=LOUD"),
            "option log_level takes one of trace, debug, info, warn, error, critical, off, not "
            "'LOUD'");
}

TEST(MountArgs, KernelOptionsPassThroughInOrder) {
  EXPECT_THAT(accept("noatime,nosuid,io_uring,sync").kernel_options,
              ElementsAre("noatime", "nosuid", "sync"));
}

TEST(MountArgs, WhatMountAndFstabKeepForThemselvesIsAccepted) {
  const MountOptions options = accept(
      "defaults,noauto,nofail,_netdev,user,users,x-systemd.automount,x-systemd.requires=/p,X-mount."
      "mkdir,comment=hello,,default_permissions");
  EXPECT_THAT(options.kernel_options, IsEmpty());
}

TEST(MountArgs, UnknownOptionsAreRefusedByName) {
  for (const char* option : {"frob", "frob=1", "nothreads", "no", "nofrob", "=", "Io_uring"}) {
    EXPECT_THAT(refusal(option), HasSubstr("is no option of a mount")) << option;
  }
  EXPECT_THAT(refusal("noatime,frob"), HasSubstr("'frob' is no option of a mount; those are "
                                                 "allow_other, cluster, idle_ids, io_uring"));
}

TEST(MountArgs, SloppyPassesOverUnknownButNotOverWrongValues) {
  EXPECT_EQ(accept("frob,threads=2", Unknown::kIgnore).threads, 2U);
  MountOptions options;
  EXPECT_FALSE(apply_mount_options("threads=x", Unknown::kIgnore, options));
}

}  // namespace
}  // namespace btd::cli
