/* What RDMA itself can do on this device, as verbs_bench asks for it: the baseline of the verbs
 * engine. Two processes; both poll, and each operation is one ibv_post_send().
 *
 *   BTD_VERBS_ADDRESS=IP verbs_bare [ITERATIONS]
 *
 * read: one READ. write: one WRITE and its acknowledgement. write+read: a READ behind a WRITE.
 * write+ack: a SEND behind a WRITE, and the SEND that answers it. A line for each, as verbs_bench
 * prints it: name, size, the typical time and the 99th percentile in microseconds.
 */
#include <arpa/inet.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bare.h"

enum { kBytes = 1 << 20, kMessage = 48, kInline = 256, kDepth = 64, kReceives = 16, kWarmUp = 50 };

enum operation { READ, WRITE, WRITE_READ, WRITE_ACK, OPERATIONS };
static const char* const names[OPERATIONS] = {"bare-read", "bare-write", "bare-write+read",
                                              "bare-write+ack"};

/* What the server tells the client through a pipe. */
struct invitation {
  uint64_t address;
  uint32_t rkey;
  uint16_t port;
};

/* One side: its queue pair and memory. Messages are sent from and received at its end. */
struct side {
  struct rdma_cm_id* id;
  struct ibv_mr* memory;
  char* bytes;
};

static struct ibv_qp_init_attr attributes(void) {
  struct ibv_qp_init_attr wanted = {.qp_type = IBV_QPT_RC, .sq_sig_all = 0};
  wanted.cap.max_send_wr = wanted.cap.max_recv_wr = kDepth;
  wanted.cap.max_send_sge = wanted.cap.max_recv_sge = 1;
  wanted.cap.max_inline_data = kInline;
  return wanted;
}

/* A side of the address, passive if `flags` say so. */
static struct rdma_cm_id* make_id(const char* host, const char* port, int flags) {
  struct rdma_addrinfo hints = {.ai_port_space = RDMA_PS_TCP, .ai_flags = flags}, *found = NULL;
  if (rdma_getaddrinfo(host, port, &hints, &found) != 0) die("rdma_getaddrinfo");
  struct ibv_qp_init_attr wanted = attributes();
  struct rdma_cm_id* id = NULL;
  if (rdma_create_ep(&id, found, NULL, &wanted) != 0) die("rdma_create_ep");
  rdma_freeaddrinfo(found);
  return id;
}

static void post_receive(const struct side* side) {
  if (rdma_post_recv(side->id, NULL, side->bytes + kBytes - 4096, 4096, side->memory) != 0)
    die("rdma_post_recv");
}

static void make_memory(struct side* side) {
  side->bytes = aligned_alloc(4096, kBytes);
  if (!side->bytes) die("aligned_alloc");
  memset(side->bytes, 0, kBytes);
  side->memory =
      ibv_reg_mr(side->id->pd, side->bytes, kBytes,
                 IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
  if (!side->memory) die("ibv_reg_mr");
  for (int i = 0; i < kReceives; ++i) post_receive(side);
}

/* Polls until something completed there. */
static void await(struct ibv_cq* queue) {
  struct ibv_wc done;
  int count = 0;
  while (count == 0) count = ibv_poll_cq(queue, 1, &done);
  if (count < 0 || done.status != IBV_WC_SUCCESS) {
    fprintf(stderr, "verbs_bare: %s\n", count < 0 ? "ibv_poll_cq" : ibv_wc_status_str(done.status));
    exit(1);
  }
}

static struct ibv_send_wr message(struct ibv_sge* piece, const struct side* side) {
  *piece = (struct ibv_sge){.addr = (uintptr_t)side->bytes, .length = kMessage};
  return (struct ibv_send_wr){
      .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_INLINE, .sg_list = piece, .num_sge = 1};
}

static void post(const struct side* side, struct ibv_send_wr* first) {
  struct ibv_send_wr* bad = NULL;
  if (ibv_post_send(side->id->qp, first, &bad) != 0) die("ibv_post_send");
}

/* Answers each message, and polls for them: as long as nobody sends any, it sleeps before that. */
static void answer_all(const struct side* side, int from) {
  char begin = 0;
  if (read(from, &begin, 1) != 1) return; /* the client has ended */
  for (uint32_t count = 1;; ++count) {
    await(side->id->recv_cq);
    post_receive(side);
    struct ibv_sge piece;
    struct ibv_send_wr answer = message(&piece, side);
    const int is_signalled = count % kReceives == 0;
    if (is_signalled) answer.send_flags |= IBV_SEND_SIGNALED;
    post(side, &answer);
    if (is_signalled) await(side->id->send_cq);
  }
}

static void serve(const char* host, int client) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pin(0);
  struct rdma_cm_id* listener = make_id(host, "0", RAI_PASSIVE);
  if (rdma_listen(listener, 1) != 0) die("rdma_listen");
  struct invitation invitation = {.port = ntohs(rdma_get_src_port(listener))};
  if (write(client, &invitation, sizeof(invitation)) < 0) die("write");
  struct side side = {0};
  if (rdma_get_request(listener, &side.id) != 0) die("rdma_get_request");
  make_memory(&side);
  if (rdma_accept(side.id, NULL) != 0) die("rdma_accept");
  invitation.address = (uintptr_t)side.bytes;
  invitation.rkey = side.memory->rkey;
  if (write(client, &invitation, sizeof(invitation)) < 0) die("write");
  answer_all(&side, client);
  exit(0);
}

