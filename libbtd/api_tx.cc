// The C calls of contract T: one transaction for each thread, nested begins counted.
#include <algorithm>
#include <cstring>

#include "libbtd/cluster.h"
#include "libbtd/thread_state.h"

namespace btd {
namespace {

constexpr const char* kNoneOpen = "This thread has no transaction; call btd_tx_begin() first.";
constexpr const char* kAborted =
    "The transaction was aborted inside; end it with btd_tx_commit() or btd_tx_abort().";

int begin(btd_cluster* cluster) {
  ThreadTx& mine = this_thread_tx();
  btd_cluster* const open = mine.cluster.load(std::memory_order_relaxed);
  if (open == nullptr) {
    mine.tx.emplace(cluster->heap->begin());
    mine.cluster.store(cluster);
    mine.depth = 1;
    return 0;
  }
  if (open != cluster) {
    return failed(EINVAL, "This thread has a transaction on another heap; end that first.");
  }
  if (!mine.tx) return failed(ECANCELED, kAborted);
  ++mine.depth;
  return 0;
}

// The transaction that a call works on, or null and the error set.
ThreadTx* current() {
  ThreadTx& mine = this_thread_tx();
  if (mine.tx) [[likely]]
    return &mine;
  set_error(mine.depth == 0 ? EINVAL : ECANCELED, mine.depth == 0 ? kNoneOpen : kAborted);
  return nullptr;
}

// The same, where [at, at + bytes) lies in its heap; `off` becomes the offset of `at`.
ThreadTx* current_on(const void* at, std::size_t bytes, Offset& off) {
  ThreadTx* const mine = current();
  if (mine == nullptr) return nullptr;
  btd_cluster* const cluster = cluster_holding(at, bytes);
  if (cluster == nullptr) return nullptr;
  if (cluster != mine->cluster.load(std::memory_order_relaxed)) {
    set_error(EINVAL, "The address is in another heap than the transaction.");
    return nullptr;
  }
  off = cluster->offset_of(at);
  if (!may_store(*cluster, off, bytes)) [[unlikely]] {
    set_error(EINVAL, "The range is not inside the bytes that were asked for of a block.");
    return nullptr;
  }
  return mine;
}

// Null where nobody listens.
Memcheck* memcheck_of(const ThreadTx& mine) {
  return mine.cluster.load(std::memory_order_relaxed)->watching.memcheck.get();
}

// The outermost level ends.
int finish(ThreadTx& mine, Status status) {
  mine.tx.reset();
  mine.told.end(memcheck_of(mine), status.has_value());
  mine.depth = 0;
  mine.cluster.store(nullptr);
  mine.result = status ? 0 : status.error().code;
  return to_int(status);
}

int commit() {
  ThreadTx& mine = this_thread_tx();
  if (mine.depth == 0) return failed(EINVAL, kNoneOpen);
  if (mine.depth > 1) {
    --mine.depth;
    return mine.tx ? 0 : failed(ECANCELED, "The transaction was aborted inside.");
  }
  if (!mine.tx) return finish(mine, fail(ECANCELED, "The transaction was aborted inside."));
  return finish(mine, mine.tx->commit());
}

int abort() {
  ThreadTx& mine = this_thread_tx();
  if (mine.depth == 0) return failed(EINVAL, kNoneOpen);
  mine.tx.reset();  // all of it, at any depth
  mine.told.end(memcheck_of(mine), false);
  if (--mine.depth > 0) return 0;
  mine.cluster.store(nullptr);
  mine.result = ECANCELED;
  return 0;
}

void note_stored(ThreadTx& mine, Offset at, std::size_t bytes) {
  if (memcheck_of(mine) != nullptr) mine.told.stored.emplace_back(at, bytes);
}

// A few words one by one, each as the transaction has it with the new bytes in it: so a word may
// lie inside a working copy or not, and be set again. More of them as one working copy.
int set(void* at, const void* from, std::size_t bytes) {
  constexpr std::size_t kFewWords = 8;
  Offset off = 0;
  ThreadTx* const mine = current_on(at, bytes, off);
  if (mine == nullptr) return -1;
  note_stored(*mine, off, bytes);
  const Offset first = off / kWordBytes * kWordBytes;
  if (off + bytes - first > kFewWords * kWordBytes) {
    const Result<std::byte*> copy = mine->tx->edit(first, off + bytes - first);
    if (!copy) return failed(copy.error());
    std::memcpy(*copy + (off - first), from, bytes);
    return 0;
  }
  const auto* source = static_cast<const std::byte*>(from);
  for (Offset to = off; to < off + bytes;) {
    const Offset word = to / kWordBytes * kWordBytes;
    const std::size_t part = std::min<std::size_t>(word + kWordBytes, off + bytes) - to;
    std::uint64_t value = 0;
    if (part < kWordBytes) {
      mine->tx->read(word, reinterpret_cast<std::byte*>(&value), kWordBytes);
    }
    std::memcpy(reinterpret_cast<std::byte*>(&value) + (to - word), source, part);
    const Status status = mine->tx->set(word, value);
    if (!status) return failed(status.error());
    source += part;
    to += part;
  }
  return 0;
}

}  // namespace
}  // namespace btd

