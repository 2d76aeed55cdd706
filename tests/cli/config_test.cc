// The configuration file: what it sets, and that every mistake is named with its line and key.
#include "fs/cli/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

namespace btd::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// The message for a text that must be refused.
std::string refusal(std::string_view text) {
  const auto config = parse_config(text, "c.toml");
  if (config) return "(accepted)";
  EXPECT_EQ(config.error().code, EILSEQ);
  return config.error().message;
}

TEST(Config, EmptyMeansDefaults) {
  const auto config = parse_config("", "c.toml");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->format.capacity, 0U);
  EXPECT_EQ(config->mount.log_level, MountOptions().log_level);
}

TEST(Config, SetsEveryKey) {
  const auto config = parse_config(R"(
# a comment
[format]
size = "2G"
emulate = "disk"

[mount]
pool = "/p"
directory = "/m"
log_level = "debug"
allow_other = false
read_only = true
io_uring = true
passthrough = false
threads = 3
spin_us = 40
idle_ids = 100
options = ["noatime", "nosuid"]
)",
                                   "c.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->format.capacity, 2ULL << 30);
  EXPECT_EQ(config->format.emulate, Emulation::kDisk);
  const MountOptions& mount = config->mount;
  EXPECT_EQ(mount.pool, "/p");
  EXPECT_EQ(mount.mountpoint, "/m");
  EXPECT_EQ(mount.log_level, "debug");
  EXPECT_FALSE(mount.allow_other);
  EXPECT_TRUE(mount.read_only);
  EXPECT_TRUE(mount.io_uring);
  EXPECT_FALSE(mount.passthrough);
  EXPECT_EQ(mount.threads, 3U);
  EXPECT_EQ(mount.spin_us, 40);
  EXPECT_EQ(mount.idle_ids, 100U);
  EXPECT_THAT(mount.kernel_options, ElementsAre("noatime", "nosuid"));
}

TEST(Config, SizeMayBeBytes) {
  const auto config = parse_config("[format]\nsize = 1048576\n", "c.toml");
  ASSERT_TRUE(config);
  EXPECT_EQ(config->format.capacity, 1048576U);
}

TEST(Config, UnknownNamesAreNamedWithTheirLine) {
  EXPECT_EQ(refusal("\n[format]\nsized = 3\n"),
            "c.toml:3: unknown key 'sized' in [format]; known are emulate, size");
  EXPECT_EQ(refusal("[mount]\n\n\nthread = 3\n"),
            "c.toml:4: unknown key 'thread' in [mount]; known are allow_other, cluster, directory, "
            "idle_ids, "
            "io_uring, log_level, options, passthrough, pool, read_only, "
            "share_processor, spin_us, threads");
  EXPECT_EQ(refusal("[mounts]\n"),
            "c.toml:1: unknown section or key 'mounts'; the sections are [format] and [mount]");
  EXPECT_EQ(refusal("size = 3\n"),
            "c.toml:1: unknown section or key 'size'; the sections are [format] and [mount]");
}

TEST(Config, WrongTypesAreNamedWithTheirLine) {
  EXPECT_EQ(refusal("mount = 3\n"),
            "c.toml:1: mount is a section; write [mount] and its keys below");
  EXPECT_EQ(refusal("[mount]\nthreads = \"3\"\n"), "c.toml:2: threads: must be a whole number");
  EXPECT_EQ(refusal("[mount]\nthreads = 3.0\n"), "c.toml:2: threads: must be a whole number");
  EXPECT_EQ(refusal("[mount]\nio_uring = 1\n"), "c.toml:2: io_uring: must be true or false");
  EXPECT_EQ(refusal("[mount]\nlog_level = true\n"), "c.toml:2: log_level: must be text in quotes");
  EXPECT_EQ(refusal("[mount]\npool = 5\n"), "c.toml:2: pool: must be a path in quotes");
  EXPECT_EQ(refusal("[mount]\npool = \"\"\n"), "c.toml:2: pool: must be a path in quotes");
  EXPECT_EQ(refusal("[mount]\noptions = \"noatime\"\n"),
            "c.toml:2: options: must be a list of strings, such as [\"noatime\"]");
  EXPECT_EQ(refusal("[mount]\noptions = [\"noatime\", 3]\n"),
            "c.toml:2: options: must be a list of strings, such as [\"noatime\"]");
  EXPECT_EQ(refusal("[format]\nsize = true\n"),
            "c.toml:2: size: must be a size in quotes, such as \"1G\"");
  EXPECT_EQ(refusal("[format]\nsize = -1\n"),
            "c.toml:2: size: must be a size in quotes, such as \"1G\"");
  EXPECT_EQ(refusal("[format]\nemulate = \"nvdimm\"\n"),
            "c.toml:2: emulate: must be \"none\", \"ram\" or \"disk\"");
}

