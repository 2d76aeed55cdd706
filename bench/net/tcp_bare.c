/* What TCP itself can do on this machine: the baseline of the tcp engine. Two processes, each on a
 * core of its own, on loopback, with the best settings for each case.
 *
 *   tcp_bare pingpong REQUEST REPLY SECONDS spin|sleep   a request of so many bytes, and its reply
 *   tcp_bare stream BYTES SECONDS                        one sender, so many bytes a call
 *
 * With TCP_BARE_ADDRESS=IPV4 and TCP_BARE_NETWORK=/run/netns/NAME the server is in that network
 * namespace, and the client where the program was started.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
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

enum { kWarmUpMilliseconds = 50, kMostSamples = 8 << 20 };

/* False: the peer has closed. */
static int take(int fd, char* to, size_t size, int flags) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = recv(fd, to + done, size - done, flags);
    if (n > 0) {
      done += (size_t)n;
    } else if (n == 0) {
      return 0;
    } else if (errno != EAGAIN && errno != EINTR) {
      return 0;
    }
  }
  return 1;
}

static void give(int fd, const char* from, size_t size, int flags) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = send(fd, from + done, size - done, flags | MSG_NOSIGNAL);
    if (n >= 0) {
      done += (size_t)n;
    } else if (errno != EAGAIN && errno != EINTR) {
      exit(0); /* the other has ended */
    }
  }
}

static int compare(const void* a, const void* b) {
  const uint32_t x = *(const uint32_t*)a, y = *(const uint32_t*)b;
  return x < y ? -1 : x > y;
}

static void ask(int fd, size_t request, size_t reply, double seconds, int flags) {
  char* bytes = calloc(1, request + reply);
  uint32_t* samples = malloc(kMostSamples * sizeof(*samples));
  size_t count = 0;
  if (!bytes || !samples) die("malloc");
  const uint64_t begin = now() + kWarmUpMilliseconds * 1000000U;
  const uint64_t end = begin + (uint64_t)(seconds * 1e9);
  for (uint64_t at = now(); at < end && count < kMostSamples;) {
    give(fd, bytes, request, flags);
    if (!take(fd, bytes, reply, flags)) die("recv");
    const uint64_t then = now();
    if (at >= begin) samples[count++] = (uint32_t)(then - at);
    at = then;
  }
  qsort(samples, count, sizeof(*samples), compare);
  printf("{\"p50\": %u, \"p99\": %u, \"count\": %zu}\n", samples[count / 2],
         samples[count * 99 / 100], count);
}

static void answer(int fd, size_t request, size_t reply, int flags) {
  char* bytes = calloc(1, request + reply);
  if (!bytes) die("malloc");
  while (take(fd, bytes, request, flags)) give(fd, bytes, reply, flags);
}

static void stream_from(int fd, size_t size) {
  char* bytes = calloc(1, size);
  if (!bytes) die("malloc");
  memset(bytes, 1, size);
  for (;;) give(fd, bytes, size, 0);
}

static void stream_to(int fd, size_t size, double seconds) {
  char* bytes = calloc(1, size);
  if (!bytes) die("malloc");
  memset(bytes, 1, size);
  const uint64_t begin = now() + kWarmUpMilliseconds * 1000000U;
  const uint64_t end = begin + (uint64_t)(seconds * 1e9);
  uint64_t sum = 0, at = now();
  while (at < end) {
    const ssize_t n = recv(fd, bytes, size, 0);
    if (n <= 0) die("recv");
    at = now();
    if (at >= begin) sum += (uint64_t)n;
  }
  printf("{\"bytes_per_second\": %.0f}\n", (double)sum / seconds);
}

/* Where the server listens: sockets stay in the network in which they were made. */
static int listen_at(struct sockaddr_in* address) {
  const char* network = getenv("TCP_BARE_NETWORK");
  const char* host = getenv("TCP_BARE_ADDRESS");
  const int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (network) {
    const int there = open(network, O_RDONLY | O_CLOEXEC);
    if (there < 0 || setns(there, CLONE_NEWNET) != 0) die(network);
    close(there);
  }
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  if (host && inet_pton(AF_INET, host, &address->sin_addr) != 1) die("TCP_BARE_ADDRESS");
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t size = sizeof(*address);
  if (bind(listener, (struct sockaddr*)address, size) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr*)address, &size) != 0)
    die("listen");
  if (network && setns(here, CLONE_NEWNET) != 0) die("setns");
  close(here);
  return listener;
}

int main(int argc, char** argv) {
  const int is_pingpong = argc == 6 && strcmp(argv[1], "pingpong") == 0;
  const int is_stream = argc == 4 && strcmp(argv[1], "stream") == 0;
  if (!is_pingpong && !is_stream) {
    fprintf(stderr,
            "usage: tcp_bare pingpong REQUEST REPLY SECONDS spin|sleep\n"
            "       tcp_bare stream BYTES SECONDS\n");
    return 64;
  }
  const size_t first = strtoul(argv[2], NULL, 10);
  const size_t second = is_pingpong ? strtoul(argv[3], NULL, 10) : 0;
  const double seconds = strtod(argv[is_pingpong ? 4 : 3], NULL);
  const int flags = is_pingpong && strcmp(argv[5], "spin") == 0 ? MSG_DONTWAIT : 0;
  const int one = 1;
  struct sockaddr_in address;
  const int listener = listen_at(&address);
  const pid_t server = fork();
  if (server < 0) die("fork");
  if (server == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!pin(0)) die("sched_setaffinity");
    const int fd = accept(listener, NULL, NULL);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (is_pingpong) {
      answer(fd, first, second, flags);
    } else {
      stream_from(fd, first);
    }
    return 0;
  }
  if (!pin(1)) die("sched_setaffinity");
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr*)&address, sizeof(address)) != 0) die("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (is_pingpong) {
    ask(fd, first, second, seconds, flags);
  } else {
    stream_to(fd, first, seconds);
  }
  close(fd);
  waitpid(server, NULL, 0);
  return 0;
}
