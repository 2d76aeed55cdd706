// The C calls of contract P: allocation and link in one durable step.
#include <array>
#include <cstring>
#include <memory>
#include <span>

#include "libbtd/cluster.h"

namespace btd {
namespace {

constexpr std::size_t kFewActions = 64;  // converted on the stack

// The journal stored to the word.
void note_stored(const btd_cluster& cluster, Offset word) {
  const Memcheck* const memcheck = cluster.watching.memcheck.get();
  if (memcheck != nullptr) memcheck->stored(word, kWordBytes);
}

void* malloc_to(void* dest, std::size_t bytes, const void* caller) {
  btd_cluster* const cluster = cluster_holding(dest, sizeof(void*));
  if (cluster == nullptr) return nullptr;
  void* const block = allocated(cluster, bytes, caller, [&](std::size_t size) {
    return cluster->heap->allocate_to(cluster->offset_of(dest), size);
  });
  if (block != nullptr) note_stored(*cluster, cluster->offset_of(dest));
  return block;
}

int free_from(void* dest) {
  btd_cluster* const cluster = cluster_holding(dest, sizeof(void*));
  if (cluster == nullptr) return -1;
  const Offset word = cluster->offset_of(dest);
  // Looked at only where it matters: a free that succeeds needs none of it.
  const auto readable = [&] {
    return word % kWordBytes == 0 && cluster->heap->block_of(word).segment != nullptr;
  };
  Memcheck* const memcheck = cluster->watching.memcheck.get();
  PendingFrees pending;
  if (memcheck != nullptr && readable())
    pending.add(memcheck, cluster->offset_of(*static_cast<void* const*>(dest)));
  const Status freed = cluster->heap->free_from(word);
  if (freed) {
    pending.done(memcheck);
    note_stored(*cluster, word);
    return 0;
  }
  // A NULL is nothing to free, as for free(3).
  if (readable() && *static_cast<void* const*>(dest) == nullptr) return 0;
  return failed(freed.error());
}

// False and the error set where it is no action of this heap.
bool convert(const btd_cluster& cluster, const btd_action& from, Heap::Action& to) {
  using Kind = Heap::Action::Kind;
  switch (from.kind) {
    case BTD_ACTION_ALLOCATE:
      to.kind = Kind::kAllocate;
      break;
    case BTD_ACTION_FREE:
      to.kind = Kind::kFree;
      break;
    case BTD_ACTION_SET:
      to.kind = Kind::kSet;
      break;
    default:
      set_error(EINVAL, "An action is BTD_ACTION_ALLOCATE, BTD_ACTION_FREE or BTD_ACTION_SET.");
      return false;
  }
  const btd_cluster* const owner = cluster_holding(from.at, sizeof(std::uint64_t));
  if (owner == &cluster) {
    to.at = cluster.offset_of(from.at);
    to.value = from.value;
    return true;
  }
  if (owner != nullptr) set_error(EINVAL, "An action is on another heap than the handle.");
  return false;
}

// The same, and Memcheck hears of it.
int publish_told(btd_cluster& cluster, Memcheck& memcheck, std::span<const Heap::Action> all) {
  PendingFrees pending;
  for (const Heap::Action& action : all) {
    if (action.kind == Heap::Action::Kind::kFree) pending.add(&memcheck, action.at);
  }
  const Status published = cluster.heap->publish(all);
  if (!published) return failed(published.error());
  pending.done(&memcheck);
  for (const Heap::Action& action : all) {
    if (action.kind == Heap::Action::Kind::kSet) memcheck.stored(action.at, kWordBytes);
  }
  return 0;
}

int publish(btd_cluster& cluster, std::span<const btd_action> actions) {
  std::array<Heap::Action, kFewActions> few;
  std::unique_ptr<Heap::Action[]> many;
  std::span<Heap::Action> all(few.data(), std::min(actions.size(), kFewActions));
  if (actions.size() > kFewActions) {
    many = std::make_unique<Heap::Action[]>(actions.size());
    all = {many.get(), actions.size()};
  }
  for (std::size_t i = 0; i < actions.size(); ++i) {
    if (!convert(cluster, actions[i], all[i])) return -1;
  }
  if (Memcheck* const memcheck = cluster.watching.memcheck.get(); memcheck != nullptr) [[unlikely]]
    return publish_told(cluster, *memcheck, all);
  return to_int(cluster.heap->publish(all));
}

}  // namespace
}  // namespace btd

using btd::guarded;

extern "C" {

void* btd_malloc_to(void* dest, size_t bytes) {
  const void* const caller = __builtin_return_address(0);
  return guarded(static_cast<void*>(nullptr), [&] { return btd::malloc_to(dest, bytes, caller); });
}

int btd_free_from(void* dest) {
  return guarded(-1, [&] { return btd::free_from(dest); });
}

void* btd_reserve(struct btd_cluster* cluster, size_t bytes) {
  if (!btd::usable(cluster)) return nullptr;
  const void* const caller = __builtin_return_address(0);
  return guarded(static_cast<void*>(nullptr), [&] {
    return btd::allocated(cluster, bytes, caller,
                          [&](size_t size) { return cluster->heap->reserve(size); });
  });
}

int btd_cancel(void* reserved) {
  return guarded(-1, [&] {
    btd_cluster* const cluster = btd::cluster_holding(reserved, 1);
    if (cluster == nullptr) return -1;
    btd::Memcheck* const memcheck = cluster->watching.memcheck.get();
    btd::PendingFrees pending;
    pending.add(memcheck, cluster->offset_of(reserved));
    const btd::Status cancelled = cluster->heap->cancel(cluster->offset_of(reserved));
    if (!cancelled) return btd::failed(cancelled.error());
    pending.done(memcheck);
    return 0;
  });
}

int btd_publish(struct btd_cluster* cluster, const struct btd_action* actions, size_t count) {
  if (!btd::usable(cluster)) return -1;
  return guarded(-1, [&] { return btd::publish(*cluster, {actions, count}); });
}

}  // extern "C"
