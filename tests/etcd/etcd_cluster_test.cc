// Three members, of which one dies or hangs; certificates and users.
#include <signal.h>

#include <cstdlib>
#include <thread>

#include "tests/etcd/server.h"

namespace btd::net::testing {
namespace {

class Cluster {
 public:
  Cluster() {
    std::vector<EtcdServer::Setup> setups(3);
    std::string names;
    for (std::size_t i = 0; i < 3; ++i) {
      setups[i].name = "m" + std::to_string(i);
      setups[i].peer_port = free_port();
      names += (i == 0 ? "" : ",") + setups[i].name +
               "=http://127.0.0.1:" + std::to_string(setups[i].peer_port);
    }
    for (EtcdServer::Setup& setup : setups) {
      setup.cluster = names;
      setup.arguments = {"--initial-cluster-state", "new"};
      members_.push_back(std::make_unique<EtcdServer>(setup));
    }
    for (const auto& member : members_) member->wait_until_ready();
  }
  [[nodiscard]] EtcdOptions options() const {
    EtcdOptions o = members_[0]->options();
    o.endpoints.clear();
    for (const auto& member : members_) o.endpoints.push_back(member->url());
    return o;
  }
  [[nodiscard]] EtcdServer& leader() const {
    for (const auto& member : members_) {
      const EtcdServerStatus status = member->status();
      if (status.leader == status.member) return *member;
    }
    return *members_[0];
  }
  [[nodiscard]] EtcdServer& member(std::size_t i) const { return *members_[i]; }

 private:
  std::vector<std::unique_ptr<EtcdServer>> members_;
};

TEST(EtcdCluster, TheLeaderDiesAndConcurrentCommitsGoOn) {
  const Cluster cluster;
  EtcdOptions options = cluster.options();
  options.request_timeout = std::chrono::seconds(1);
  const auto a = open_store(options);
  const auto b = open_store(options);
  std::atomic<bool> stop{false};
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      while (!stop) done += increment(t % 2 == 0 ? *a : *b, "all") ? 1 : 0;
    });
  EXPECT_TRUE(eventually([&] { return done > 30; }));
  EtcdServer& leader = cluster.leader();
  leader.end(SIGKILL);
  const int before = done;
  EXPECT_TRUE(eventually([&] { return done > before + 30; }));
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(eventually([&] { return *a->get("all") == std::to_string(done); }));
  EXPECT_TRUE(eventually([&] { return *b->get("all") == std::to_string(done); }));
  leader.start(false);  // the cluster is as it was
  put(*a, "end", "1");
}

// The watch is connected to a member that hangs, while commits go through another.
TEST(EtcdCluster, AHangingMemberDoesNotHoldTheMirror) {
  const Cluster cluster;
  EtcdOptions options = cluster.options();
  options.request_timeout = std::chrono::milliseconds(700);
  const auto a = open_store(options);
  put(*a, "x", "1");
  ASSERT_EQ(a->health().endpoint, cluster.member(0).url());
  cluster.member(0).send(SIGSTOP);
  for (int i = 0; i < 5; ++i) put(*a, "x", std::to_string(i));
  EXPECT_EQ(*a->get("x"), "4");
  EXPECT_NE(a->health().endpoint, cluster.member(0).url());
  cluster.member(0).send(SIGCONT);
}

class Certificates {
 public:
  Certificates() {
    run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem");
    make("server");
    make("client");
  }
  [[nodiscard]] std::string path(std::string_view name) const { return folder_.path(name); }

 private:
  void make(const std::string& name) {
    run("req -newkey rsa:2048 -nodes -subj /CN=" + name + " -keyout " + name + ".key -out " + name +
        ".csr");
    run("x509 -req -days 2 -in " + name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial -out " +
        name + ".pem -extfile names");
  }
  void run(const std::string& words) {
    const std::string shell = "cd " + folder_.path(".") +
                              " && printf 'subjectAltName=IP:127.0.0.1' >names && openssl " +
                              words + " 2>openssl.log";
    if (std::system(shell.c_str()) != 0) ADD_FAILURE() << "openssl " << words;
  }
  Folder folder_;
};

TEST(EtcdSecure, CertificatesAreAskedForAndChecked) {
  const Certificates certificates;
  EtcdServer::Setup setup;
  setup.scheme = "https";
  setup.cluster = "one=http://127.0.0.1:" + std::to_string(setup.peer_port = free_port());
  setup.arguments = {"--cert-file",       certificates.path("server.pem"),
                     "--key-file",        certificates.path("server.key"),
                     "--trusted-ca-file", certificates.path("ca.pem"),
                     "--client-cert-auth"};
  const EtcdServer server(setup);
  EtcdOptions o = server.options();
  o.ca_file = certificates.path("ca.pem");
  o.cert_file = certificates.path("client.pem");
  o.key_file = certificates.path("client.key");
  const auto store = open_store(o);
  put(*store, "x", "1");
  EXPECT_EQ(*store->get("x"), "1");
  o.open_timeout = std::chrono::milliseconds(500);
  EtcdOptions stranger = o;
  stranger.ca_file.clear();  // the system's CAs do not know ours
  EXPECT_FALSE(EtcdStore::open(stranger));
  EtcdOptions nobody = o;
  nobody.cert_file.clear();
  nobody.key_file.clear();
  EXPECT_FALSE(EtcdStore::open(nobody));
}

TEST(EtcdSecure, UsersLogInAgainAndSeeTheirPrefixOnly) {
  EtcdServer server;
  server.ask("/v3/auth/user/add", R"({"name":"root","password":"r"})");
  server.ask("/v3/auth/role/add", R"({"name":"root"})");
  server.ask("/v3/auth/user/grant", R"({"user":"root","role":"root"})");
  server.ask("/v3/auth/user/add", R"({"name":"node","password":"secret\"\\"})");
  server.ask("/v3/auth/role/add", R"({"name":"nodes"})");
  server.ask("/v3/auth/role/grant",  // /bartender/ to /bartender0
             R"({"name":"nodes","perm":{"permType":"READWRITE","key":"L2JhcnRlbmRlci8=",)"
             R"("range_end":"L2JhcnRlbmRlcjA="}})");
  server.ask("/v3/auth/user/grant", R"({"user":"node","role":"nodes"})");
  server.ask("/v3/auth/enable", "{}");
  EtcdOptions o = server.options();
  o.user = "node";
  o.password = "secret\"\\";
  const auto store = open_store(o);
  put(*store, "x", "1");
  EtcdOptions root = server.options();
  root.user = "root";
  root.password = "r";
  EtcdClient administrator(root);
  const EtcdDeadline soon = EtcdClock::now() + std::chrono::seconds(10);
  ASSERT_TRUE(administrator.ask("/v3/auth/disable", "{}", soon));  // forgets all tokens
  server.ask("/v3/auth/enable", "{}");
  put(*store, "x", "2");
  EXPECT_EQ(*store->get("x"), "2");
  const auto code = [](const EtcdOptions& other) {
    const auto opened = EtcdStore::open(other);
    return opened ? 0 : opened.error().code;
  };
  EtcdOptions wrong = o;
  wrong.password = "guess";
  EXPECT_EQ(code(wrong), EACCES);
  EtcdOptions elsewhere = o;
  elsewhere.prefix = "/other/";
  EXPECT_EQ(code(elsewhere), EACCES);
  EtcdOptions anonymous = o;
  anonymous.user.clear();
  EXPECT_EQ(code(anonymous), EACCES);
}

}  // namespace
}  // namespace btd::net::testing
