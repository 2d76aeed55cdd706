#include "net/verbs/flush.h"

#include <cerrno>
#include <utility>

namespace btd::net::verbs {

#ifdef BTD_HAVE_IBV_WR_FLUSH

namespace {

// Of the kernel's interface (rdma/ib_user_verbs.h); the library passes them on and names them not.
constexpr std::uint64_t kDeviceFlushGlobal = std::uint64_t{1} << 38;
constexpr std::uint64_t kDeviceFlushPersistent = std::uint64_t{1} << 39;

// Lists are left to ibv_post_send(): Soft-RoCE's driver counts the bytes of their first segment
// only (rdma-core 56).
bool is_short(const ibv_send_wr& request) { return request.num_sge <= 1; }

void set_bytes(ibv_qp_ex* pair, const ibv_send_wr& request) {
  if (request.num_sge == 0) return ibv_wr_set_sge_list(pair, 0, request.sg_list);
  const ibv_sge& segment = request.sg_list[0];
  if ((request.send_flags & IBV_SEND_INLINE) != 0)
    return ibv_wr_set_inline_data(pair, reinterpret_cast<void*>(segment.addr), segment.length);
  ibv_wr_set_sge(pair, segment.lkey, segment.addr, segment.length);
}

void add(ibv_qp_ex* pair, const ibv_send_wr& request) {
  const auto& at = request.wr.rdma;
  pair->wr_id = request.wr_id;
  pair->wr_flags = request.send_flags;
  switch (request.opcode) {
    case IBV_WR_FLUSH:
      // The length and the kind are in its segment; it has no bytes here.
      return ibv_wr_flush(pair, at.rkey, at.remote_addr, request.sg_list->length,
                          static_cast<std::uint8_t>(request.sg_list->lkey), IBV_FLUSH_RANGE);
    case IBV_WR_RDMA_WRITE:
      ibv_wr_rdma_write(pair, at.rkey, at.remote_addr);
      break;
    case IBV_WR_RDMA_READ:
      ibv_wr_rdma_read(pair, at.rkey, at.remote_addr);
      break;
    default:
      ibv_wr_send_imm(pair, request.imm_data);
  }
  set_bytes(pair, request);
}

int post_short(ibv_qp* pair, const ibv_send_wr* first) {
  ibv_qp_ex* const extended = ibv_qp_to_qp_ex(pair);
  ibv_wr_start(extended);
  for (; first != nullptr; first = first->next) add(extended, *first);
  return ibv_wr_complete(extended);
}

}  // namespace

FlushAbility flush_ability(std::uint64_t capabilities) {
  return {.global = (capabilities & kDeviceFlushGlobal) != 0,
          .persistent = (capabilities & kDeviceFlushPersistent) != 0};
}

int flush_access(Flush flush) {
  return flush == Flush::kPersistent ? IBV_ACCESS_FLUSH_PERSISTENT
         : flush == Flush::kGlobal   ? IBV_ACCESS_FLUSH_GLOBAL
                                     : 0;
}

QueuePair make_flushing_pair(ibv_pd* domain, ibv_qp_init_attr& attributes) {
  ibv_qp_init_attr_ex wanted{};
  wanted.send_cq = attributes.send_cq;
  wanted.recv_cq = attributes.recv_cq;
  wanted.srq = attributes.srq;
  wanted.cap = attributes.cap;
  wanted.qp_type = attributes.qp_type;
  wanted.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
  wanted.pd = domain;
  wanted.send_ops_flags = IBV_QP_EX_WITH_SEND_WITH_IMM | IBV_QP_EX_WITH_RDMA_WRITE |
                          IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_FLUSH;
  QueuePair pair(ibv_create_qp_ex(domain->context, &wanted));
  if (pair) attributes.cap = wanted.cap;
  return pair;
}

void set_flush(ibv_send_wr& request, const RemoteRange& range, std::uint32_t length, Flush flush) {
  request.opcode = IBV_WR_FLUSH;
  request.num_sge = 0;
  request.wr.rdma.remote_addr = range.offset;
  request.wr.rdma.rkey = device_key(range.key).rkey;
  *request.sg_list = {
      .addr = 0,
      .length = length,
      .lkey = flush == Flush::kPersistent ? IBV_FLUSH_PERSISTENT : IBV_FLUSH_GLOBAL};
}

int post_with_flush(ibv_qp* pair, ibv_send_wr* first) {
  int error = 0;
  while (error == 0 && first != nullptr) {
    ibv_send_wr* last = first;
    while (last->next != nullptr && is_short(*last->next) == is_short(*first)) last = last->next;
    ibv_send_wr* const rest = std::exchange(last->next, nullptr);
    error = is_short(*first) ? post_short(pair, first) : ibv_post_send(pair, first, &last);
    first = rest;
  }
  return error;
}

bool is_flush_done(const ibv_wc& completion) {
  return completion.opcode == IBV_WC_FLUSH && completion.status == IBV_WC_SUCCESS;
}

#else

FlushAbility flush_ability(std::uint64_t /*capabilities*/) { return {}; }
int flush_access(Flush /*flush*/) { return 0; }
QueuePair make_flushing_pair(ibv_pd* /*domain*/, ibv_qp_init_attr& /*attributes*/) {
  errno = EOPNOTSUPP;
  return nullptr;
}
void set_flush(ibv_send_wr& /*request*/, const RemoteRange& /*range*/, std::uint32_t /*length*/,
               Flush /*flush*/) {}
int post_with_flush(ibv_qp* /*pair*/, ibv_send_wr* /*first*/) { return EOPNOTSUPP; }
bool is_flush_done(const ibv_wc& /*completion*/) { return false; }

#endif

}  // namespace btd::net::verbs
