// The conformance suite over RDMA, once for each way in which a write becomes durable, and what
// only this engine promises. It needs an RDMA device (Soft-RoCE will do) and its address in
// BTD_VERBS_ADDRESS; elsewhere it is skipped.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "net/verbs/engine.h"
#include "tests/net/conformance.h"

namespace btd::net::verbs {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::string host() {
  const char* address = std::getenv("BTD_VERBS_ADDRESS");
  return address != nullptr ? address : "";
}

std::unique_ptr<VerbsEngine> make_engine(const VerbsOptions& options) {
  auto made = VerbsEngine::make(options);
  if (!made) std::fprintf(stderr, "%s\n", made.error().message.c_str());
  return made ? *std::move(made) : nullptr;
}

// Devices in software, in emulated machines, are slow: what waits, waits longer.
constexpr int kSlow = 4;

// In which way writes become durable, where the device lets one choose.
enum class Way : std::uint8_t { kAcknowledge, kReadBehind, kNativeFlush };

VerbsOptions with(const WorldOptions& options, Way way) {
  VerbsOptions verbs;
  verbs.engine.epoch = options.epoch;
  verbs.engine.limits = options.limits;
  verbs.engine.patience = options.patience;
  verbs.engine.patience.connect *= kSlow;
  verbs.engine.patience.silence *= kSlow;
  verbs.engine.patience.reconnect *= kSlow;
  verbs.engine.patience.linger *= kSlow;
  verbs.cluster_key = "the key of the test";
  verbs.direct_write_is_durable = way == Way::kReadBehind;
  verbs.native_flush = way == Way::kNativeFlush;
  return verbs;
}

class VerbsWorld final : public World {
 public:
  VerbsWorld(const WorldOptions& options, Way way)
      : client_(make_engine(with(options, way))),
        server_(make_engine(with(options, way))),
        way_(way) {}

  [[nodiscard]] bool is_there() const {
    return client_ != nullptr && server_ != nullptr &&
           (way_ != Way::kNativeFlush || client_->device().flush().global);
  }
  Engine& client() override { return *client_; }
  Engine& server() override { return *server_; }
  [[nodiscard]] std::string address() const override { return address_; }
  Status listen(Acceptor acceptor) override {
    BTD_ASSIGN(address_, server_->listen(host() + ":0", std::move(acceptor)));
    return {};
  }
  bool run_until(const std::function<bool()>& condition, Time within) override {
    const Time until = client_->now() + within;
    while (!condition()) {
      if (client_->now() > until) return false;
      const auto mine = client_->poll();
      if (!mine) return false;
      std::size_t count = *mine;
      if (server_ && !is_paused_) {
        const auto theirs = server_->poll();
        if (!theirs) return false;
        count += *theirs;
      }
      // The device may be software, which needs a processor, too.
      if (count == 0) std::this_thread::sleep_for(std::chrono::microseconds(10));
    }
    return true;
  }
  void pause_server(bool is_paused) override { is_paused_ = is_paused; }
  [[nodiscard]] bool is_direct() const override { return way_ == Way::kReadBehind; }
  [[nodiscard]] bool is_served_by_nic() const override { return way_ != Way::kAcknowledge; }
  void cut() override { client_->cut_links(); }
  void kill_server() override { server_.reset(); }

 private:
  std::unique_ptr<VerbsEngine> client_, server_;
  const Way way_;
  std::string address_;
  bool is_paused_ = false;
};

WorldMaker world(const char* name, Way way) {
  return {name, [way](const WorldOptions& options) -> std::unique_ptr<World> {
            if (host().empty()) return nullptr;
            auto made = std::make_unique<VerbsWorld>(options, way);
            if (!made->is_there()) return nullptr;
            return made;
          }};
}

INSTANTIATE_TEST_SUITE_P(Verbs, Conformance,
                         ::testing::Values(world("Acknowledge", Way::kAcknowledge),
                                           world("ReadBehind", Way::kReadBehind),
                                           world("NativeFlush", Way::kNativeFlush)),
                         [](const auto& one) { return one.param.name; });

// Two engines that work until something holds.
struct Two {
  Two(const VerbsOptions& of_client, const VerbsOptions& of_server)
      : client(make_engine(of_client)), server(make_engine(of_server)) {
    if (!client || !server) return;
    auto listening = server->listen(host() + ":0", [this](Endpoint&) { return &served; });
    EXPECT_TRUE(listening.has_value());
    if (listening) address = *listening;
  }
  bool run_until(const std::function<bool()>& condition) {
    const Time until = client->now() + seconds(20);
    while (!condition()) {
      if (client->now() > until || !client->poll() || !server->poll()) return false;
    }
    return true;
  }

