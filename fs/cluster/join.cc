#include "fs/cluster/join.h"

#include <fmt/format.h>

#include "fs/namespace/namespace.h"

namespace btd::cluster {
namespace {

// Of one commit; etcd answers it in a few milliseconds.
constexpr std::size_t kRows = 100;
constexpr std::size_t kBytes = kMaxBatchBytes / 2;

rows::Key pool_member_key() { return rows::Key('m').name("member"); }
// Which pool has begun to found the cluster.
rows::Key founder_key() { return rows::Key('m').name("founder"); }

std::unexpected<Error> of_another(const std::string& pool, const Identity& own,
                                  const Options& options) {
  return fail(EINVAL, fmt::format("the pool {} belongs to the cluster '{}' ({}), not to this '{}'",
                                  pool, own.name, own.uuid, options.name));
}

Status mark(MetaStore& pool, const Identity& cluster) {
  Batch batch;
  batch.put(pool_member_key(), to_row(cluster));
  return pool.commit(batch);
}

// The cluster that is begun: as an earlier attempt began it, or a new one.
Result<Identity> begin(Pool& pool, MetaStore& store, const Options& options,
                       const std::optional<Identity>& own) {
  const PoolFacts& facts = pool.facts();
  BTD_ASSIGN(const auto founder, store.get(founder_key()));
  if (founder && *founder != facts.uuid)
    return fail(EBUSY,
                fmt::format("another pool ({}) has begun to found the cluster '{}'; run `btd "
                            "cluster init` there again, or take another name",
                            *founder, options.name));
  if (!founder) {
    Batch batch;
    batch.require(founder_key(), std::nullopt);
    batch.put(founder_key(), facts.uuid);
    BTD_TRY(store.commit(batch));
  }
  if (own) return *own;
  Identity made{options.name, facts.uuid};
  BTD_TRY(mark(pool.meta(), made));
  return made;
}

// Results are of requests that ended with the last mount.
bool is_moved(std::string_view key) {
  return key != std::string_view(pool_member_key()) && !key.starts_with('r');
}

Result<std::uint64_t> move_rows(const MetaStore& from, MetaStore& to, const Progress& progress) {
  std::uint64_t moved = 0;
  std::string at(1, '\0');
  for (bool is_done = false; !is_done;) {
    Batch batch;
    std::size_t bytes = 0;
    is_done = true;
    BTD_TRY(from.scan(at, {}, [&](std::string_view key, std::string_view value) {
      if (batch.changes().size() == kRows || bytes + value.size() > kBytes) {
        at = key;
        return is_done = false;
      }
      if (is_moved(key)) batch.put(key, value);
      bytes += key.size() + value.size();
      return true;
    }));
    if (batch.empty()) continue;
    BTD_TRY(to.commit(batch));
    moved += batch.changes().size();
    if (progress) progress(moved);
  }
  return moved;
}

}  // namespace

Result<std::optional<Identity>> membership(const MetaStore& pool) {
  BTD_ASSIGN(const auto bytes, pool.get(pool_member_key()));
  if (!bytes) return std::optional<Identity>{};
  auto found = identity_in(*bytes);
  if (!found)
    return fail(EPROTO,
                "the pool's row of its cluster is not understood: another version of this "
                "program wrote it, or it is damaged");
  return found;
}

Status judge_alone(const MetaStore& pool, const std::string& path) {
  BTD_ASSIGN(const auto own, membership(pool));
  if (!own) return {};
  return fail(EINVAL, fmt::format("the pool {} belongs to the cluster '{}': the names of its files "
                                  "are there. Mount it with --cluster FILE",
                                  path, own->name));
}

Result<std::uint64_t> found(Pool& pool, MetaStore& store, const Options& options,
                            const Progress& progress) {
  BTD_ASSIGN(const auto there, identity(store));
  BTD_ASSIGN(const auto own, membership(pool.meta()));
  if (there)
    return fail(EEXIST, fmt::format("the cluster '{}' is founded already{}", options.name,
                                    own && own->uuid == there->uuid
                                        ? ", with this pool: mount it with --cluster FILE"
                                        : "; take another name, or join it with `btd mount "
                                          "--cluster FILE` and a fresh pool"));
  if (own && own->name != options.name) return of_another(pool.facts().path, *own, options);
  BTD_ASSIGN(const Identity cluster, begin(pool, store, options, own));
  BTD_ASSIGN(const std::uint64_t moved, move_rows(pool.meta(), store, progress));
  // Its node is the first, for the ids of its files say so; nobody else can enter yet.
  BTD_ASSIGN(const Member first, enter(store,
                                       {.name = options.node,
                                        .pool = pool.facts().uuid,
                                        .address = options.listen,
                                        .domain = options.domain,
                                        .capacity = pool.facts().capacity},
                                       Entry::kNewMount));
  BTD_TRY(leave(store, first.id));
  Batch last;
  last.require(cluster_key(), std::nullopt);
  last.put(cluster_key(), to_row(cluster));
  BTD_TRY(store.commit(last));
  return moved;
}

Result<Member> join(Pool& pool, MetaStore& store, const Options& options,
                    const std::string& version, Entry entry) {
  const PoolFacts& facts = pool.facts();
  BTD_ASSIGN(const auto there, identity(store));
  if (!there)
    return fail(ENOENT, fmt::format("there is no cluster '{}' in etcd; found it on one node with "
                                    "`btd cluster init --cluster FILE POOL`",
                                    options.name));
  BTD_ASSIGN(const auto own, membership(pool.meta()));
  if (own && own->uuid != there->uuid) return of_another(facts.path, *own, options);
  if (!own) {
    BTD_ASSIGN(const auto names, Namespace::open(pool.meta()));
    BTD_ASSIGN(const auto entries, names->list(kRootId, 0, 1));
    if (!entries.empty())
      return fail(EINVAL,
                  fmt::format("the pool {} has files of its own, which would be lost; only a "
                              "fresh pool can join a cluster that is founded",
                              facts.path));
    BTD_TRY(mark(pool.meta(), *there));
  }
  return enter(store,
               {.name = options.node,
                .pool = facts.uuid,
                .address = options.listen,
                .domain = options.domain,
                .capacity = facts.capacity,
                .version = version},
               entry);
}

}  // namespace btd::cluster
