// What requests do to files whose home is another node, in direct mode: reads and writes go there,
// and the kernel's pages are dropped at each open (close-to-open consistency).
#pragma once

#include <fuse_lowlevel.h>
#include <sys/stat.h>

#include "fs/daemon/server.h"

namespace btd::away {

// Errors of all: those of home, and ETIMEDOUT, EHOSTUNREACH: it does not answer.

// Opens it at home, empties it where O_TRUNC asks for that, and makes the kernel ask for its
// attributes again.
Status open(Server& s, const Inode& inode, const fuse_file_info& fi);
void answer_open(const Server& s, fuse_file_info& fi);
void release(Server& s, InodeId id);
Status flush(Server& s, InodeId id);
void read(fuse_req_t req, InodeId id, std::size_t size, off_t offset);
void write(fuse_req_t req, InodeId id, const char* bytes, std::size_t size, off_t offset,
           const fuse_file_info& fi);
Status change(Server& s, InodeId id, const struct stat& attr, int to_set, const timespec times[2]);

}  // namespace btd::away