  Recorder asked, served;
  std::unique_ptr<VerbsEngine> client, server;
  std::string address;
};

class VerbsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (host().empty())
      GTEST_SKIP() << "BTD_VERBS_ADDRESS is not set: there is no RDMA device to test with";
  }
};

TEST_F(VerbsTest, RefusesAPeerWithAnotherKey) {
  VerbsOptions stranger = with({}, Way::kAcknowledge);
  stranger.cluster_key = "another key";
  Two two(stranger, with({}, Way::kAcknowledge));
  ASSERT_TRUE(two.client->connect(two.address, two.asked).has_value());
  ASSERT_TRUE(two.run_until([&] { return two.asked.closes == 1; }));
  EXPECT_EQ(two.asked.last.code, EKEYREJECTED) << two.asked.last.message;
  EXPECT_EQ(two.served.ups, 0);
}

TEST_F(VerbsTest, ReadsTakeNoProcessorOfThePeer) {
  Two two(with({}, Way::kAcknowledge), with({}, Way::kAcknowledge));
  std::vector<std::byte> memory(1 << 20, std::byte{7});
  const auto region = two.server->register_region(memory, kRemoteRead, nullptr);
  ASSERT_TRUE(region.has_value()) << region.error().message;
  const auto endpoint = two.client->connect(two.address, two.asked);
  ASSERT_TRUE(endpoint.has_value());
  ASSERT_TRUE(two.run_until([&] { return two.asked.ups == 1 && two.served.ups == 1; }));
  std::vector<std::byte> into(4096);
  const iovec local{into.data(), into.size()};
  ASSERT_TRUE((*endpoint)
                  ->read({&local, 1}, {region->key, 100}, 1, two.client->now() + seconds(10))
                  .has_value());
  const Time until = two.client->now() + seconds(10);
  while (two.asked.completions.empty() && two.client->now() < until)
    ASSERT_TRUE(two.client->poll().has_value());  // the server's engine does nothing meanwhile
  ASSERT_EQ(two.asked.completions.size(), 1U);
  EXPECT_EQ(two.asked.completions[0].error, 0);
  EXPECT_EQ(into, std::vector<std::byte>(4096, std::byte{7}));
}

TEST_F(VerbsTest, DirectWritesTakeNoProcessorOfThePeer) {
  Two two(with({}, Way::kReadBehind), with({}, Way::kReadBehind));
  std::vector<std::byte> memory(1 << 20);
  const auto region = two.server->register_region(memory, kRemoteWrite, nullptr);
  ASSERT_TRUE(region.has_value()) << region.error().message;
  const auto endpoint = two.client->connect(two.address, two.asked);
  ASSERT_TRUE(endpoint.has_value());
  ASSERT_TRUE(two.run_until([&] { return two.asked.ups == 1 && two.served.ups == 1; }));
  std::vector<std::byte> from(5000, std::byte{9});
  const iovec local{from.data(), from.size()};
  const Time until = two.client->now() + seconds(10);
  ASSERT_TRUE((*endpoint)->write_persist({&local, 1}, {region->key, 8}, 1, until).has_value());
  while (two.asked.completions.empty() && two.client->now() < until)
    ASSERT_TRUE(two.client->poll().has_value());
  ASSERT_EQ(two.asked.completions.size(), 1U);
  EXPECT_EQ(two.asked.completions[0].error, 0);
  EXPECT_EQ(std::memcmp(memory.data() + 8, from.data(), from.size()), 0);
}

// Memory of the test: of a DAX device, as NVRAM is, or of the heap.
class Mapping {
 public:
  static constexpr std::size_t kBytes = 2 << 20;
  explicit Mapping(const char* device) : fd_(open(device, O_RDWR | O_CLOEXEC)) {
    if (fd_ >= 0) at_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (at_ != MAP_FAILED) munmap(at_, kBytes);
    if (fd_ >= 0) close(fd_);
  }
  [[nodiscard]] std::span<std::byte> bytes() const {
    return at_ == MAP_FAILED ? std::span<std::byte>{}
                             : std::span{static_cast<std::byte*>(at_), kBytes};
  }

