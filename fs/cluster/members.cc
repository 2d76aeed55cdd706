#include "fs/cluster/members.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "fs/namespace/retries.h"

namespace btd::cluster {
namespace {

using nlohmann::json;

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kNodes = 1U << 16U;

std::unexpected<Error> not_understood(std::string_view what) {
  return fail(EPROTO, fmt::format("the cluster's row of {} is not understood: another version of "
                                  "this program wrote it, or it is damaged",
                                  what));
}

// Nobody needs to know which of its fields is wrong.
std::optional<json> parse_row(std::string_view bytes) {
  json row = json::parse(bytes, nullptr, false);
  if (!row.is_object() || !row.contains("version") || row["version"] != kVersion)
    return std::nullopt;
  return row;
}

std::string to_row(const Member& m) {
  json row = {{"version", kVersion},  {"name", m.name},          {"pool", m.pool},
              {"address", m.address}, {"domain", m.domain},      {"capacity", m.capacity},
              {"program", m.version}, {"mounted", m.is_mounted}, {"since_ns", m.since_ns},
              {"mounts", m.mounts}};
  if (m.is_draining) row["draining"] = true;
  if (m.is_removed) row["removed"] = true;
  return row.dump(-1, ' ', true, json::error_handler_t::replace);
}

Result<Member> from_row(NodeId id, std::string_view bytes) {
  const auto row = parse_row(bytes);
  if (!row) return not_understood("node " + std::to_string(id));
  try {
    return Member{.id = id,
                  .name = row->at("name").get<std::string>(),
                  .pool = row->at("pool").get<std::string>(),
                  .address = row->at("address").get<std::string>(),
                  .domain = row->at("domain").get<std::string>(),
                  .capacity = row->at("capacity").get<std::uint64_t>(),
                  .version = row->at("program").get<std::string>(),
                  .is_mounted = row->at("mounted").get<bool>(),
                  .mounts = row->value("mounts", std::uint64_t{0}),
                  .is_draining = row->value("draining", false),
                  .is_removed = row->value("removed", false),
                  .since_ns = row->at("since_ns").get<std::int64_t>()};
  } catch (const json::exception&) {
    return not_understood("node " + std::to_string(id));
  }
}

void move_epoch_on(Batch& batch, std::uint64_t epoch) {
  if (epoch == 0) {
    batch.require(epoch_key(), std::nullopt);
  } else {
    batch.require(epoch_key(), std::to_string(epoch));
  }
  batch.put(epoch_key(), std::to_string(epoch + 1));
}

Result<Member> enter_once(MetaStore& store, Member self, Entry entry) {
  BTD_ASSIGN(const std::uint64_t now, epoch(store));
  BTD_ASSIGN(const std::vector<Member> all, all_members(store));
  std::optional<Member> before;
  std::uint32_t free = 0;
  for (const Member& other : all) {
    if (other.id == free) ++free;
    if (other.pool == self.pool) {
      if (other.is_removed)
        return fail(EINVAL, "this pool was removed from the cluster; a fresh one can join it");
      before = other;
      self.is_draining = other.is_draining;
    } else if (other.is_removed) {
      continue;
    } else if (other.name == self.name) {
      return fail(EEXIST, fmt::format("node {} has the name '{}' already; give this one another in "
                                      "its cluster file, [node] name",
                                      other.id, self.name));
    } else if (other.address == self.address && other.is_mounted) {
      return fail(EEXIST, fmt::format("node {} ('{}') listens at {} already; give this one an "
                                      "address of its own in its cluster file, [node] listen",
                                      other.id, other.name, self.address));
    }
  }
  if (!before && free >= kNodes)
    return fail(ENOSPC, "the cluster has as many nodes as it can have");
  self.id = before ? before->id : static_cast<NodeId>(free);
  self.is_mounted = true;
  self.mounts = (before ? before->mounts : 0) + (entry == Entry::kNewMount ? 1 : 0);
  self.since_ns = Timestamp::now().nanoseconds;
  Batch batch;
  BTD_ASSIGN(const auto row, store.get(member_key(self.id)));
  if (row.has_value() != before.has_value()) return fail(EAGAIN);  // it came or went meanwhile
  batch.require(member_key(self.id), row);
  batch.put(member_key(self.id), to_row(self));
  if (!before || before->address != self.address) move_epoch_on(batch, now);
  BTD_TRY(store.commit(batch));
  return self;
}

}  // namespace

std::string to_row(const Identity& identity) {
  return json{{"version", kVersion}, {"name", identity.name}, {"uuid", identity.uuid}}.dump();
}

std::optional<Identity> identity_in(std::string_view bytes) {
  const auto row = parse_row(bytes);
  if (!row) return std::nullopt;
  const auto name = row->find("name"), uuid = row->find("uuid");
  if (name == row->end() || uuid == row->end() || !name->is_string() || !uuid->is_string())
    return std::nullopt;
  return Identity{name->get<std::string>(), uuid->get<std::string>()};
}

Result<std::optional<Identity>> identity(const MetaStore& store) {
  BTD_ASSIGN(const auto bytes, store.get(cluster_key()));
  if (!bytes) return std::optional<Identity>{};
  auto found = identity_in(*bytes);
  if (!found) return not_understood("itself");
  return found;
}

Result<std::uint64_t> epoch(const MetaStore& store) {
  BTD_ASSIGN(const auto bytes, store.get(epoch_key()));
  if (!bytes) return std::uint64_t{0};
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(bytes->data(), bytes->data() + bytes->size(), number);
  if (error != std::errc{} || end != bytes->data() + bytes->size() || number == 0)
    return not_understood("the epoch");
  return number;
}

Result<std::vector<Member>> all_members(const MetaStore& store) {
  std::vector<Member> found;
  Status understood;
  BTD_TRY(store.scan(member_key(0), prefix_end(kMemberPrefix),
                     [&](std::string_view key, std::string_view value) {
                       const auto id = static_cast<NodeId>(rows::number_at(key, 1));
                       auto parsed = from_row(id, value);
                       if (parsed) {
                         found.push_back(*std::move(parsed));
                       } else {
                         understood = std::unexpected(std::move(parsed).error());
                       }
                       return understood.has_value();
                     }));
  BTD_TRY(understood);
  return found;
}

Result<std::vector<Member>> members(const MetaStore& store) {
  BTD_ASSIGN(std::vector<Member> all, all_members(store));
  std::erase_if(all, [](const Member& one) { return one.is_removed; });
  return all;
}

Result<std::optional<Member>> member(const MetaStore& store, NodeId node) {
  BTD_ASSIGN(const auto bytes, store.get(member_key(node)));
  if (!bytes) return std::optional<Member>{};
  BTD_ASSIGN(Member found, from_row(node, *bytes));
  return found.is_removed ? std::nullopt : std::optional(std::move(found));
}

Result<Member> enter(MetaStore& store, Member self, Entry entry) {
  return with_retries([&] { return enter_once(store, self, entry); });
}

Status leave(MetaStore& store, NodeId node) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const auto bytes, store.get(member_key(node)));
    if (!bytes) return {};
    BTD_ASSIGN(Member self, from_row(node, *bytes));
    if (!self.is_mounted) return {};
    Batch batch;
    batch.require(member_key(node), *bytes);
    self.is_mounted = false;
    self.since_ns = Timestamp::now().nanoseconds;
    batch.put(member_key(node), to_row(self));
    return store.commit(batch);
  });
}

