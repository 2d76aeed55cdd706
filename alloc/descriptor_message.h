// descriptor_message: one message on a Unix socket, and a descriptor with it.
//
// Both are one call of the system: EINTR is the caller's. Thread-safety: any thread.
#pragma once

#include <cstddef>
#include <span>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd {

// `fd` below 0: none goes along. `flags` as of sendmsg(2); no signal comes in any case. Errors:
// those of sendmsg.
Status send_message(int socket, std::span<const std::byte> bytes, int fd, int flags = 0);

// Fills `bytes` from its beginning, and `fd` if a descriptor came, which exec() closes. Returns how
// many bytes came; 0: the other end is closed. `flags` as of recvmsg(2). Errors: those of recvmsg.
Result<std::size_t> receive_message(int socket, std::span<std::byte> bytes, UniqueFd& fd,
                                    int flags = 0);

}  // namespace btd
