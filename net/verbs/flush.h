// The NICs' own flush: a request behind a write, whose completion says that the write is durable or
// visible at the peer, without a processor of its. All that depends on whether the library has
// ibv_wr_flush (rdma-core 45 and newer) is here; where it has not, no device is able to anything.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>

#include "net/verbs/handle.h"
#include "net/verbs/rules.h"

namespace btd::net::verbs {

// `capabilities`: ibv_device_attr_ex::device_cap_flags_ex. Whether the driver can, too, only a
// queue pair tells.
[[nodiscard]] FlushAbility flush_ability(std::uint64_t capabilities);
// Flags (IBV_ACCESS_FLUSH_*) with which a region or a queue pair accepts it.
[[nodiscard]] int flush_access(Flush flush);

// A queue pair that can post it; null, with errno, where library or driver can't. `attributes` has
// afterwards what was granted.
[[nodiscard]] QueuePair make_flushing_pair(ibv_pd* domain, ibv_qp_init_attr& attributes);

// Makes `request`, with one segment of space for its own use, a flush of these bytes at the peer.
void set_flush(ibv_send_wr& request, const RemoteRange& range, std::uint32_t length, Flush flush);
// ibv_post_send() on a flushing pair, of requests among which may be flushes. Their chain is cut.
// Errors: an errno.
[[nodiscard]] int post_with_flush(ibv_qp* pair, ibv_send_wr* first);
// Whether a completion says that the device has done one.
[[nodiscard]] bool is_flush_done(const ibv_wc& completion);

}  // namespace btd::net::verbs
