#include "fs/cli/cluster_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "fs/namespace/layout.h"
#include "fs/remote/wire.h"
#include "net/rpc.h"
#include "net/tcp/tcp.h"

namespace btd::cli {
namespace {

constexpr net::NodeId kNobody = 0xffff;  // who asks is no node
constexpr std::size_t kAtOnce = 128;
constexpr net::Time kPatience = std::chrono::seconds(10);

Result<std::unordered_map<InodeId, NodeId>> moved(const MetaStore& store) {
  std::unordered_map<InodeId, NodeId> homes;
  BTD_TRY(store.scan(rows::kHomePrefix, prefix_end(rows::kHomePrefix),
                     [&](std::string_view key, std::string_view value) {
                       const InodeId id = rows::number_at(key, 1);
                       homes[id] = rows::home_in(id, std::string(value));
                       return true;
                     }));
  return homes;
}

template <class Visit>
Status for_each_of_home(const MetaStore& store, NodeId home, const Visit& visit) {
  BTD_ASSIGN(const auto homes, moved(store));
  return store.scan("i", prefix_end("i"), [&](std::string_view key, std::string_view value) {
    rows::InodeRow row{};
    if (!rows::parse(value, row) || !S_ISREG(row.mode)) return true;
    const InodeId id = rows::number_at(key, 1);
    const auto found = homes.find(id);
    if ((found == homes.end() ? node_of(id) : found->second) == home) visit(id, row);
    return true;
  });
}

// One home; calls are repeated by nobody, since who asks may ask again.
class Sizes final : public net::Handler {
 public:
  Sizes(net::Engine& engine, const std::vector<InodeId>& ids)
      : engine_(engine), rpc_(engine, *this), ids_(ids) {}

  Result<std::vector<cluster::FileSize>> ask(const std::string& address) {
    BTD_ASSIGN(net::Endpoint* const endpoint, engine_.connect(address, rpc_));
    while ((next_ < ids_.size() || open_ > 0) && failed_) {
      while (next_ < ids_.size() && open_ < kAtOnce) BTD_TRY(ask_next(*endpoint));
      BTD_TRY(engine_.wait(net::after(engine_.now(), kPatience)));
    }
    BTD_TRY(failed_);
    return std::move(sizes_);
  }

  void on_completion(net::Endpoint&, const net::Completion&) override {}
  void on_down(net::Endpoint&, const Error&) override {}
  void on_closed(net::Endpoint&, const Error&) override {}

 private:
  Status ask_next(net::Endpoint& endpoint) {
    const InodeId id = ids_[next_++];
    ++open_;
    return rpc_.call<remote::wire::FileRequest, remote::wire::Attributes>(
        endpoint, remote::wire::kAttributes, {.id = id}, {}, net::after(engine_.now(), kPatience),
        [this, id](const Result<remote::wire::Attributes>& got, net::Rpc::Bytes) {
          --open_;
          if (got) {
            sizes_.push_back({.id = id, .bytes = got->blocks * 512});
          } else if (const int code = got.error().code;
                     code == ETIMEDOUT || code == ECONNRESET || code == remote::wire::kOtherEpoch) {
            failed_ = fail(EHOSTUNREACH,
                           "the node does not say how large its files are: " + got.error().message);
          }
        });
  }

  net::Engine& engine_;
  net::Rpc rpc_;
  const std::vector<InodeId>& ids_;
  std::size_t next_ = 0, open_ = 0;
  std::vector<cluster::FileSize> sizes_;
  Status failed_;
};

struct Name {
  InodeId directory = 0;
  std::string name;
};

std::string path_of(const std::unordered_map<InodeId, Name>& names, InodeId id) {
  constexpr int kDeepest = 1000;
  std::string path;
  for (int depth = 0; id != kRootId && depth < kDeepest; ++depth) {
    const auto found = names.find(id);
    if (found == names.end()) return {};
    path.insert(0, "/" + found->second.name);
    id = found->second.directory;
  }
  return path;
}

}  // namespace

Result<std::vector<InodeId>> files_of_home(const MetaStore& store, NodeId home) {
  std::vector<InodeId> ids;
  BTD_TRY(for_each_of_home(store, home, [&](InodeId id, const rows::InodeRow& row) {
    if (row.nlink != 0) ids.push_back(id);
  }));
  return ids;
}

Result<std::map<InodeId, std::string>> paths_of(const MetaStore& store,
                                                const std::set<InodeId>& ids) {
  std::unordered_map<InodeId, Name> names;
  if (!ids.empty())
    BTD_TRY(store.scan("d", prefix_end("d"), [&](std::string_view key, std::string_view value) {
      rows::EntryRow row{};
      if (value.size() < sizeof row) return true;
      std::memcpy(&row, value.data(), sizeof row);
      if (S_ISDIR(std::uint32_t{row.type} << 12) || ids.contains(row.id))
        names[row.id] = {rows::number_at(key, 1), std::string(value.substr(sizeof row))};
      return true;
    }));
  std::map<InodeId, std::string> paths;
  for (const InodeId id : ids) {
    std::string path = path_of(names, id);
    paths[id] = path.empty() ? fmt::format("file {}", id) : std::move(path);
  }
  return paths;
}

Result<std::vector<cluster::FileSize>> sizes_of(const net::Security& security, net::Epoch epoch,
                                                const cluster::Member& home,
                                                const std::vector<InodeId>& ids) {
  if (ids.empty()) return std::vector<cluster::FileSize>{};
  net::TcpOptions tcp;
  tcp.security = security;
  tcp.engine.node = kNobody;
  tcp.engine.epoch = epoch;
  BTD_ASSIGN(const auto engine, net::make_tcp_engine(tcp));
  Sizes sizes(*engine, ids);
  return sizes.ask(home.address);
}

NodeRoom room_in(const nlohmann::json& said) {
  const auto space = said.value("space", nlohmann::json::object());
  return {space.value("size", std::uint64_t{0}), space.value("used", std::uint64_t{0}),
          space.value("available", std::uint64_t{0})};
}

Result<cluster::Member> find_node(const std::vector<cluster::Member>& members,
                                  const std::string& node) {
  std::string names;
  for (const cluster::Member& member : members) {
    if (member.name == node || std::to_string(member.id) == node) return member;
    names += (names.empty() ? "" : ", ") + member.name;
  }
  return fail(ENOENT,
              fmt::format("there is no node '{}'; the cluster's nodes are {}", node, names));
}

Status must_answer(const ClusterNodes& nodes, const cluster::Member& node) {
  const auto found = nodes.answers.find(node.id);
  if (found == nodes.answers.end())
    return fail(ENOTCONN, fmt::format("node {} is away; mount its pool first", node.name));
  if (!found->second.said)
    return fail(ENOTCONN,
                fmt::format("node {} does not answer: {}", node.name, found->second.why_not));
  return {};
}

std::map<NodeId, NodeRoom> rooms(const ClusterNodes& nodes) {
  std::map<NodeId, NodeRoom> found;
  for (const cluster::Member& member : nodes.members) {
    const auto answer = nodes.answers.find(member.id);
    if (member.is_draining || answer == nodes.answers.end() || !answer->second.said) continue;
    found[member.id] = room_in(*answer->second.said);
  }
  return found;
}

}  // namespace btd::cli
