// The call that a peer of tests serves: counts how often it ran, and says so.
#pragma once

#include "net/rpc.h"

namespace btd::net::remote {

struct CountRequest {
  std::uint64_t number = 0;
};
struct CountResponse {
  std::uint64_t number = 0;  // as it was asked
  std::uint64_t runs = 0;    // with this one
};
inline constexpr Method<CountRequest, CountResponse> kCount{.id = 1, .version = 1};

}  // namespace btd::net::remote
