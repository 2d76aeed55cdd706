// LockRecords: the locks of this node's programs in the memory that outlives a worker
// (state_layout.h). A worker may be killed at any store: a record is written in full before it
// counts, and an owner's new ones count before its old ones end. So the next worker finds at least
// what was granted, and the request that was under way is sent again.
// Thread-safety: any thread, but take_over().
#pragma once

#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "fs/daemon/state_layout.h"
#include "fs/remote/lock_memory.h"

namespace btd {

class LockRecords final : public remote::LockMemory {
 public:
  // The two outlive this.
  LockRecords(LockRecord* records, StateHeader& header);

  // What the last worker left; it stays until keep() says otherwise.
  [[nodiscard]] std::vector<remote::KeptLock> take_over();

  bool has_room() override;
  void keep(InodeId id, std::uint64_t owner, const std::vector<remote::KeptLock>& locks) override;
  void note_peers() override;

 private:
  LockRecord* const records_;
  StateHeader& header_;
  std::mutex mutex_;
  std::vector<std::size_t> free_;
  std::map<std::pair<InodeId, std::uint64_t>, std::vector<std::size_t>> used_;  // by owners
};

}  // namespace btd
