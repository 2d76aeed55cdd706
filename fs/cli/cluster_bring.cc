#include "fs/cli/cluster_bring.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>

#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "net/rpc.h"
#include "net/tcp/tcp.h"

namespace btd::cli {
namespace {

constexpr net::NodeId kNobody = 0xffff;  // who asks is no node
constexpr std::size_t kAtOnce = 8;
// A file of a terabyte takes a while; a node that died is known sooner.
constexpr net::Time kPatience = std::chrono::hours(24);
constexpr int kAttempts = 3;

// Another node may take it; EROFS: this one is being drained.
bool is_of_node(int code) { return code == ENOSPC || code == EROFS; }

// A moment later it may go better.
bool is_passing(int code) { return code == ECONNABORTED || code == EBUSY || code == EAGAIN; }

class Asker final : public net::Handler {
 public:
  Asker(net::Engine& engine, const std::vector<cluster::Member>& members,
        const Bringing::Choose& choose, const Bringing::Came& came)
      : engine_(engine), rpc_(engine, *this), members_(members), choose_(choose), came_(came) {}

  Result<Moved> run(const std::vector<InodeId>& ids) {
    for (const InodeId id : ids) waiting_.push_back({.id = id});
    ProgressBar bar("moving");
    while (!waiting_.empty() || open_ > 0) {
      while (!waiting_.empty() && open_ < kAtOnce) begin_next();
      bar.show(fmt::format("{} of {} files", ended_, ids.size()), ended_, ids.size());
      if (open_ > 0) BTD_TRY(engine_.wait(net::kNever));
    }
    return std::move(moved_);
  }

  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_down(net::Endpoint&, const Error&) override {}
  void on_closed(net::Endpoint& endpoint, const Error&) override {
    std::erase_if(endpoints_, [&](const auto& one) { return one.second == &endpoint; });
  }

 private:
  struct Waiting {
    InodeId id = 0;
    int attempts = 0;
    Bringing::Refused refused;
  };

  void begin_next() {
    Waiting file = waiting_.front();
    waiting_.pop_front();
    const auto to = choose_(file.id, file.refused);
    if (!to) return failed(file, to.error());
    const auto endpoint = connect(*to);
    if (!endpoint) return failed(file, endpoint.error(), *to);
    const Status asked = rpc_.call<cluster::BringRequest, cluster::BringResponse>(
        **endpoint, cluster::kBring, {.id = file.id}, {}, net::after(engine_.now(), kPatience),
        [this, file, node = *to](const Result<cluster::BringResponse>& response, net::Rpc::Bytes) {
          --open_;
          if (!response) return failed(file, response.error(), node);
          ++ended_;
          ++moved_.files;
          moved_.bytes += response->bytes;
          came_(node, *response);
        });
    if (!asked) return failed(file, asked.error(), *to);
    ++open_;
  }

  void failed(Waiting file, const Error& error, std::optional<NodeId> node = {}) {
    const bool is_elsewhere = node && is_of_node(error.code) && file.refused.insert(*node).second;
    const bool is_again = is_passing(error.code) && ++file.attempts < kAttempts;
    if (is_elsewhere || is_again) return waiting_.push_back(std::move(file));
    ++ended_;
    moved_.failures.push_back({file.id, error});
  }

  Result<net::Endpoint*> connect(NodeId node) {
    if (const auto found = endpoints_.find(node); found != endpoints_.end()) return found->second;
    const auto member = std::ranges::find(members_, node, &cluster::Member::id);
    if (member == members_.end()) return fail(ENOENT, "there is no such node");
    BTD_ASSIGN(net::Endpoint* const endpoint, engine_.connect(member->address, rpc_));
    endpoints_[node] = endpoint;
    return endpoint;
  }

  net::Engine& engine_;
  net::Rpc rpc_;
  const std::vector<cluster::Member>& members_;
  const Bringing::Choose& choose_;
  const Bringing::Came& came_;
  std::map<NodeId, net::Endpoint*> endpoints_;
  std::deque<Waiting> waiting_;
  std::size_t open_ = 0, ended_ = 0;
  Moved moved_;
};

}  // namespace

Result<Moved> Bringing::run(const std::vector<InodeId>& ids, const Choose& choose,
                            const Came& came) {
  if (ids.empty()) return Moved{};
  net::TcpOptions tcp;
  tcp.security = security_;
  tcp.engine.node = kNobody;
  tcp.engine.epoch = epoch_;
  BTD_ASSIGN(const auto engine, net::make_tcp_engine(tcp));
  Asker asker(*engine, members_, choose, came);
  return asker.run(ids);
}

std::string summary_of(const Moved& moved) {
  return fmt::format("{} {}, {}", moved.files, moved.files == 1 ? "file" : "files",
                     format_size(moved.bytes));
}

}  // namespace btd::cli
