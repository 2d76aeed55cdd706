// The conformance suite on simulated networks: a good one, one whose streams are cut, one that
// loses, repeats and reorders frames.
#include "net/sim/sim_engine.h"
#include "net/sim/sim_network.h"
#include "tests/net/conformance.h"
#include "tests/net/engine_options.h"
#include "tests/net/recorder.h"

namespace btd::net::sim {
namespace {

class SimWorld final : public World {
 public:
  SimWorld(const WorldOptions& options, const Faults& faults, std::uint64_t seed)
      : network_(seed, faults) {
    const EngineOptions engine{
        .epoch = options.epoch, .limits = options.limits, .patience = options.patience};
    client_ = std::make_unique<SimEngine>(network_, "client", engine);
    server_ = std::make_unique<SimEngine>(network_, "server", engine);
  }

  Engine& client() override { return *client_; }
  Engine& server() override { return *server_; }
  [[nodiscard]] std::string address() const override { return "server"; }
  Status listen(Acceptor acceptor) override {
    BTD_TRY(server_->listen("server", std::move(acceptor)));
    return {};
  }
  bool run_until(const std::function<bool()>& condition, Time within) override {
    return network_.run_until(condition, within);
  }
  void pause_server(bool is_paused) override { network_.pause("server", is_paused); }
  [[nodiscard]] bool is_simulated() const override { return true; }
  void cut() override { client_->cut_links(); }
  void kill_server() override { server_.reset(); }

 private:
  SimNetwork network_;
  std::unique_ptr<SimEngine> client_, server_;
};

WorldMaker world(const char* name, const Faults& faults) {
  return {name, [faults](const WorldOptions& options) -> std::unique_ptr<World> {
            return std::make_unique<SimWorld>(options, faults, 1);
          }};
}

// A constructor can't refuse, so the engine does nothing with them.
TEST(SimOptions, WhatCannotWorkIsRefused) {
  Recorder handler;
  const auto answers = [&](const EngineOptions& options) {
    SimNetwork network(1, {});
    SimEngine engine(network, "node", options);
    const auto listening = engine.listen("node", [&](Endpoint&) { return &handler; });
    const auto connecting = engine.connect("other", handler);
    return std::pair(listening ? 0 : listening.error().code,
                     connecting ? 0 : connecting.error().code);
  };
  for (const EngineOptions& options : options_that_cannot_work())
    EXPECT_EQ(answers(options), std::pair(EINVAL, EINVAL));
  for (const EngineOptions& options : unusual_options())
    EXPECT_EQ(answers(options), std::pair(0, 0));
}

INSTANTIATE_TEST_SUITE_P(
    Sim, Conformance,
    ::testing::Values(world("Good", {}), world("Cut", {.cut = 0.01, .cut_in_silence = 0.3}),
                      world("Lossy",
                            {.may_lose = true, .loss = 0.01, .repeat = 0.02, .delay = 0.01})),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace btd::net::sim
