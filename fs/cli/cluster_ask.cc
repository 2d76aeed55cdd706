#include "fs/cli/cluster_ask.h"

#include <fmt/format.h>

#include <chrono>

#include "fs/cluster/health.h"
#include "net/etcd/etcd_store.h"
#include "net/rpc.h"
#include "net/tcp/tcp.h"

namespace btd::cli {
namespace {

// A node asks etcd before it answers, for at most 3 seconds.
constexpr net::Time kPatience = std::chrono::seconds(8);
constexpr net::NodeId kNobody = 0xffff;  // who asks is no node

// From one thread, all nodes at once.
class Asker final : public net::Handler {
 public:
  explicit Asker(net::Engine& engine) : engine_(engine), rpc_(engine, *this) {}

  void ask(const cluster::Member& member) {
    NodeAnswer& answer = answers_[member.id];
    auto endpoint = engine_.connect(member.address, rpc_);
    if (!endpoint) {
      answer.why_not = endpoint.error().message;
      return;
    }
    ids_[*endpoint] = member.id;
    const net::Time begin = engine_.now();
    const Status called = rpc_.call<cluster::HealthRequest, cluster::HealthResponse>(
        **endpoint, cluster::kHealth, {}, {}, net::after(begin, kPatience),
        [this, begin, id = member.id](const auto& response, net::Rpc::Bytes tail) {
          --open_;
          heard(answers_[id], response, tail, engine_.now() - begin);
        });
    if (called) {
      ++open_;
    } else {
      answer.why_not = called.error().message;
    }
  }

  Status wait() {
    const net::Time until = net::after(engine_.now(), 2 * kPatience);
    while (open_ > 0 && engine_.now() < until) BTD_TRY(engine_.wait(until));
    return {};
  }

  [[nodiscard]] const NodeAnswers& answers() const { return answers_; }

  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_down(net::Endpoint& endpoint, const Error& why) override { broke(endpoint, why); }
  void on_closed(net::Endpoint& endpoint, const Error& why) override { broke(endpoint, why); }

 private:
  void broke(const net::Endpoint& endpoint, const Error& why) {
    const auto found = ids_.find(&endpoint);
    if (found == ids_.end() || why.message.empty()) return;
    NodeAnswer& answer = answers_[found->second];
    if (!answer.said) answer.why_not = why.message;
  }

  static void heard(NodeAnswer& answer, const Result<cluster::HealthResponse>& response,
                    net::Rpc::Bytes tail, net::Time took) {
    if (!response) {
      if (answer.why_not.empty()) answer.why_not = response.error().message;
      return;
    }
    const std::string_view text(reinterpret_cast<const char*>(tail.data()), tail.size());
    auto said = nlohmann::json::parse(text, nullptr, false);
    if (!said.is_object()) {
      answer.why_not = "it says something that is not understood; it is of another version";
      return;
    }
    answer.said = std::move(said);
    answer.ms = std::chrono::duration<double, std::milli>(took).count();
  }

  net::Engine& engine_;
  net::Rpc rpc_;
  std::map<const net::Endpoint*, NodeId> ids_;
  NodeAnswers answers_;
  std::size_t open_ = 0;
};

}  // namespace

Result<NodeAnswers> ask_members(const net::Security& security, net::Epoch epoch,
                                const std::vector<cluster::Member>& members) {
  net::TcpOptions tcp;
  tcp.security = security;
  tcp.engine.node = kNobody;
  tcp.engine.epoch = epoch;
  BTD_ASSIGN(const auto engine, net::make_tcp_engine(tcp));
  Asker asker(*engine);
  for (const cluster::Member& member : members)
    if (member.is_mounted) asker.ask(member);
  BTD_TRY(asker.wait());
  return asker.answers();
}

Result<ClusterNodes> ask_nodes(const cluster::Options& options) {
  BTD_ASSIGN(const auto store, net::EtcdStore::open(options.etcd));
  return ask_nodes(options, *store);
}

Result<ClusterNodes> ask_nodes(const cluster::Options& options, const MetaStore& store) {
  ClusterNodes nodes;
  BTD_ASSIGN(nodes.members, cluster::members(store));
  if (nodes.members.empty())
    return fail(ENOENT, fmt::format("there is no cluster '{}' in etcd; found it with `btd cluster "
                                    "init`",
                                    options.name));
  BTD_ASSIGN(nodes.epoch, cluster::epoch(store));
  BTD_ASSIGN(nodes.answers, ask_members(options.security, nodes.epoch, nodes.members));
  return nodes;
}

}  // namespace btd::cli