Status set_draining(MetaStore& store, NodeId node, bool is_draining) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const auto bytes, store.get(member_key(node)));
    if (!bytes) return fail(ENOENT, "there is no such node");
    BTD_ASSIGN(Member found, from_row(node, *bytes));
    if (found.is_removed) return fail(ENOENT, "there is no such node");
    if (found.is_draining == is_draining) return {};
    found.is_draining = is_draining;
    Batch batch;
    batch.require(member_key(node), *bytes);
    batch.put(member_key(node), to_row(found));
    return store.commit(batch);
  });
}

Status remove(MetaStore& store, NodeId node) {
  return with_retries([&]() -> Status {
    BTD_ASSIGN(const std::uint64_t now, epoch(store));
    BTD_ASSIGN(const auto bytes, store.get(member_key(node)));
    if (!bytes) return fail(ENOENT, "there is no such node");
    BTD_ASSIGN(Member found, from_row(node, *bytes));
    if (found.is_removed) return fail(ENOENT, "there is no such node");
    if (found.is_mounted) return fail(EBUSY, "the node is mounted; unmount it first");
    found.is_removed = true;
    found.since_ns = Timestamp::now().nanoseconds;
    Batch batch;
    batch.require(member_key(node), *bytes);
    batch.put(member_key(node), to_row(found));
    move_epoch_on(batch, now);
    return store.commit(batch);
  });
}

}  // namespace btd::cluster
