// Kernel: what the clients need of this node's kernel. The owner implements it, on FUSE or for a
// test.
//
// Called on the engine's thread, and never blocks it; what takes long is answered by Clients::ask()
// from any thread.
#pragma once

#include <span>

#include "fs/coherence/types.h"
#include "fs/namespace/inode.h"

namespace btd::coherent {

class Kernel {
 public:
  virtual ~Kernel() = default;

  // What a request waits for: contents of a fill or a read, else nothing.
  virtual void answer(coherence::Request request, int error,
                      std::span<const std::byte> contents) = 0;
  // An open succeeded, of a file that has this size now.
  virtual void opened(coherence::Request request, std::uint64_t bytes) = 0;
  // Drops the page, which may block for as long as other requests do, then looks whether it is
  // cached: Ask::kDropped. `again`: the last attempt did not drop it.
  virtual void drop(InodeId id, coherence::Page page, coherence::Notice notice, bool again) = 0;
  // Drops all pages: Ask::kAllDropped.
  virtual void drop_all(InodeId id) = 0;
  // Takes the file's size: Ask::kSized.
  virtual void resize(InodeId id, coherence::Version version) = 0;
};

}  // namespace btd::coherent
