#include "tests/net/remote/remote_world.h"

#include <cstring>

#include "tests/net/remote/engines.h"
#include "tests/net/remote/remote_server.h"

namespace btd::net::remote {

namespace {

class RemoteNvram final : public ServerNvram {
 public:
  RemoteNvram(RemoteServer& server, const RegionDescriptor& region)
      : server_(server), region_(region) {}
  [[nodiscard]] const RegionDescriptor& region() const override { return region_; }
  Result<std::vector<std::byte>> after_crash(std::uint64_t seed) override {
    BTD_ASSIGN(Line line, server_.call(words("crashed", region_.key, seed)));
    return std::move(line.bytes);
  }

 private:
  RemoteServer& server_;
  const RegionDescriptor region_;
};

}  // namespace

RemoteWorld::RemoteWorld(std::string_view kind, std::unique_ptr<Engine> client,
                         std::unique_ptr<RemoteServer> server)
    : kind_(kind), client_(std::move(client)), server_(std::move(server)) {}
RemoteWorld::~RemoteWorld() = default;

Result<std::unique_ptr<RemoteWorld>> RemoteWorld::make(std::string_view kind,
                                                       const WorldOptions& options,
                                                       const std::string& peer) {
  BTD_ASSIGN(auto client, make_engine(kind, options));
  BTD_ASSIGN(Channel channel, connect_channel(peer, kPatience));
  auto server = std::make_unique<RemoteServer>(std::move(channel), *client);
  std::vector<std::string> asked = words("make", kind);
  std::ranges::move(to_words(options), std::back_inserter(asked));
  BTD_TRY(server->call(asked));
  return std::unique_ptr<RemoteWorld>(new RemoteWorld(kind, std::move(client), std::move(server)));
}

Engine& RemoteWorld::server() { return *server_; }

Status RemoteWorld::listen(Acceptor acceptor) {
  BTD_ASSIGN(address_, server_->listen("plain", std::move(acceptor)));
  return {};
}

Status RemoteWorld::listen_for_calls(Acceptor acceptor) {
  BTD_ASSIGN(address_, server_->listen("calls", std::move(acceptor)));
  return {};
}

Result<std::unique_ptr<ServerNvram>> RemoteWorld::make_server_nvram(std::size_t bytes) {
  BTD_ASSIGN(const Line line, server_->call(words("nvram", bytes)));
  RegionDescriptor region;
  if (line.bytes.size() != sizeof(region)) return fail(EPROTO, "That is no region.");
  std::memcpy(&region, line.bytes.data(), sizeof(region));
  return std::make_unique<RemoteNvram>(*server_, region);
}

bool RemoteWorld::run_until(const std::function<bool()>& condition, Time within) {
  constexpr Time kNap = std::chrono::microseconds(20);
  const Time until = client_->now() + within;
  while (!condition()) {
    if (client_->now() > until) return false;
    const auto mine = client_->poll();
    const auto theirs = server_ ? server_->poll() : Result<std::size_t>(0);
    EXPECT_TRUE(mine.has_value()) << mine.error().message;
    EXPECT_TRUE(theirs.has_value()) << theirs.error().message;
    if (!mine || !theirs) return false;
    if (*mine + *theirs > 0) continue;
    if (server_)
      server_->sleep(kNap);
    else
      static_cast<void>(client_->wait(client_->now() + kNap));
  }
  const Status fresh = server_ ? server_->refresh() : Status{};
  EXPECT_TRUE(fresh.has_value()) << fresh.error().message;
  return fresh.has_value();
}

void RemoteWorld::pause_server(bool is_paused) {
  const auto done = server_->call(words("pause", is_paused ? 1 : 0));
  EXPECT_TRUE(done.has_value()) << done.error().message;
}

bool RemoteWorld::is_direct() const { return kind_ == kReadBehind; }

void RemoteWorld::cut() { remote::cut(kind_, *client_, address_); }

void RemoteWorld::kill_server() {
  const auto done = server_->call(words("kill"));
  EXPECT_TRUE(done.has_value()) << done.error().message;
  server_.reset();
}

Status RemoteWorld::unplug(std::chrono::milliseconds outage) {
  BTD_TRY(server_->call(words("unplug", outage.count())));
  return {};
}

Result<std::uint64_t> RemoteWorld::runs() {
  BTD_ASSIGN(const Line line, server_->call(words("runs")));
  return line.number(1);
}

}  // namespace btd::net::remote
