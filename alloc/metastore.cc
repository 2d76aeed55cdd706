// The parts of MetaStore that no engine decides: batches, their limits, and key ranges.
#include "alloc/metastore.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "alloc/metastore_engine.h"

namespace btd {

void Batch::require(std::string_view key, std::optional<std::string_view> value) {
  Requirement& r = requirements_.emplace_back();
  r.key = key;
  if (value) r.value.emplace(*value);
}

void Batch::put(std::string_view key, std::string_view value) {
  Change& c = changes_.emplace_back();
  c.key = key;
  c.value.emplace(value);
}

void Batch::erase(std::string_view key) { changes_.emplace_back().key = key; }

std::string prefix_end(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<unsigned char>(end.back()) == 0xff) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return end;
}

Status check_key(std::string_view key) {
  if (!key.empty() && key.size() <= kMaxKeyBytes) [[likely]]
    return {};
  return fail(EINVAL, "a key of " + std::to_string(key.size()) + " bytes: keys have 1 to " +
                          std::to_string(kMaxKeyBytes) + " bytes");
}

namespace {

Status check_value(const std::optional<std::string>& value) {
  if (!value || value->size() <= kMaxValueBytes) [[likely]]
    return {};
  return fail(EINVAL, "a value of " + std::to_string(value->size()) + " bytes: values have up to " +
                          std::to_string(kMaxValueBytes) + " bytes");
}

}  // namespace

Status check_batch(const Batch& batch) {
  if (batch.changes().size() > kMaxBatchChanges || batch.requirements().size() > kMaxBatchChanges)
    return fail(E2BIG, "a batch of " + std::to_string(batch.changes().size()) + " changes and " +
                           std::to_string(batch.requirements().size()) + " requirements: up to " +
                           std::to_string(kMaxBatchChanges) + " of each fit; split it");
  std::size_t bytes = 0;
  for (const auto& c : batch.changes()) {
    BTD_TRY(check_key(c.key));
    BTD_TRY(check_value(c.value));
    bytes += c.key.size() + (c.value ? c.value->size() : 0);
  }
  for (const auto& r : batch.requirements()) {
    BTD_TRY(check_key(r.key));
    BTD_TRY(check_value(r.value));
    bytes += r.key.size() + (r.value ? r.value->size() : 0);
  }
  if (bytes > kMaxBatchBytes)
    return fail(E2BIG, "a batch of " + std::to_string(bytes) + " bytes: up to " +
                           std::to_string(kMaxBatchBytes) + " fit; split it");
  return {};
}

Status requirement_failed() {
  return fail(EAGAIN, "a required value has changed: read again and retry");
}

void effective_changes(const Batch& batch, std::vector<const Batch::Change*>& out) {
  const auto& changes = batch.changes();
  constexpr std::size_t kQuadratic = 16;  // below this, comparing all pairs beats hashing
  const std::size_t begin = out.size();
  if (changes.size() <= kQuadratic) {
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const bool again =
          std::any_of(changes.begin() + static_cast<std::ptrdiff_t>(i) + 1, changes.end(),
                      [&](const auto& c) { return c.key == changes[i].key; });
      if (!again) out.push_back(&changes[i]);
    }
    return;
  }
  std::unordered_set<std::string_view> seen;
  for (auto it = changes.rbegin(); it != changes.rend(); ++it) {
    if (seen.insert(it->key).second) out.push_back(&*it);
  }
  std::reverse(out.begin() + static_cast<std::ptrdiff_t>(begin), out.end());
}

}  // namespace btd
