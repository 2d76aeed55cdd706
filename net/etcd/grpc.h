// The watch by gRPC: what is said to etcd and what its messages mean. Pure functions: any bytes
// give a value or EPROTO.
//
// etcd's JSON gateway is a client of its gRPC service: each message of a watch would be made,
// carried and read twice, and its text is twice as long. A watch hears of every change by every
// node, so it is what the gateway costs most for; commits go through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "alloc/result.h"
#include "net/etcd/wire.h"

namespace btd::net::etcd_grpc {

inline constexpr std::string_view kWatchPath = "/etcdserverpb.Watch/Watch";
// Before each message: whether it is compressed, and its length.
inline constexpr std::size_t kHeaderBytes = 5;

// A whole request, with its header.
[[nodiscard]] std::string watch(std::string_view from, std::string_view to, std::int64_t revision);

// The length of the message behind the header that `bytes` begin with. EPROTO: it is compressed,
// which nobody asked for.
[[nodiscard]] Result<std::size_t> message_bytes(std::string_view bytes);
// One message without its header. Keys lose the prefix.
[[nodiscard]] Result<EtcdWatchMessage> parse_watch(std::string_view message,
                                                   std::string_view prefix);

}  // namespace btd::net::etcd_grpc
