// The conformance suite between two processes, and what two machines are needed for. The server
// runs in net_peer: where BTD_NET_PEER (its HOST:PORT) names none, the test starts one on loopback,
// and only the tcp engine is asked. The engine over verbs is asked where BTD_VERBS_ADDRESS is the
// IP address of an RDMA device too; the virtual lab has both (tests/vm).
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "tests/net/remote/engines.h"
#include "tests/net/remote/method.h"
#include "tests/net/remote/remote_world.h"

namespace btd::net::remote {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A net_peer beside this program, until this ends.
class PeerProcess {
 public:
  PeerProcess() {
    const auto program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "net_peer";
    std::array<int, 2> out{};
    if (::pipe(out.data()) != 0) std::abort();
    child_ = ::fork();
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(out[1], STDOUT_FILENO);
      ::execl(program.c_str(), "net_peer", "127.0.0.1:0", nullptr);
      ::_exit(127);
    }
    ::close(out[1]);
    for (char c = 0; ::read(out[0], &c, 1) == 1 && c != '\n';) address_ += c;
    ::close(out[0]);
  }
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;
  ~PeerProcess() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  pid_t child_ = -1;
  std::string address_;
};

bool is_elsewhere() { return std::getenv("BTD_NET_PEER") != nullptr; }

std::string peer() {
  if (is_elsewhere()) return std::getenv("BTD_NET_PEER");
  static const PeerProcess mine;
  return mine.address();
}

std::unique_ptr<RemoteWorld> make_world(std::string_view kind, const WorldOptions& options) {
  auto made = RemoteWorld::make(kind, options, peer());
  EXPECT_TRUE(made.has_value()) << made.error().message;
  return made ? *std::move(made) : nullptr;
}

WorldMaker world(const char* name, std::string_view kind) {
  return {name, [kind](const WorldOptions& options) { return make_world(kind, options); }};
}

// Where there is no RDMA device, nothing is made up that would only be skipped.
std::vector<std::string_view> kinds() {
  if (std::getenv("BTD_VERBS_ADDRESS") == nullptr) return {kTcp};
  return {kTcp, kAcknowledge, kReadBehind};
}

const char* name(std::string_view kind) {
  return kind == kTcp ? "Tcp" : kind == kAcknowledge ? "Acknowledge" : "ReadBehind";
}

// The suite of tcp is the same on loopback; where there is a device, it is that engine's turn.
std::vector<WorldMaker> worlds() {
  std::vector<WorldMaker> made;
  for (const std::string_view kind : kinds())
    if (kind != kTcp || kinds().size() == 1) made.push_back(world(name(kind), kind));
  return made;
}

INSTANTIATE_TEST_SUITE_P(Pair, Conformance, ::testing::ValuesIn(worlds()),
                         [](const auto& one) { return one.param.name; });

constexpr Time kSoon = seconds(30);

class PairTest : public ::testing::TestWithParam<std::string_view> {
 protected:
  void SetUp() override {
    world = make_world(GetParam(), {});
    ASSERT_NE(world, nullptr);
  }
  [[nodiscard]] Time deadline() const { return world->client().now() + kSoon; }

  Recorder asked, served;
  std::vector<std::byte> memory = std::vector<std::byte>(64 << 10);
  std::unique_ptr<RemoteWorld> world;
};

INSTANTIATE_TEST_SUITE_P(Pair, PairTest, ::testing::ValuesIn(kinds()),
                         [](const auto& one) { return name(one.param); });

// What needs a peer that has a network device of its own.
class DeviceTest : public PairTest {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DeviceTest);

INSTANTIATE_TEST_SUITE_P(Pair, DeviceTest,
                         ::testing::ValuesIn(is_elsewhere() ? kinds()
                                                            : std::vector<std::string_view>{}),
                         [](const auto& one) { return name(one.param); });

// One round of a test's work: a swap, a write, a read of what was written, and a message.
struct Round {
  std::uint64_t number = 0;
  std::array<std::uint64_t, 512> out{}, in{};

