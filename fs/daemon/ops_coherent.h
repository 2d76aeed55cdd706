// What requests do to coherent files: most are parked until the home has answered
// (fs/daemon/coherent_kernel.h). No handler here waits for another node.
#pragma once

#include <fuse_lowlevel.h>

#include "fs/daemon/coherent_kernel.h"

namespace btd::coherent_ops {

// Of a mount that is a node of a cluster; elsewhere such files are as direct ones.
[[nodiscard]] bool is_coherent(const Server& s, const Inode& inode);
[[nodiscard]] inline bool is_coherent(const fuse_file_info* fi) {
  return fi != nullptr && (fi->fh & kHandleCoherent) != 0;
}

// The inode that CoherentKernel has looked up so.
std::optional<InodeId> own_name(fuse_req_t req, std::uint64_t number);
void open(fuse_req_t req, const Inode& inode, const fuse_file_info& fi);
// Of an inode that was made for it, or that another node had made. `entry`: what it is answered.
void create(fuse_req_t req, const Inode& inode, const fuse_entry_param& entry,
            const fuse_file_info& fi, bool is_new);
void release(Server& s, InodeId id, const fuse_file_info& fi);
void read(fuse_req_t req, InodeId id, std::size_t size, off_t offset, const fuse_file_info& fi);
void write(fuse_req_t req, InodeId id, const char* bytes, std::size_t size, off_t offset,
           const fuse_file_info& fi);
void fsync(fuse_req_t req, InodeId id);
// Without KEEP_SIZE it grows; nothing else is supported.
void allocate(fuse_req_t req, InodeId id, int mode, off_t offset, off_t length);
// Sets the size, then goes on with `then` on a thread that may block.
void resize(fuse_req_t req, InodeId id, std::uint64_t size, std::function<void(fuse_req_t)> then);
void forgotten(Server& s, InodeId id);
// After another worker: what its kernel may have cached.
void recover(Server& s);

}  // namespace btd::coherent_ops