 private:
  int fd_ = -1;
  void* at_ = MAP_FAILED;
};

// Two engines with the NICs' own flush, and a region of the server's.
class VerbsFlushTest : public VerbsTest {
 protected:
  void SetUp() override {
    VerbsTest::SetUp();
    if (IsSkipped()) return;
    two_ = std::make_unique<Two>(with({}, Way::kNativeFlush), with({}, Way::kNativeFlush));
    ASSERT_TRUE(two_->client && two_->server);
    if (!two_->client->device().flush().any())
      GTEST_SKIP() << "library, driver or device has no flush of the NIC's own";
    const auto endpoint = two_->client->connect(two_->address, two_->asked);
    ASSERT_TRUE(endpoint.has_value());
    endpoint_ = *endpoint;
    ASSERT_TRUE(two_->run_until([&] { return two_->asked.ups == 1 && two_->served.ups == 1; }));
  }

  // The key of these bytes.
  std::uint64_t offer(std::span<std::byte> bytes, Persist* persist) {
    const auto region = two_->server->register_region(bytes, kRemoteWrite, persist);
    EXPECT_TRUE(region.has_value()) << region.error().message;
    return region ? region->key : 0;
  }

  // Writes of some lengths and segments, one after the other. Whether all completed within the
  // time, while the server's engine does what `serve` says.
  static constexpr std::array<std::size_t, 5> kLengths{8, 100, 5000, 64 << 10, 300 << 10};
  bool write_all(std::uint64_t key, bool serve) {
    std::vector<std::byte> from(kLengths.back());
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
      std::ranges::fill(from, static_cast<std::byte>(i + 1));
      const std::size_t half = kLengths[i] / 2;
      const std::array<iovec, 2> local{iovec{from.data(), half},
                                       iovec{from.data() + half, kLengths[i] - half}};
      const Time until = two_->client->now() + seconds(10);
      const std::size_t wanted = two_->asked.completions.size() + 1;
      if (!endpoint_->write_persist(local, {key, kStep * i + 8}, i, until)) return false;
      while (two_->asked.completions.size() < wanted && two_->client->now() < until + seconds(1))
        if (!two_->client->poll() || (serve && !two_->server->poll())) return false;
      if (two_->asked.completions.size() < wanted || two_->asked.completions.back().error != 0)
        return false;
    }
    return true;
  }
  static bool are_there(std::span<const std::byte> bytes) {
    for (std::size_t i = 0; i < kLengths.size(); ++i)
      for (std::size_t k = 0; k < kLengths[i]; ++k)
        if (bytes[kStep * i + 8 + k] != static_cast<std::byte>(i + 1)) return false;
    return true;
  }

  static constexpr std::size_t kStep = 320 << 10;
  std::unique_ptr<Two> two_;
  Endpoint* endpoint_ = nullptr;
};

// The server's engine does not even run: nobody but its NIC can have done it.
TEST_F(VerbsFlushTest, MakesNvramDurableWithoutAProcessor) {
  const char* device = std::getenv("BTD_VERBS_NVRAM");
  if (device == nullptr) GTEST_SKIP() << "BTD_VERBS_NVRAM names no DAX device";
  const Mapping nvram(device);
  ASSERT_FALSE(nvram.bytes().empty()) << std::strerror(errno);
  Persist persist(btd::Domain::kCacheLine);
  const std::uint64_t key = offer(nvram.bytes(), &persist);
  ASSERT_EQ(device_key(key).flush, Flush::kPersistent);
  ASSERT_TRUE(write_all(key, false));
  EXPECT_TRUE(are_there(nvram.bytes()));
  EXPECT_EQ(two_->client->flushes(), kLengths.size());
  EXPECT_EQ(persist.counters().fences, 0U) << "a processor was asked";
  two_->client.reset();  // before the memory
  two_->server.reset();
}

