#include "libbtd/thread_state.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

#include "alloc/annotate.h"

namespace btd {
namespace {

// Never destroyed: threads end after static objects are gone.
struct Threads {
  std::mutex mutex;
  std::vector<ThreadTx*> all;
};
Threads& threads() {
  static Threads* const threads = new Threads;
  return *threads;
}

}  // namespace

ThreadTx::ThreadTx() {
  const std::lock_guard lock(threads().mutex);
  threads().all.push_back(this);
}

ThreadTx::~ThreadTx() {
  const annotate::Quiet quiet;
  tx.reset();
  cluster.store(nullptr);
  const std::lock_guard lock(threads().mutex);
  std::erase(threads().all, this);
}

ThreadTx& this_thread_tx() {
  thread_local ThreadTx mine;
  return mine;
}

bool in_transaction(const btd_cluster* cluster) {
  const std::lock_guard lock(threads().mutex);
  return std::any_of(threads().all.begin(), threads().all.end(),
                     [&](const ThreadTx* each) { return each->cluster.load() == cluster; });
}

std::mutex& thread_list_mutex() { return threads().mutex; }

void forget_transaction() {
  ThreadTx& mine = this_thread_tx();
  threads().all.assign(1, &mine);
  // Its memory stays: an abort would change the parent's heap.
  new (&mine.tx) std::optional<Tx>;
  mine.cluster.store(nullptr);
  mine.depth = 0;
  new (&mine.told) ToldOfTx;
}

}  // namespace btd
