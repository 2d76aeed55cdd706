// What the tests of the data path between nodes share: a home with its files in a directory, which
// serves on loopback from a thread of its own, and clients of it.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fs/remote/file_service.h"
#include "fs/remote/remote_files.h"
#include "net/tcp/tcp.h"

namespace btd::remote {

inline constexpr NodeId kHome = 3;
inline constexpr NodeId kClient = 5;
constexpr InodeId id_of(std::uint64_t number) { return first_id_of(kHome) + number; }

// The files of a home, as a daemon would have them. Thread-safe.
class DirectoryFiles final : public HomeFiles {
 public:
  explicit DirectoryFiles(std::filesystem::path directory) : directory_(std::move(directory)) {}

  [[nodiscard]] std::string path(InodeId id) const { return directory_ / std::to_string(id); }
  void make(InodeId id, std::size_t bytes, char fill = 0);
  void make_sparse(InodeId id, std::size_t bytes);
  void remove(InodeId id);  // its data are gone
  [[nodiscard]] int holds(InodeId id);
  [[nodiscard]] int writes() const { return writes_; }
  // Called first by each hold; before any.
  void before_holds(std::function<void(InodeId)> run) { before_hold_ = std::move(run); }
  // Of the last move that was asked for.
  [[nodiscard]] std::uint64_t reserved() const { return reserved_; }
  [[nodiscard]] NodeId yielded_to() const { return yielded_to_; }

  Result<UniqueFd> open(InodeId id) override;
  Status hold(InodeId id) override;
  void unhold(InodeId id) override;
  Status prepare(InodeId id, int fd) override;
  Status resize(InodeId id, int fd, std::uint64_t size) override;
  Status allocate(InodeId id, int fd, int mode, std::uint64_t offset,
                  std::uint64_t length) override;
  Status wrote(InodeId id) override;
  Status reserve(InodeId id, std::uint64_t number) override;
  void used(InodeId) override { reserved_ = 0; }
  Status yield(InodeId id, std::uint64_t number, NodeId to) override;
  Result<std::uint64_t> room() override;

  Status sync(InodeId id, int fd, bool data_only) override;

 private:
  bool is_sparse(InodeId id);

  const std::filesystem::path directory_;
  std::function<void(InodeId)> before_hold_ = [](InodeId) {};
  std::mutex mutex_;
  std::set<InodeId> sparse_;
  std::map<InodeId, int> holds_;
  std::atomic<int> writes_{0};
  std::atomic<std::uint64_t> reserved_{0};
  std::atomic<NodeId> yielded_to_{0};
};

// A home's engine, RPC and service, on their thread from here to the end.
class HomeNode final : public net::Handler {
 public:
  HomeNode(HomeFiles& files, const FileServiceOptions& options = {},
           const std::string& address = "127.0.0.1:0", const net::EngineOptions& engine = {});
  ~HomeNode() override;

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] FileService& service() { return *service_; }
  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_closed(net::Endpoint& endpoint, const Error&) override { service_->closed(endpoint); }
  // On the engine's thread.
  void run(const std::function<void(net::Engine&)>& task);

 private:
  void serve(HomeFiles& files, FileServiceOptions options, const net::EngineOptions& engine);

  std::string address_;
  std::mutex mutex_;  // of waking the engine, and its end
  std::unique_ptr<net::Engine> engine_;
  std::optional<net::Rpc> rpc_;
  std::optional<FileService> service_;
  std::atomic<bool> is_ready_{false}, is_stopping_{false};
  std::thread thread_;
};

// A directory, removed at the end, with the files of the one home of a test; and its clients.
class World {
 public:
  explicit World(const FileServiceOptions& options = {}, const net::EngineOptions& engine = {},
                 const std::string& parent = "/dev/shm");
  ~World();

  [[nodiscard]] DirectoryFiles& files() { return *files_; }
  [[nodiscard]] HomeNode& home() { return *home_; }
  void stop_home() { home_.reset(); }
  void start_home(const std::string& address = "127.0.0.1:0");
  // `is_away`: then nobody finds the home.
  void set_away(bool is_away) { is_away_ = is_away; }
  [[nodiscard]] std::string address();

  std::unique_ptr<RemoteFiles> client(net::Time deadline = std::chrono::seconds(20),
                                      RemoteLimits limits = {}, net::EngineOptions engine = {},
                                      Homes homes = {});

 private:
  const FileServiceOptions options_;
  const net::EngineOptions engine_;
  std::filesystem::path directory_;
  std::optional<DirectoryFiles> files_;
  std::mutex mutex_;
  std::string address_;
  std::atomic<bool> is_away_{false};
  std::unique_ptr<HomeNode> home_;
};

// The bytes of the file as they lie at home.
std::vector<std::byte> at_home(World& world, InodeId id);
std::vector<std::byte> random_bytes(std::size_t size, std::uint64_t seed);
// Waits until that is so; false if it is not in a long time.
bool comes_true(const std::function<bool()>& condition);

}  // namespace btd::remote