TEST_F(VerbsFlushTest, ReachesMemoryThatDiesWithItsNode) {
  std::vector<std::byte> memory(Mapping::kBytes);
  const std::uint64_t key = offer(memory, nullptr);
  ASSERT_EQ(device_key(key).flush, Flush::kGlobal);
  ASSERT_TRUE(write_all(key, false));
  EXPECT_TRUE(are_there(memory));
  EXPECT_EQ(two_->client->flushes(), kLengths.size());
  two_->server.reset();
}

// Soft-RoCE takes persistent flushes of NVRAM's pages only: of others the processor is asked.
TEST_F(VerbsFlushTest, LeavesToTheProcessorWhatTheDeviceRefuses) {
  std::vector<std::byte> memory(Mapping::kBytes);
  Persist persist(btd::Domain::kCacheLine);
  const std::uint64_t key = offer(memory, &persist);
  if (device_key(key).flush != Flush::kNone) GTEST_SKIP() << "the device takes any memory";
  ASSERT_TRUE(write_all(key, true));
  EXPECT_TRUE(are_there(memory));
  EXPECT_EQ(two_->client->flushes(), 0U);
  EXPECT_GE(persist.counters().fences, kLengths.size());
  two_->server.reset();
}

// A peer of the old epoch has a key and a connection; neither may be of use to it.
TEST_F(VerbsTest, TheEpochEndsWhatIsUnderWay) {
  VerbsOptions options = with({.epoch = 5}, Way::kReadBehind);
  Two two(options, options);
  std::vector<std::byte> memory(1 << 20);
  const auto region = two.server->register_region(memory, kRemoteWrite | kRemoteRead, nullptr);
  ASSERT_TRUE(region.has_value()) << region.error().message;
  const auto endpoint = two.client->connect(two.address, two.asked);
  ASSERT_TRUE(two.run_until([&] { return two.asked.ups == 1 && two.served.ups == 1; }));
  two.server->set_epoch(6);
  std::vector<std::byte> from(5000, std::byte{9});
  const iovec local{from.data(), from.size()};
  const Time until = two.client->now() + milliseconds(1500);
  ASSERT_TRUE((*endpoint)->write_persist({&local, 1}, {region->key, 8}, 1, kNever).has_value());
  while (two.client->now() < until) ASSERT_TRUE(two.client->poll().has_value());
  EXPECT_TRUE(two.asked.completions.empty());
  EXPECT_EQ(memory, std::vector<std::byte>(1 << 20)) << "a write of the old epoch took effect";
  ASSERT_TRUE(two.run_until([&] { return two.asked.completions.size() == 1; }));
  EXPECT_EQ(two.asked.completions[0].error, ESTALE);
  EXPECT_EQ(two.asked.completions[0].value, 6U);
  EXPECT_EQ(memory, std::vector<std::byte>(1 << 20));
}

TEST_F(VerbsTest, RefusesDirectWritesWhereMemoryIsSynced) {
  auto engine = make_engine(with({}, Way::kReadBehind));
  ASSERT_NE(engine, nullptr);
  std::vector<std::byte> memory(4096);
  Persist synced(btd::Domain::kMsync);
  const auto refused = engine->register_region(memory, kRemoteWrite, &synced);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, EINVAL);
}

// An idle engine sleeps, and another thread wakes it.
TEST_F(VerbsTest, SleepsUntilItIsWoken) {
  Two two(with({}, Way::kAcknowledge), with({}, Way::kAcknowledge));
  ASSERT_TRUE(two.client->connect(two.address, two.asked).has_value());
  ASSERT_TRUE(two.run_until([&] { return two.asked.ups == 1 && two.served.ups == 1; }));
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(two.client->poll().has_value());
    ASSERT_TRUE(two.server->poll().has_value());
  }
  const auto used = [] {
    timespec at{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return seconds(at.tv_sec) + Time(at.tv_nsec);
  };
  const Time before = used(), begin = two.client->now();
  while (two.client->now() < begin + seconds(1))
    ASSERT_TRUE(two.client->wait(begin + seconds(1)).has_value());
  EXPECT_LT(used() - before, milliseconds(200));
  std::thread other([&] {
    std::this_thread::sleep_for(milliseconds(100));
    two.client->wake();
  });
  const Time asleep = two.client->now();
  ASSERT_TRUE(two.client->wait(asleep + seconds(10)).has_value());
  other.join();
  EXPECT_LT(two.client->now() - asleep, seconds(5));
}

}  // namespace
}  // namespace btd::net::verbs