static struct ibv_send_wr transfer(struct ibv_sge* piece, const struct side* side,
                                   const struct invitation* to, enum ibv_wr_opcode opcode,
                                   uint32_t size) {
  *piece =
      (struct ibv_sge){.addr = (uintptr_t)side->bytes, .length = size, .lkey = side->memory->lkey};
  struct ibv_send_wr request = {.opcode = opcode, .sg_list = piece, .num_sge = 1};
  if (opcode == IBV_WR_RDMA_WRITE && size <= kInline) request.send_flags = IBV_SEND_INLINE;
  request.wr.rdma.remote_addr = to->address;
  request.wr.rdma.rkey = to->rkey;
  return request;
}

/* One operation, from before it is posted until it is known to be done. */
static uint64_t once(const struct side* side, const struct invitation* to, enum operation what,
                     uint32_t size) {
  struct ibv_sge first_piece, second_piece;
  const uint64_t begin = now();
  struct ibv_send_wr second,
      first = transfer(&first_piece, side, to, what == READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
                       size);
  if (what == WRITE_READ) {
    second = transfer(&second_piece, side, to, IBV_WR_RDMA_READ, 8);
    second.wr.rdma.remote_addr += size - 8;
  } else if (what == WRITE_ACK) {
    second = message(&second_piece, side);
  }
  struct ibv_send_wr* last = what == WRITE_READ || what == WRITE_ACK ? &second : &first;
  if (last != &first) first.next = last;
  last->send_flags |= IBV_SEND_SIGNALED;
  post(side, &first);
  await(side->id->send_cq);
  if (what == WRITE_ACK) await(side->id->recv_cq);
  const uint64_t took = now() - begin;
  if (what == WRITE_ACK) post_receive(side);
  return took;
}

static int compare(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static void measure(const struct side* side, const struct invitation* to, enum operation what,
                    uint32_t size, size_t iterations) {
  uint64_t* times = malloc(iterations * sizeof(*times));
  if (!times) die("malloc");
  for (int i = 0; i < kWarmUp; ++i) once(side, to, what, size);
  for (size_t i = 0; i < iterations; ++i) times[i] = once(side, to, what, size);
  qsort(times, iterations, sizeof(*times), compare);
  printf("%-16s %6u %10.2f %10.2f\n", names[what], size, (double)times[iterations / 2] / 1000,
         (double)times[iterations * 99 / 100] / 1000);
  fflush(stdout);
  free(times);
}

int main(int argc, char** argv) {
  const char* host = getenv("BTD_VERBS_ADDRESS");
  const long iterations = argc > 1 ? strtol(argv[1], NULL, 10) : 2000;
  if (!host || iterations < 1) {
    fprintf(stderr, "usage: BTD_VERBS_ADDRESS=IP verbs_bare [ITERATIONS]\n");
    return 64;
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) die("socketpair");
  /* Before this process opens the device: what one opened is not for another. */
  if (fork() == 0) {
    close(ends[0]);
    serve(host, ends[1]);
  }
  close(ends[1]);
  pin(1); /* where there are two */
  struct invitation invitation;
  if (read(ends[0], &invitation, sizeof(invitation)) != sizeof(invitation)) return 1;
  char port[8];
  snprintf(port, sizeof(port), "%u", invitation.port);
  struct side side = {.id = make_id(host, port, 0)};
  make_memory(&side);
  if (rdma_connect(side.id, NULL) != 0) die("rdma_connect");
  if (read(ends[0], &invitation, sizeof(invitation)) != sizeof(invitation)) return 1;
  for (int what = 0; what < OPERATIONS; ++what) {
    if (what == WRITE_ACK && write(ends[0], "", 1) != 1) die("write");
    measure(&side, &invitation, what, 64, (size_t)iterations);
    measure(&side, &invitation, what, 4096, (size_t)iterations);
  }
  return 0;
}