TEST(Config, WrongValuesAreNamedWithTheirLine) {
  EXPECT_EQ(refusal("[mount]\nthreads = 257\n"),
            "c.toml:2: threads: option threads takes 0 to 256, not 257");
  EXPECT_EQ(refusal("[mount]\nspin_us = -2\n"),
            "c.toml:2: spin_us: option spin_us takes -1 (the default) to 1000, not -2");
  EXPECT_THAT(refusal("[mount]\nlog_level = \"loud\"\n"),
              HasSubstr("c.toml:2: log_level: option log_level takes one of trace, debug"));
  EXPECT_THAT(refusal("[mount]\noptions = [\"frob\"]\n"),
              HasSubstr("c.toml:2: options: 'frob' is no option of a mount"));
  EXPECT_THAT(refusal("[format]\nsize = \"1.5G\"\n"),
              HasSubstr("c.toml:2: size: '1.5G' is no size"));
}

TEST(Config, SyntaxErrorsAreNamedWithTheirLine) {
  EXPECT_THAT(refusal("[mount]\nthreads = \n"), HasSubstr("c.toml:2: "));
  EXPECT_THAT(refusal("[mount\n"), HasSubstr("c.toml:1: "));
  EXPECT_THAT(refusal("[mount]\nthreads = 1\nthreads = 2\n"), HasSubstr("c.toml:3: "));
  for (const char* bad : {"\n[", "\n[\n", "\n [[ ,", "\n[.a]", "\n[#", "\n[ [", "\n[[[a"}) {
    EXPECT_EQ(refusal(bad),
              "c.toml:2: the name of a section must follow the bracket, as in [mount]")
        << bad;
  }
}

TEST(Config, OnlyAsciiIsReadButAnyCharacterMayBeEscaped) {
  for (const char* bad :
       {"\n# caf\xC3\xA9\n", "\n\xEF\xBB\xBF[mount]\n", "\n[mount]\v\n", "\n\x7F"}) {
    EXPECT_EQ(refusal(bad),
              "c.toml:2: only ASCII may stand here; write another character as \\uXXXX, in quotes");
  }
  const auto config = parse_config("[mount]\r\n\tpool = \"/p\\u00E9\"\r\n", "c.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->mount.pool, "/p\xC3\xA9");
}

TEST(LoadConfig, AMissingFileMattersOnlyWhereItWasNamed) {
  const auto missing = load_config("/nonexistent/c.toml");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ENOENT);
  EXPECT_EQ(missing.error().message, "/nonexistent/c.toml: No such file or directory");
  if (::access(kDefaultConfig, F_OK) != 0) {
    EXPECT_TRUE(load_config(std::nullopt));
  }
}

TEST(LoadConfig, ReadsTheFile) {
  const std::string path = ::testing::TempDir() + "btd_config_" + std::to_string(::getpid());
  std::ofstream(path) << "[mount]\nthreads = 5\n";
  const auto config = load_config(path);
  ::unlink(path.c_str());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->mount.threads, 5U);
}

TEST(LoadConfig, ADirectoryIsNoFile) {
  const auto config = load_config("/");
  ASSERT_FALSE(config);
  EXPECT_THAT(config.error().message, HasSubstr("/"));
}

// The sample that is installed must be what the parser takes, with every line of it enabled.
TEST(Config, TheSampleIsValidWithEveryKeyEnabled) {
  std::ifstream file(BTD_SAMPLE_CONFIG);
  ASSERT_TRUE(file);
  std::string all, line;
  while (std::getline(file, line)) {
    const bool disabled = line.starts_with("#") && line.find(" = ") != std::string::npos;
    all += (disabled ? line.substr(1) : line) + "\n";
  }
  const auto config = parse_config(all, BTD_SAMPLE_CONFIG);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_FALSE(config->mount.pool.empty());
  EXPECT_NE(config->format.capacity, 0U);
}

}  // namespace
}  // namespace btd::cli
