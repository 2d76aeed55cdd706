// What the engines of MetaStore share: the limits of a batch, and which of its changes count.
// Pure functions.
#pragma once

#include <string_view>
#include <vector>

#include "alloc/metastore.h"

namespace btd {

[[nodiscard]] Status check_key(std::string_view key);  // EINVAL
[[nodiscard]] Status check_batch(const Batch& batch);  // EINVAL, E2BIG
[[nodiscard]] Status requirement_failed();             // EAGAIN

// Appends to `out` the changes that count: for a key named twice only the last one. In the order of
// the batch.
void effective_changes(const Batch& batch, std::vector<const Batch::Change*>& out);

}  // namespace btd
