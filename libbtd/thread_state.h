// ThreadTx: the transaction that a thread has open.
//
// Nested begins are counted; one heap transaction serves them all. Every thread that ever had one
// is in a list, so that closing a heap can see whether any is open, at no cost to those who begin
// one.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "alloc/heap.h"
#include "libbtd/memcheck.h"

struct btd_cluster;

namespace btd {

// What Memcheck is to hear of a transaction when it ends; empty where it does not listen.
struct ToldOfTx {
  PendingFrees fresh;  // the heap's again if it does not commit
  PendingFrees freed;  // if it does
  std::vector<std::pair<Offset, std::size_t>> stored;

  void end(Memcheck* memcheck, bool committed) {
    if (memcheck == nullptr) return;
    if (committed) {
      for (const auto& [at, bytes] : stored) memcheck->stored(at, bytes);
    }
    (committed ? freed : fresh).done(memcheck);
    freed.clear();
    fresh.clear();
    stored.clear();
  }
};

struct ThreadTx {
  ThreadTx();
  ~ThreadTx();  // aborts what is open
  ThreadTx(const ThreadTx&) = delete;
  ThreadTx& operator=(const ThreadTx&) = delete;

  std::atomic<btd_cluster*> cluster{nullptr};  // null: none is open
  std::optional<Tx> tx;                        // none, though one is open: it was aborted inside
  unsigned depth = 0;
  ToldOfTx told;
  int result = 0;  // of the last outermost one: 0, or an errno
};

[[nodiscard]] ThreadTx& this_thread_tx();
// Whether any thread has a transaction on the heap open.
[[nodiscard]] bool in_transaction(const btd_cluster* cluster);
// Held across a fork.
[[nodiscard]] std::mutex& thread_list_mutex();
// In a child after fork: nothing is open, and nothing of the parent's is touched.
void forget_transaction();

}  // namespace btd
