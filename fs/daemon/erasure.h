// Erasure: the rows of removed files go when it is durable that their data is gone.
//
// A file system writes a removal late. If the row went first, a loss of power would bring back a
// backing file that no row leads to; as long as the row is there, it is that of an orphan, which
// the next start removes again. Where nothing outlives the machine, rows go at once.
//
// Thread-safety: any thread may add. No lock is held while the medium is waited for.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/namespace/namespace.h"
#include "fs/pool/pool.h"

namespace btd {

class Erasure {
 public:
  // `later`: a commit takes long, so nobody waits for one.
  Erasure(Namespace& names, const BackingStore& backing, bool later);
  ~Erasure();  // erases all that waits
  Erasure(const Erasure&) = delete;
  Erasure& operator=(const Erasure&) = delete;

  // The backing file of orphan `id` was removed. Waits where very many wait already.
  void add(InodeId id);

 private:
  void loop();
  void erase(const std::vector<InodeId>& ids);

  Namespace& names_;
  const BackingStore& backing_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<InodeId> waiting_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace btd
