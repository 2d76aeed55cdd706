// HomeFiles: what the service of a home needs of the files that lie here. The owner implements it.
//
// Thread-safety: called from several threads at once. Calls may block, since they come from an
// engine's thread only while the service ends.
#pragma once

#include <cstdint>

#include "alloc/result.h"
#include "alloc/unique_fd.h"
#include "fs/namespace/inode.h"

namespace btd::remote {

class HomeFiles {
 public:
  virtual ~HomeFiles() = default;

  // The backing file, for reading and writing. Errors: ESTALE, ENOENT the data are gone.
  virtual Result<UniqueFd> open(InodeId id) = 0;

  // A peer has it open: its data stay until as many unhold(). Errors: ESTALE they are gone.
  virtual Status hold(InodeId id) = 0;
  virtual void unhold(InodeId id) = 0;

  // It is opened for writing: holes are filled unless they are meant, so that a store into them
  // finds its room, and a file without holes is reached one-sided. Errors: ENOSPC.
  virtual Status prepare(InodeId id, int fd) = 0;

  // As for a local program: growth reserves its space unless the inode is sparse, and a hole that
  // is punched is remembered as meant (fs/daemon/space.h).
  virtual Status resize(InodeId id, int fd, std::uint64_t size) = 0;
  virtual Status allocate(InodeId id, int fd, int mode, std::uint64_t offset,
                          std::uint64_t length) = 0;

  // All that was written is durable, also through mappings.
  virtual Status sync(InodeId id, int fd, bool data_only) = 0;

  // Of a move (fs/cluster/move.h). Errors: ETXTBSY somebody uses the file; EAGAIN it is not known
  // yet who does; ECONNABORTED somebody used it since reserve(); those of cluster::commit_move().
  // used(): a client has opened it that had not before.
  virtual Status reserve(InodeId id, std::uint64_t number) = 0;
  virtual void used(InodeId id) = 0;
  virtual Status yield(InodeId id, std::uint64_t number, NodeId to) = 0;

  // Bytes that the pool has room for.
  virtual Result<std::uint64_t> room() = 0;

  // Bytes were written, or may have been: its privilege bits are to be dropped.
  virtual Status wrote(InodeId id) = 0;
  // Its size or times are others than before: who has them from earlier is to ask again.
  virtual void changed(InodeId /*id*/) {}
};

}  // namespace btd::remote
