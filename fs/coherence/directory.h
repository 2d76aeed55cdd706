// One page in the home's directory, and what happens to it: functions old -> new.
#pragma once

#include "fs/coherence/types.h"

namespace btd::coherence {

// Invariant: kOwned has an owner and no sharers; kShared has sharers; kNone has neither. Who is
// listed may have dropped the page already: a kernel does not tell of clean pages that it reclaims.
struct Entry {
  Rights state = Rights::kNone;
  NodeSlot owner = 0;    // of kOwned
  NodeSet sharers;       // of kShared
  NodeSet awaited;       // nodes whose acknowledgement of the recall `version` is missing
  Version version = 0;   // of the running recall
  Time granted_at{};     // the last time that a node got it
  bool is_lost = false;  // its owner was fenced: what it stored last is not here
  bool is_cut = false;   // a resize cut it off: until the recall is over, nothing is stored into it

  friend bool operator==(const Entry&, const Entry&) = default;
};

[[nodiscard]] constexpr NodeSet holders(const Entry& entry) {
  return entry.state == Rights::kOwned ? NodeSet::of(entry.owner) : entry.sharers;
}

[[nodiscard]] constexpr bool is_owner(const Entry& entry, NodeSlot node) {
  return entry.state == Rights::kOwned && entry.owner == node;
}

// Nothing is known of it that an absent entry would not say.
[[nodiscard]] constexpr bool is_idle(const Entry& entry) {
  return entry.state == Rights::kNone && entry.awaited.empty() && !entry.is_lost;
}

[[nodiscard]] constexpr Entry recalled(Entry entry, NodeSet from, Version version) {
  entry.awaited = from;
  entry.version = version;
  return entry;
}

// `node` holds nothing of it any more.
[[nodiscard]] constexpr Entry dropped(Entry entry, NodeSlot node) {
  if (is_owner(entry, node)) entry.state = Rights::kNone;
  entry.sharers = entry.sharers.without(node);
  if (entry.state == Rights::kShared && entry.sharers.empty()) entry.state = Rights::kNone;
  return entry;
}

[[nodiscard]] constexpr Entry shared_with(Entry entry, NodeSlot node) {
  entry.state = Rights::kShared;
  entry.sharers = entry.sharers.with(node);
  return entry;
}

[[nodiscard]] constexpr Entry owned_by(Entry entry, NodeSlot node) {
  entry.state = Rights::kOwned;
  entry.owner = node;
  entry.sharers = {};
  return entry;
}

[[nodiscard]] constexpr Entry acknowledged(Entry entry, NodeSlot node, Rights kept) {
  entry = dropped(entry, node);
  if (kept == Rights::kShared) entry = shared_with(entry, node);
  entry.awaited = entry.awaited.without(node);
  if (entry.awaited.empty()) {
    entry.version = 0;
    entry.is_cut = false;
  }
  return entry;
}

}  // namespace btd::coherence