  explicit Round(std::uint64_t n) : number(n) {
    for (std::uint64_t i = 0; i < out.size(); ++i) out[i] = (n << 32) + i;
  }
  void post(Endpoint& endpoint, std::uint64_t key, Time deadline) {
    const iovec from{out.data(), sizeof(out)}, to{in.data(), sizeof(in)};
    const iovec message{&number, sizeof(number)};
    const RemoteRange page{key, 4096 * (1 + number % 8)};
    EXPECT_TRUE(endpoint.cas8({key, 0}, number, number + 1, number, deadline).has_value());
    EXPECT_TRUE(endpoint.write_persist({&from, 1}, page, number, deadline).has_value());
    EXPECT_TRUE(endpoint.read({&to, 1}, page, number, deadline).has_value());
    EXPECT_TRUE(endpoint.send({&message, 1}, number, deadline).has_value());
  }
};

// A cable that is pulled and put in again: what was posted is done, once and in order.
TEST_P(DeviceTest, GoesOnAfterItWasDown) {
  constexpr std::uint64_t kRounds = 24, kPulls = 1;
  ASSERT_TRUE(world->listen([this](Endpoint&) { return &served; }).has_value());
  const auto region =
      world->server().register_region(memory, kRemoteRead | kRemoteWrite | kRemoteCas, nullptr);
  ASSERT_TRUE(region.has_value()) << region.error().message;
  const auto endpoint = world->client().connect(world->address(), asked);
  ASSERT_TRUE(endpoint.has_value());
  for (std::uint64_t number = 0; number < kRounds; ++number) {
    if (number % (kRounds / kPulls) == 5) {
      // Longer than a silent peer is borne.
      ASSERT_TRUE(world->unplug(milliseconds(2500)).has_value());
      // Not by run_until(), which would ask the peer about its memory.
      const Time down = world->client().now() + milliseconds(300);
      while (world->client().now() < down) ASSERT_TRUE(world->client().wait(down).has_value());
    }
    Round round(number);
    round.post(**endpoint, region->key, deadline());
    ASSERT_TRUE(
        world->run_until([&] { return asked.completions.size() == 4 * (number + 1); }, kSoon))
        << number;
    for (std::size_t i = 4 * number; i < asked.completions.size(); ++i)
      ASSERT_EQ(asked.completions[i].error, 0) << number << ", operation " << i % 4;
    EXPECT_EQ(asked.completions[4 * number].value, number) << "a swap ran twice, or not at all";
    EXPECT_EQ(round.in, round.out);
    EXPECT_EQ(std::memcmp(&memory[4096 * (1 + number % 8)], round.out.data(), 4096), 0);
  }
  EXPECT_GE(asked.ups, 1 + static_cast<int>(kPulls));
  ASSERT_EQ(served.messages.size(), kRounds) << "a message came twice, or not at all";
  for (std::uint64_t i = 0; i < kRounds; ++i)
    EXPECT_EQ(std::memcmp(served.messages[i].data(), &i, sizeof(i)), 0);
}

// However often the connection breaks, a call runs once.
TEST_P(PairTest, RunsEachCallOnce) {
  constexpr std::uint64_t kCalls = 100;
  ASSERT_TRUE(world->listen_for_calls([this](Endpoint&) { return &served; }).has_value());
  Rpc rpc(world->client(), asked);
  const auto endpoint = world->client().connect(world->address(), rpc);
  ASSERT_TRUE(endpoint.has_value());
  std::uint64_t answered = 0;
  for (std::uint64_t number = 0; number < kCalls; ++number) {
    const auto done = [&, number](const Result<CountResponse>& answer, Rpc::Bytes) {
      ASSERT_TRUE(answer.has_value()) << answer.error().message;
      EXPECT_EQ(answer->number, number);
      EXPECT_EQ(answer->runs, number + 1);
      ++answered;
    };
    ASSERT_TRUE((rpc.call<CountRequest, CountResponse>(**endpoint, kCount, {.number = number}, {},
                                                       deadline(), done))
                    .has_value());
    if (number % 5 != 4) continue;
    // Before they are sent, while they run, or when their answers are on the way.
    std::uint64_t turns = number / 5 % 8;
    ASSERT_TRUE(world->run_until(
        [&] {
          if (turns != UINT64_MAX && turns-- == 0) world->cut();
          return answered == number + 1;
        },
        kSoon));
    if (turns != UINT64_MAX) world->cut();
  }
  EXPECT_GT(asked.ups, 5);
  EXPECT_EQ(world->runs().value_or(0), kCalls);
  ASSERT_TRUE(served.messages.empty());
  (*endpoint)->close();
  EXPECT_TRUE(world->run_until([&] { return asked.closes == 1; }, kSoon));
}

}  // namespace
}  // namespace btd::net::remote
