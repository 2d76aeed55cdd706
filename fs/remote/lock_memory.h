// LockMemory: where a node's locks outlive the process that keeps them. Its owner implements it.
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "fs/remote/lock_table.h"

namespace btd::remote {

// A lock that a program of this node has, or had: `is_lost`. With the id 0 it is none, but says as
// which `client` the home `owner` knows this node: what an earlier process waited for is to end.
struct KeptLock {
  InodeId id = 0;
  std::uint64_t owner = 0;
  std::uint64_t handle = 0;  // of an open file by which it was asked for
  std::uint64_t client = 0;  // under which its home knows it
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint32_t pid = 0;
  LockKind kind = LockKind::kRecord;
  bool is_exclusive = false;
  bool is_lost = false;
};

class LockMemory {
 public:
  virtual ~LockMemory() = default;
  // False: there is room for no more locks than those that are being asked for.
  virtual bool has_room() = 0;
  // These are all that the owner has in the file now.
  virtual void keep(InodeId id, std::uint64_t owner, const std::vector<KeptLock>& locks) = 0;
  // Peers lock files of this home, so one that replaces this process must hear of them.
  virtual void note_peers() = 0;
};

}  // namespace btd::remote
