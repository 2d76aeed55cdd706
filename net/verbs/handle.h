// Owners of what libibverbs and librdmacm give out: freed in the order that C++ destroys members.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <memory>

namespace btd::net::verbs {

template <auto F>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    static_cast<void>(F(object));
  }
};

using Domain = std::unique_ptr<ibv_pd, Deleter<ibv_dealloc_pd>>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, Deleter<ibv_destroy_comp_channel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, Deleter<ibv_destroy_cq>>;
using SharedQueue = std::unique_ptr<ibv_srq, Deleter<ibv_destroy_srq>>;
using QueuePair = std::unique_ptr<ibv_qp, Deleter<ibv_destroy_qp>>;
using Memory = std::unique_ptr<ibv_mr, Deleter<ibv_dereg_mr>>;
using EventChannel = std::unique_ptr<rdma_event_channel, Deleter<rdma_destroy_event_channel>>;
using ConnectionId = std::unique_ptr<rdma_cm_id, Deleter<rdma_destroy_id>>;

}  // namespace btd::net::verbs
