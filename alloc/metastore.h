// MetaStore: the ordered transactional map that holds the namespace.
//
// Keys and values are byte strings; keys are ordered as unsigned bytes. One engine lives in NVRAM
// (alloc/embedded_store.h), one in DRAM for tests (alloc/memory_store.h), one in etcd for a cluster
// (net/etcd/etcd_store.h). All pass the same conformance suite
// (tests/alloc/metastore_conformance.h); nothing above knows which it has.
//
// Contract T: a commit that returned ok is durable and whole; a commit cut by a crash is there
// whole or not at all. Thread-safety: every call may be made from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/result.h"

namespace btd {

// The limits that every engine must carry. A key has at least one byte. The batch limits are those
// that etcd carries by default (128 operations, requests of 1.5 MiB), less the one operation and
// the one compare with which its engine tells commits apart.
inline constexpr std::size_t kMaxKeyBytes = 512;
inline constexpr std::size_t kMaxValueBytes = 65536 + 64;
inline constexpr std::size_t kMaxBatchChanges = 127;  // and as many requirements
inline constexpr std::size_t kMaxBatchBytes = std::size_t{1}
                                              << 20;  // keys and values, requirements too

// What a commit requires and does. Requirements are checked, then all changes made, in one step.
class Batch {
 public:
  // The key must hold exactly `value`, or be absent where it is nullopt; else the commit fails
  // with EAGAIN and changes nothing.
  void require(std::string_view key, std::optional<std::string_view> value);
  void put(std::string_view key, std::string_view value);
  void erase(std::string_view key);  // an absent key is no error
  [[nodiscard]] bool empty() const { return changes_.empty(); }

  struct Requirement {
    std::string key;
    std::optional<std::string> value;
  };
  struct Change {
    std::string key;
    std::optional<std::string> value;  // nullopt erases
  };
  [[nodiscard]] const std::vector<Requirement>& requirements() const { return requirements_; }
  [[nodiscard]] const std::vector<Change>& changes() const { return changes_; }

 private:
  std::vector<Requirement> requirements_;
  std::vector<Change> changes_;  // a key named twice takes its last change
};

// What a watcher sees: every committed change under its prefix, in commit order. Erasing an absent
// key changes nothing and is no event.
struct WatchEvent {
  std::string key;
  std::optional<std::string> value;  // nullopt: erased
  // Before the change; nullopt: absent, or the change was under way when the watch began.
  std::optional<std::string> previous;
};

// A watch ends when its handle is destroyed; no event arrives after the destructor returned.
class WatchHandle {
 public:
  virtual ~WatchHandle() = default;
};

class MetaStore {
 public:
  using Visitor = std::function<bool(std::string_view key, std::string_view value)>;
  using Watcher = std::function<void(const WatchEvent&)>;

  struct Stats {
    std::uint64_t entries = 0;      // keys in the map
    std::uint64_t used_bytes = 0;   // of the store's memory, with its overhead
    std::uint64_t total_bytes = 0;  // of the store's memory at its present size
    std::uint64_t commits = 0;      // since open
    std::uint64_t fences = 0;       // since open
    std::uint64_t lines = 0;        // cache lines flushed since open
  };

  virtual ~MetaStore() = default;

  // The value of `key`, or nullopt. Errors: EINVAL for an empty key or one over kMaxKeyBytes, EIO
  // for damage.
  [[nodiscard]] virtual Result<std::optional<std::string>> get(std::string_view key) const = 0;

  // Calls `visit` in key order for from <= key < to (an empty `to`: to the end) until it returns
  // false. The views live for the call only. `visit` must not call the store.
  virtual Status scan(std::string_view from, std::string_view to, const Visitor& visit) const = 0;

  // Errors: EAGAIN a requirement does not hold; ENOSPC; E2BIG the batch exceeds the batch limits or
  // what one transaction can carry; EINVAL an empty key, a key or value over the limit. On error
  // nothing changed.
  virtual Status commit(const Batch& batch) = 0;

  // Events are delivered after the commit, outside the store's locks, and before commit() returns:
  // on the committing thread, or on one of the store's own where others commit too. A watcher may
  // call the store; a commit made by a watcher returns before its own events, which follow when the
  // watcher has returned.
  [[nodiscard]] virtual std::unique_ptr<WatchHandle> watch(std::string_view prefix,
                                                           Watcher watcher) = 0;

  [[nodiscard]] virtual Stats stats() const = 0;
};

// The smallest string greater than every string with this prefix; empty if there is none.
[[nodiscard]] std::string prefix_end(std::string_view prefix);

}  // namespace btd