using btd::guarded;

extern "C" {

int btd_tx_begin(struct btd_cluster* cluster) {
  if (!btd::usable(cluster)) return -1;
  return guarded(-1, [&] { return btd::begin(cluster); });
}

void* btd_tx_add(void* at, size_t bytes) {
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    btd::Offset off = 0;
    btd::ThreadTx* const mine = btd::current_on(at, bytes, off);
    if (mine == nullptr) return nullptr;
    const btd::Result<std::byte*> copy = mine->tx->edit(off, bytes);
    if (!copy) return btd::no_block(copy.error());
    btd::note_stored(*mine, off, bytes);
    return *copy;
  });
}

int btd_tx_set(void* at, const void* from, size_t bytes) {
  btd::annotate::needs(from, bytes);
  return guarded(-1, [&] { return btd::set(at, from, bytes); });
}

const void* btd_tx_get(const void* at) {
  const btd::ThreadTx& mine = btd::this_thread_tx();
  const btd_cluster* const cluster = mine.cluster.load(std::memory_order_relaxed);
  if (!mine.tx || btd::cluster_of(at) != cluster) return at;
  return mine.tx->view(cluster->offset_of(at));
}

void* btd_tx_read(void* to, const void* at, size_t bytes) {
  const btd::ThreadTx& mine = btd::this_thread_tx();
  const btd_cluster* const cluster = mine.cluster.load(std::memory_order_relaxed);
  if (!mine.tx || !cluster->holds(at, bytes)) {
    if (to != at) std::memmove(to, at, bytes);
  } else {
    mine.tx->read(cluster->offset_of(at), static_cast<std::byte*>(to), bytes);
  }
  return to;
}

void* btd_tx_alloc(size_t bytes) {
  const void* const caller = __builtin_return_address(0);
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    btd::ThreadTx* const mine = btd::current();
    if (mine == nullptr) return nullptr;
    btd_cluster* const cluster = mine->cluster.load();
    void* const block =
        btd::allocated(cluster, bytes, caller, [&](size_t size) { return mine->tx->alloc(size); });
    if (block != nullptr) mine->told.fresh.add(btd::memcheck_of(*mine), cluster->offset_of(block));
    return block;
  });
}

int btd_tx_free(void* block) {
  return guarded(-1, [&] {
    btd::Offset off = 0;
    btd::ThreadTx* const mine = btd::current_on(block, 1, off);
    if (mine == nullptr) return -1;
    const btd::Status freed = mine->tx->free(off);
    if (!freed) return btd::failed(freed.error());
    mine->told.freed.add(btd::memcheck_of(*mine), off);
    return 0;
  });
}

int btd_tx_commit(void) {
  return guarded(-1, [] { return btd::commit(); });
}

int btd_tx_abort(void) {
  return guarded(-1, [] { return btd::abort(); });
}

unsigned btd_tx_depth(void) { return btd::this_thread_tx().depth; }

int btd_tx_result(void) { return btd::this_thread_tx().result; }

int btd_tx_scope_next(struct btd_tx_scope* scope, struct btd_cluster* cluster) {
  if (scope->state == 0 && btd_tx_begin(cluster) == 0) {
    scope->state = 1;
    return 1;
  }
  if (scope->state == 0) {
    // A block that could not begin must not look as if it had committed.
    if (btd_tx_depth() == 0) btd::this_thread_tx().result = errno;
  } else if (scope->state == 1) {
    static_cast<void>(btd_tx_commit());
  }
  scope->state = 2;
  return 0;
}

void btd_tx_scope_end(struct btd_tx_scope* scope) {
  if (scope->state != 1) return;
  scope->state = 2;
  static_cast<void>(btd_tx_abort());
}

}  // extern "C"
