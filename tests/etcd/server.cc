#include "tests/etcd/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <utility>

#include "alloc/unique_fd.h"
#include "net/etcd/base64.h"

namespace btd::net::testing {

Folder::Folder() {
  path_ = std::filesystem::temp_directory_path() / "btd-etcd-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) std::abort();
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

int free_port() {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd.get(), generic, size) != 0 || getsockname(fd.get(), generic, &size) != 0)
    std::abort();
  return ntohs(address.sin_port);
}

EtcdServer::EtcdServer(Setup setup) : setup_(std::move(setup)) {
  if (setup_.client_port == 0) setup_.client_port = free_port();
  if (setup_.peer_port == 0) setup_.peer_port = free_port();
  start(setup_.cluster.empty());
}

EtcdServer::~EtcdServer() { end(SIGKILL); }

std::string EtcdServer::url() const {
  return setup_.scheme + "://127.0.0.1:" + std::to_string(setup_.client_port);
}

void EtcdServer::start(bool wait) {
  const std::string peer = "http://127.0.0.1:" + std::to_string(setup_.peer_port);
  std::vector<std::string> words = {
      "etcd",
      "--name",
      setup_.name,
      "--data-dir",
      folder_.path("data"),
      "--listen-client-urls",
      url(),
      "--advertise-client-urls",
      url(),
      "--listen-peer-urls",
      peer,
      "--initial-advertise-peer-urls",
      peer,
      "--initial-cluster",
      setup_.cluster.empty() ? setup_.name + "=" + peer : setup_.cluster,
      "--logger",
      "zap",
      "--log-outputs",
      "stderr"};
  words.insert(words.end(), setup_.arguments.begin(), setup_.arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  const UniqueFd log(
      open(folder_.path("log").c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600));
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    dup2(log.get(), 1);
    dup2(log.get(), 2);
    execvp("etcd", pointers.data());
    _exit(127);
  }
  if (wait) wait_until_ready();
}

void EtcdServer::wait_until_ready() const {
  EtcdOptions o = options();
  EtcdClient client(o);
  int status = 0;
  for (int i = 0; i < 1000; ++i) {
    if (waitpid(pid_, &status, WNOHANG) == pid_) break;
    const auto answer =
        client.post("/v3/maintenance/status", "{}", EtcdClock::now() + std::chrono::seconds(2));
    if (answer.kind == EtcdAnswer::Kind::ok && etcd_wire::parse_status(answer.body)->leader != 0)
      return;
    if (answer.kind == EtcdAnswer::Kind::refused) return;  // it wants a user
    usleep(20'000);
  }
  std::system(("tail -n 20 " + folder_.path("log")).c_str());
  std::fputs("etcd did not start; install the package etcd-server\n", stderr);
  std::abort();
}

void EtcdServer::end(int signal) {
  if (pid_ <= 0) return;
  kill(pid_, SIGCONT);
  kill(pid_, signal);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void EtcdServer::send(int signal) const { kill(pid_, signal); }

EtcdOptions EtcdServer::options() const {
  EtcdOptions o;
  o.endpoints = {url()};
  o.commit_timeout = std::chrono::seconds(20);
  return o;
}

std::string EtcdServer::ask(std::string_view path, const std::string& body) const {
  const EtcdOptions o = options();
  EtcdClient client(o);
  auto answer = client.ask(path, body, EtcdClock::now() + std::chrono::seconds(10));
  EXPECT_TRUE(answer) << answer.error().message;
  return answer.value_or("");
}

EtcdServerStatus EtcdServer::status() const {
  return etcd_wire::parse_status(ask("/v3/maintenance/status", "{}")).value_or(EtcdServerStatus{});
}

void EtcdServer::compact(std::int64_t revision) const {
  ask("/v3/kv/compaction", R"({"physical":true,"revision":")" + std::to_string(revision) + "\"}");
}

std::vector<std::pair<std::string, std::string>> EtcdServer::rows(const std::string& prefix) const {
  const std::string answer =
      ask("/v3/kv/range", etcd_wire::range(prefix, prefix_end(prefix), 0, 0));
  auto page = etcd_wire::parse_range(answer, prefix);
  EXPECT_TRUE(page);
  std::vector<std::pair<std::string, std::string>> out;
  for (EtcdRow& row : page->rows) out.emplace_back(std::move(row.key), *std::move(row.value));
  return out;
}

std::unique_ptr<EtcdStore> open_store(const EtcdOptions& options) {
  auto store = EtcdStore::open(options);
  EXPECT_TRUE(store) << store.error().message;
  if (!store) std::abort();
  return *std::move(store);
}

Pairs dump(const MetaStore& store) {
  Pairs out;
  const Status s = store.scan({}, {}, [&](std::string_view key, std::string_view value) {
    out.emplace_back(key, value);
    return true;
  });
  EXPECT_TRUE(s);
  return out;
}

void put(MetaStore& store, std::string_view key, std::string_view value) {
  Batch b;
  b.put(key, value);
  const Status s = store.commit(b);
  EXPECT_TRUE(s) << s.error().message;
}

void erase(MetaStore& store, std::string_view key) {
  Batch b;
  b.erase(key);
  const Status s = store.commit(b);
  EXPECT_TRUE(s) << s.error().message;
}

bool increment(MetaStore& store, std::string_view key) {
  for (;;) {
    const auto now = store.get(key);
    if (!now) return false;
    Batch b;
    b.require(key, *now);
    b.put(key, std::to_string(std::stoi(now->value_or("0")) + 1));
    const Status s = store.commit(b);
    if (s) return true;
    if (s.error().code != EAGAIN) {
      ADD_FAILURE() << s.error().code << ": " << s.error().message;
      return false;
    }
  }
}

}  // namespace btd::net::testing
