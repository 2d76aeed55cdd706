// How a pool comes into a cluster: the first one founds it, by moving its namespace into the
// cluster's store; others join. From then on the names of its files are the cluster's, and its own
// namespace is of no use: a row in the pool's store says so.
//
//   'm' "member"   JSON   in the pool's store: cluster (name), uuid
#pragma once

#include <functional>
#include <optional>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/cluster/members.h"
#include "fs/cluster/options.h"
#include "fs/pool/pool.h"

namespace btd::cluster {

// The cluster that a pool belongs to; nullopt: none.
Result<std::optional<Identity>> membership(const MetaStore& pool);
// Errors: EINVAL the pool belongs to a cluster, so it can't be used by itself; and what to do.
Status judge_alone(const MetaStore& pool, const std::string& path);

// Names found to be moved so far.
using Progress = std::function<void(std::uint64_t rows)>;

// Founds the cluster in `store` with the pool's namespace. Begun again after it was interrupted, it
// goes on. The value: rows moved. Errors: EEXIST there is a cluster of that name; EINVAL the pool
// belongs to another; EBUSY another pool has begun to found it.
Result<std::uint64_t> found(Pool& pool, MetaStore& store, const Options& options,
                            const Progress& progress);

// Makes the pool's node a member, that is mounted. Errors: ENOENT no cluster is founded there;
// EINVAL the pool belongs to another, or has files of its own; those of enter().
Result<Member> join(Pool& pool, MetaStore& store, const Options& options,
                    const std::string& version, Entry entry);

}  // namespace btd::cluster
