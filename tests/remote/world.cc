#include "tests/remote/world.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "fs/daemon/space.h"

namespace btd::remote {

using std::chrono::milliseconds;
using std::chrono::seconds;

// --- DirectoryFiles ---

void DirectoryFiles::make(InodeId id, std::size_t bytes, char fill) {
  const UniqueFd fd(::open(path(id).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const std::string content(bytes, fill);
  EXPECT_EQ(::pwrite(fd.get(), content.data(), bytes, 0), static_cast<ssize_t>(bytes));
}

void DirectoryFiles::make_sparse(InodeId id, std::size_t bytes) {
  make(id, 0);
  EXPECT_EQ(::truncate(path(id).c_str(), static_cast<off_t>(bytes)), 0);
  const std::lock_guard lock(mutex_);
  sparse_.insert(id);
}

void DirectoryFiles::remove(InodeId id) { ::unlink(path(id).c_str()); }

int DirectoryFiles::holds(InodeId id) {
  const std::lock_guard lock(mutex_);
  return holds_[id];
}

Status DirectoryFiles::sync(InodeId, int fd, bool data_only) {
  return (data_only ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? Status{} : fail(errno);
}

bool DirectoryFiles::is_sparse(InodeId id) {
  const std::lock_guard lock(mutex_);
  return sparse_.contains(id);
}

Result<UniqueFd> DirectoryFiles::open(InodeId id) {
  UniqueFd fd(::open(path(id).c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return fail(errno == ENOENT ? ESTALE : errno, "The file's data are gone.");
  return fd;
}

Status DirectoryFiles::hold(InodeId id) {
  before_hold_(id);
  const std::lock_guard lock(mutex_);
  if (::access(path(id).c_str(), F_OK) != 0) return fail(ESTALE, "The file's data are gone.");
  ++holds_[id];
  return {};
}

void DirectoryFiles::unhold(InodeId id) {
  const std::lock_guard lock(mutex_);
  --holds_[id];
}

Status DirectoryFiles::prepare(InodeId id, int fd) {
  return is_sparse(id) ? Status{} : space::fill_holes(fd);
}

Status DirectoryFiles::resize(InodeId id, int fd, std::uint64_t size) {
  return space::resize(fd, static_cast<off_t>(size), is_sparse(id));
}

Status DirectoryFiles::allocate(InodeId, int fd, int mode, std::uint64_t offset,
                                std::uint64_t length) {
  return space::allocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
}

Status DirectoryFiles::wrote(InodeId) {
  ++writes_;
  return {};
}

Status DirectoryFiles::reserve(InodeId, std::uint64_t number) {
  reserved_ = number;
  return {};
}

Status DirectoryFiles::yield(InodeId, std::uint64_t number, NodeId to) {
  if (number != reserved_) return fail(ECONNABORTED);
  yielded_to_ = to;
  return {};
}

Result<std::uint64_t> DirectoryFiles::room() {
  return std::filesystem::space(directory_).available;
}

// --- HomeNode ---

HomeNode::HomeNode(HomeFiles& files, const FileServiceOptions& options, const std::string& address,
                   const net::EngineOptions& engine)
    : address_(address) {
  thread_ = std::thread([this, &files, options, engine] { serve(files, options, engine); });
  is_ready_.wait(false);
}

HomeNode::~HomeNode() {
  {
    const std::lock_guard lock(mutex_);  // its thread ends the engine
    is_stopping_ = true;
    engine_->wake();
  }
  thread_.join();
}

void HomeNode::serve(HomeFiles& files, FileServiceOptions options,
                     const net::EngineOptions& engine) {
  net::TcpOptions tcp{.engine = engine};
  tcp.engine.node = kHome;
  options.own = kHome;
  auto made = net::make_tcp_engine(tcp);
  EXPECT_TRUE(made) << made.error().message;
  engine_ = *std::move(made);
  rpc_.emplace(*engine_, *this);
  service_.emplace(*engine_, *rpc_, files, options);
  const auto listening = engine_->listen(address_, [this](net::Endpoint&) { return &*rpc_; });
  EXPECT_TRUE(listening) << listening.error().message;
  if (listening) address_ = *listening;
  is_ready_ = true;
  is_ready_.notify_all();
  while (!is_stopping_) EXPECT_TRUE(engine_->wait(net::kNever));
  service_.reset();
  rpc_.reset();
  const std::lock_guard lock(mutex_);
  engine_.reset();
}

void HomeNode::run(const std::function<void(net::Engine&)>& task) {
  std::atomic<bool> is_done{false};
  ASSERT_TRUE(engine_->submit([&] {
    task(*engine_);
    is_done = true;
    is_done.notify_all();
  }));
  is_done.wait(false);
}

// --- World ---

World::World(const FileServiceOptions& options, const net::EngineOptions& engine,
             const std::string& parent)
    : options_(options), engine_(engine) {
  std::string pattern = parent + "/btd-remote-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  directory_ = pattern;
  files_.emplace(directory_);
  start_home();
}

World::~World() {
  home_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void World::start_home(const std::string& address) {
  home_ = std::make_unique<HomeNode>(*files_, options_, address, engine_);
  const std::lock_guard lock(mutex_);
  address_ = home_->address();
}

std::string World::address() {
  const std::lock_guard lock(mutex_);
  return address_;
}

std::unique_ptr<RemoteFiles> World::client(net::Time deadline, RemoteLimits limits,
                                           net::EngineOptions engine, Homes homes) {
  engine.node = kClient;
  auto engines = [engine] { return net::make_tcp_engine({.engine = engine}); };
  auto locate = [this](NodeId node) -> Result<std::string> {
    if (is_away_ || node != kHome)
      return fail(EHOSTUNREACH, "Node " + std::to_string(node) + " is away.");
    return address();
  };
  return std::make_unique<RemoteFiles>(engines, locate, deadline, limits, std::move(homes));
}

std::vector<std::byte> at_home(World& world, InodeId id) {
  const UniqueFd fd(::open(world.files().path(id).c_str(), O_RDONLY | O_CLOEXEC));
  struct stat facts{};
  EXPECT_EQ(::fstat(fd.get(), &facts), 0);
  std::vector<std::byte> bytes(static_cast<std::size_t>(facts.st_size));
  EXPECT_EQ(::pread(fd.get(), bytes.data(), bytes.size(), 0), facts.st_size);
  return bytes;
}

std::vector<std::byte> random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

bool comes_true(const std::function<bool()>& condition) {
  for (int i = 0; i < 20000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

}  // namespace btd::remote
