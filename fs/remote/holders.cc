#include "fs/remote/holders.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace btd::remote {

Status Holders::greet(const net::Endpoint& endpoint, std::uint64_t client) {
  const Client named{endpoint.peer(), client};
  const std::lock_guard lock(mutex_);
  const auto [found, is_new] = connections_.try_emplace(&endpoint, named);
  if (found->second != named)
    return fail(EINVAL, "The connection belongs to another client of the node.");
  if (is_new) ++clients_[named].connections;
  return {};
}

std::vector<Holders::Hold> Holders::take_locked(std::map<Client, Files>::iterator client) {
  std::vector<Hold> taken;
  for (const auto& [id, held] : client->second.held) {
    taken.push_back({.id = id, .is_writable = held.is_writable});
    if (--counts_[id] == 0) counts_.erase(id);
  }
  client->second.held.clear();
  return taken;
}

std::vector<Holders::Hold> Holders::closed(const net::Endpoint& endpoint) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(&endpoint);
  if (found == connections_.end()) return {};
  const auto client = clients_.find(found->second);
  connections_.erase(found);
  if (--client->second.connections > 0) return {};
  std::vector<Hold> taken = take_locked(client);
  clients_.erase(client);
  return taken;
}

Result<bool> Holders::add(Client client, std::uint64_t generation, Hold hold) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end())
    return fail(ECONNRESET, "The connection that asked for the file is gone.");
  auto& files = found->second.held;
  if (const auto held = files.find(hold.id); held != files.end()) {
    held->second.generation = std::max(held->second.generation, generation);
    held->second.is_writable = held->second.is_writable || hold.is_writable;
    return false;
  }
  if (files.size() >= kMostFiles)
    return fail(ENFILE, "The node has " + std::to_string(kMostFiles) +
                            " files of this home open already; close some.");
  files[hold.id] = {.generation = generation, .is_writable = hold.is_writable};
  ++counts_[hold.id];
  return true;
}

bool Holders::remove(Client client, std::uint64_t generation, InodeId id) {
  const std::lock_guard lock(mutex_);
  const auto found = clients_.find(client);
  if (found == clients_.end()) return false;
  const auto held = found->second.held.find(id);
  if (held == found->second.held.end() || held->second.generation > generation) return false;
  found->second.held.erase(held);
  if (--counts_[id] == 0) counts_.erase(id);
  return true;
}

std::vector<Holders::Hold> Holders::take_all() {
  const std::lock_guard lock(mutex_);
  std::vector<Hold> all;
  for (auto client = clients_.begin(); client != clients_.end(); ++client) {
    const std::vector<Hold> taken = take_locked(client);
    all.insert(all.end(), taken.begin(), taken.end());
  }
  clients_.clear();
  connections_.clear();
  return all;
}

std::size_t Holders::holds() const {
  const std::lock_guard lock(mutex_);
  std::size_t sum = 0;
  for (const auto& [id, count] : counts_) sum += count;
  return sum;
}

bool Holders::is_held(InodeId id) const {
  const std::lock_guard lock(mutex_);
  return counts_.contains(id);
}

std::vector<NodeId> Holders::others(InodeId id, Client client) const {
  std::vector<NodeId> nodes;
  const std::lock_guard lock(mutex_);
  for (const auto& [other, files] : clients_)
    if (other != client && files.held.contains(id)) nodes.push_back(other.first);
  const auto rest = std::ranges::unique(nodes);  // clients are in the order of their nodes
  nodes.erase(rest.begin(), rest.end());
  return nodes;
}

}  // namespace btd::remote
