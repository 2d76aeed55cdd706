// What the command line asks a node: how it is (btd cluster health), and to take a file.
#pragma once

#include <cstdint>

#include "net/rpc.h"

namespace btd::cluster {

struct HealthRequest {
  std::uint64_t reserved = 0;
};
static_assert(sizeof(HealthRequest) == 8);

struct HealthResponse {  // the tail has the cluster's part of the status, as JSON
  std::uint64_t reserved = 0;
};
static_assert(sizeof(HealthResponse) == 8);

inline constexpr net::Method<HealthRequest, HealthResponse> kHealth{.id = 0x200};

// The node that is asked becomes the home of the file; answered when it is. Errors, with sentences
// for people: ETXTBSY somebody uses it; ECONNABORTED somebody used it meanwhile; ENOENT; ENOSPC;
// EHOSTUNREACH, ETIMEDOUT its home, or etcd; EBUSY too many are waiting.
struct BringRequest {
  std::uint64_t id = 0;
};
static_assert(sizeof(BringRequest) == 8);

struct BringResponse {
  std::uint64_t bytes = 0;      // of the file; 0: it was there already
  std::uint64_t available = 0;  // in the pool, now
};
static_assert(sizeof(BringResponse) == 16);

inline constexpr net::Method<BringRequest, BringResponse> kBring{.id = 0x201};

}  // namespace btd::cluster
