// The cluster file: what it may say, and what is said of a wrong one.
#include "fs/cluster/options.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace btd::cluster {
namespace {

constexpr const char* kWhole = R"([cluster]
name = "dev"
etcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
etcd_user = "btd"
key = "/etc/bartender/key"
[node]
name = "n1"
listen = "10.0.0.1:7440"
domain = "rack1"
)";

TEST(ClusterFile, SaysAllOfIt) {
  const auto o = parse(kWhole, "f");
  ASSERT_TRUE(o) << o.error().message;
  EXPECT_EQ(o->name, "dev");
  EXPECT_EQ(o->etcd.endpoints.size(), 2U);
  EXPECT_EQ(o->etcd.prefix, "/bartender/dev/");
  EXPECT_EQ(o->etcd.user, "btd");
  EXPECT_EQ(std::get<net::KeySecurity>(o->security).file, "/etc/bartender/key");
  EXPECT_EQ(o->node, "n1");
  EXPECT_EQ(o->listen, "10.0.0.1:7440");
  EXPECT_EQ(o->domain, "rack1");
}

TEST(ClusterFile, TheNodesNameIsTheHostsAndItsOwnDomain) {
  const auto o =
      parse("[cluster]\nname='c'\netcd=['http://h:1']\nkey='/k'\n[node]\nlisten='h:2'\n", "f");
  ASSERT_TRUE(o) << o.error().message;
  EXPECT_FALSE(o->node.empty());
  EXPECT_EQ(o->domain, o->node);
}

struct Wrong {
  const char* text;
  const char* said;
};

class WrongClusterFile : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongClusterFile, IsRefusedWithASentence) {
  const auto o = parse(GetParam().text, "file.toml");
  ASSERT_FALSE(o);
  EXPECT_EQ(o.error().code, EILSEQ);
  EXPECT_TRUE(o.error().message.starts_with("file.toml:")) << o.error().message;
  EXPECT_NE(o.error().message.find(GetParam().said), std::string::npos) << o.error().message;
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongClusterFile,
    ::testing::Values(
        Wrong{"", "[cluster] name is missing"},
        Wrong{"[cluster]\nname='a/b'\n", ":2: name: must be a name"},
        Wrong{"[cluster]\nname='a'\n", "[cluster] etcd is missing"},
        Wrong{"[cluster]\netcd='http://h'\n", ":2: etcd: must be a list"},
        Wrong{"[cluster]\netcd=[]\n", ":2: etcd: must be a list"},
        Wrong{"[cluster]\nname='a'\netcd=['x']\nkey='/k'\n", "[node] listen is missing"},
        Wrong{"[cluster]\nname='a'\netcd=['x']\n[node]\nlisten='h:1'\n", "either key, or"},
        Wrong{"[cluster]\nname='a'\netcd=['x']\nkey='k'\ntls_key='x'\n[node]\nlisten='h:1'\n",
              "either key, or"},
        Wrong{"[cluster]\nname='a'\netcd=['x']\ntls_key='x'\n[node]\nlisten='h:1'\n",
              "TLS needs all of"},
        Wrong{"[cluster]\ncolour='red'\n", "unknown key 'colour'"}));

TEST(ClusterFile, APasswordOthersMayReadIsRefused) {
  const auto directory =
      std::filesystem::temp_directory_path() / ("btd_cluster_file" + std::to_string(::getpid()));
  std::filesystem::create_directories(directory);
  const std::string password = directory / "password", file = directory / "cluster.toml";
  std::ofstream(password) << "secret\n";
  std::string text = kWhole;
  text.insert(text.find("key ="), "etcd_password_file = \"" + password + "\"\n");
  std::ofstream(file) << text;
  ASSERT_EQ(::chmod(password.c_str(), 0644), 0);
  const auto refused = load(file);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EACCES);
  ASSERT_EQ(::chmod(password.c_str(), 0600), 0);
  const auto taken = load(file);
  ASSERT_TRUE(taken) << taken.error().message;
  EXPECT_EQ(taken->etcd.password, "secret");
  std::filesystem::remove_all(directory);
}

TEST(ClusterFile, AnAbsentOneIsSaidToBe) {
  const auto o = load("/nonexistent/cluster.toml");
  ASSERT_FALSE(o);
  EXPECT_EQ(o.error().code, ENOENT);
  EXPECT_NE(o.error().message.find("/nonexistent/cluster.toml"), std::string::npos);
}

}  // namespace
}  // namespace btd::cluster
