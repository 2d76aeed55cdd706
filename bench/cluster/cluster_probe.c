/* What a program sees of a file whose home is another node. All print JSON.
 *
 *   cluster_probe fault FILE SECONDS        faults on pages that are not here: p50 and p99
 *   cluster_probe scan FILE SECONDS         a mapping from begin to end, bytes a second
 *   cluster_probe read FILE SECONDS         read(2) of 1 MiB each, bytes a second
 *   cluster_probe create SECONDS DIR...     a thread for each directory makes files: a second
 *   cluster_probe visible FROM TO COUNT     changes made below FROM, until they show below TO
 *   cluster_probe stat FILE COUNT           so many stat(2) of one file, as fast as they go
 *   cluster_probe handover ONE OTHER COUNT  stores to one page through two mappings in turn
 *   cluster_probe owned FILE SECONDS        loads and stores of a page here, and of own memory
 *
 * Before each pass over a file it is opened anew, so that the kernel has none of its pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/net/bare.h"

enum { kPage = 4096, kBlock = 1 << 20, kMostSamples = 4 << 20, kPathBytes = 4096 };

static int compare(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return (x > y) - (x < y);
}

static void print_samples(uint64_t* samples, size_t count) {
  if (count == 0) {
    fprintf(stderr, "nothing was measured\n");
    exit(1);
  }
  qsort(samples, count, sizeof(*samples), compare);
  printf("{\"p50\": %lu, \"p99\": %lu, \"max\": %lu, \"count\": %zu}\n", samples[count / 2],
         samples[count * 99 / 100], samples[count - 1], count);
}

static uint64_t* make_samples(void) {
  uint64_t* samples = malloc(kMostSamples * sizeof(*samples));
  if (!samples) die("malloc");
  return samples;
}

struct Mapped {
  int fd;
  size_t bytes;
  const volatile char* at;
};

static struct Mapped map(const char* path, int advice) {
  struct Mapped file = {.fd = open(path, O_RDONLY)};
  struct stat st;
  if (file.fd < 0 || fstat(file.fd, &st) != 0) die(path);
  file.bytes = (size_t)st.st_size;
  void* at = mmap(NULL, file.bytes, PROT_READ, MAP_SHARED, file.fd, 0);
  if (at == MAP_FAILED || madvise(at, file.bytes, advice) != 0) die("mmap");
  file.at = at;
  return file;
}

static void unmap(struct Mapped* file) {
  munmap((void*)(uintptr_t)file->at, file->bytes);
  close(file->fd);
}

static uint64_t end_of(double seconds) { return now() + (uint64_t)(seconds * 1e9); }

static int fault(const char* path, double seconds) {
  uint64_t* samples = make_samples();
  size_t count = 0;
  for (const uint64_t end = end_of(seconds); now() < end && count < kMostSamples;) {
    struct Mapped file = map(path, MADV_RANDOM);
    uint64_t at = now();
    for (size_t i = 0; i < file.bytes && at < end && count < kMostSamples; i += kPage) {
      (void)file.at[i];
      const uint64_t then = now();
      samples[count++] = then - at;
      at = then;
    }
    unmap(&file);
  }
  print_samples(samples, count);
  return 0;
}

/* The time of opening is not in it. */
static int scan(const char* path, double seconds) {
  uint64_t bytes = 0, spent = 0;
  for (const uint64_t end = end_of(seconds); now() < end;) {
    struct Mapped file = map(path, MADV_SEQUENTIAL);
    const uint64_t at = now();
    for (size_t i = 0; i < file.bytes; i += kPage) (void)file.at[i];
    spent += now() - at;
    bytes += file.bytes;
    unmap(&file);
  }
  printf("{\"bytes_per_second\": %.0f}\n", (double)bytes * 1e9 / (double)spent);
  return 0;
}

static int read_all(const char* path, double seconds) {
  static char block[kBlock];
  uint64_t bytes = 0, spent = 0;
  for (const uint64_t end = end_of(seconds); now() < end;) {
    const int fd = open(path, O_RDONLY);
    if (fd < 0) die(path);
    const uint64_t at = now();
    for (ssize_t n = 0; (n = read(fd, block, sizeof(block))) != 0; bytes += (uint64_t)n)
      if (n < 0) die("read");
    spent += now() - at;
    close(fd);
  }
  printf("{\"bytes_per_second\": %.0f}\n", (double)bytes * 1e9 / (double)spent);
  return 0;
}

struct Maker {
  pthread_t thread;
  const char* directory;
  uint64_t end, made;
};

static void* make_files(void* argument) {
  struct Maker* maker = argument;
  char path[kPathBytes];
  for (; now() < maker->end; ++maker->made) {
    snprintf(path, sizeof(path), "%s/%d-%lu", maker->directory, getpid(), maker->made);
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0) die(path);
    close(fd);
  }
  return NULL;
}

static int create(double seconds, int directories, char** names) {
  struct Maker* makers = calloc((size_t)directories, sizeof(*makers));
  if (!makers) die("calloc");
  const uint64_t begin = now(), end = begin + (uint64_t)(seconds * 1e9);
  for (int i = 0; i < directories; ++i) {
    makers[i].directory = names[i];
    makers[i].end = end;
    if (pthread_create(&makers[i].thread, NULL, make_files, &makers[i]) != 0) die("thread");
  }
  uint64_t made = 0;
  for (int i = 0; i < directories; ++i) {
    pthread_join(makers[i].thread, NULL);
    made += makers[i].made;
  }
  printf("{\"per_second\": %.1f}\n", (double)made * 1e9 / (double)(now() - begin));
  return 0;
}

/* The mode is an attribute that the other kernel has cached. */
static int visible(const char* from, const char* to, size_t count) {
  uint64_t* samples = make_samples();
  char here[kPathBytes], there[kPathBytes];
  snprintf(here, sizeof(here), "%s/visible-%d", from, getpid());
  snprintf(there, sizeof(there), "%s/visible-%d", to, getpid());
  if (mkdir(here, 0700) != 0) die(here);
  struct stat st;
  while (stat(there, &st) != 0)
    if (errno != ENOENT) die(there);
  for (size_t i = 0; i < count && i < kMostSamples; ++i) {
    const mode_t mode = i % 2 == 0 ? 0755 : 0700;
    if (stat(there, &st) != 0 || chmod(here, mode) != 0) die("chmod");
    const uint64_t done = now();
    do {
      if (stat(there, &st) != 0) die(there);
    } while ((st.st_mode & 0777) != mode && now() - done < 5000000000U);
    samples[i] = now() - done;
  }
  rmdir(here);
  print_samples(samples, count);
  return 0;
}

static int stat_often(const char* path, size_t count) {
  struct stat st;
  const uint64_t begin = now();
  for (size_t i = 0; i < count; ++i)
    if (stat(path, &st) != 0) die(path);
  printf("{\"ns\": %.1f}\n", (double)(now() - begin) / (double)count);
  return 0;
}

static volatile uint64_t* map_word(const char* path) {
  const int fd = open(path, O_RDWR);
  if (fd < 0) die(path);
  void* at = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) die("mmap");
  return at; /* the file stays open, for its open says that it is written */
}

/* One thread, so that nothing but the page moves. Before each store its holder has had it for a
 * while: a home lets nobody lose a page at once. */
static int handover(const char* one, const char* other, size_t count) {
  enum { kHeldNs = 400000 };
  volatile uint64_t* words[] = {map_word(one), map_word(other)};
  uint64_t* samples = make_samples();
  uint64_t expected = *words[0];
  for (size_t i = 0; i < count && i < kMostSamples; ++i) {
    volatile uint64_t* word = words[i % 2];
    for (const uint64_t held = now() + kHeldNs; now() < held;) {
    }
    const uint64_t begin = now();
    const uint64_t value = ++*word;
    samples[i] = now() - begin;
    if (value != ++expected) {
      fprintf(stderr, "%lu came after %lu: the mappings are not coherent\n", value, expected - 1);
      return 1;
    }
  }
  print_samples(samples, count);
  return 0;
}

static double increments(volatile uint64_t* word, double seconds) {
  uint64_t count = 0, at = now();
  const uint64_t begin = at, end = begin + (uint64_t)(seconds * 1e9);
  for (; at < end; at = now())
    for (int i = 0; i < 100000; ++i, ++count) ++*word;
  return (double)(at - begin) / (double)count;
}

static int owned(const char* path, double seconds) {
  static volatile uint64_t own;
  volatile uint64_t* word = map_word(path);
  ++*word;
  const double there = increments(word, seconds), here = increments(&own, seconds);
  printf("{\"ns\": %.3f, \"own_memory_ns\": %.3f}\n", there, here);
  return 0;
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  if (argc == 4 && strcmp(what, "fault") == 0) return fault(argv[2], strtod(argv[3], NULL));
  if (argc == 4 && strcmp(what, "scan") == 0) return scan(argv[2], strtod(argv[3], NULL));
  if (argc == 4 && strcmp(what, "read") == 0) return read_all(argv[2], strtod(argv[3], NULL));
  if (argc == 4 && strcmp(what, "stat") == 0)
    return stat_often(argv[2], strtoul(argv[3], NULL, 10));
  if (argc >= 4 && strcmp(what, "create") == 0)
    return create(strtod(argv[2], NULL), argc - 3, argv + 3);
  if (argc == 5 && strcmp(what, "visible") == 0)
    return visible(argv[2], argv[3], strtoul(argv[4], NULL, 10));
  if (argc == 5 && strcmp(what, "handover") == 0)
    return handover(argv[2], argv[3], strtoul(argv[4], NULL, 10));
  if (argc == 4 && strcmp(what, "owned") == 0) return owned(argv[2], strtod(argv[3], NULL));
  fprintf(stderr,
          "usage: cluster_probe fault|scan|read FILE SECONDS\n"
          "       cluster_probe create SECONDS DIR...\n"
          "       cluster_probe visible FROM TO COUNT\n"
          "       cluster_probe stat FILE COUNT\n"
          "       cluster_probe handover ONE OTHER COUNT\n"
          "       cluster_probe owned FILE SECONDS\n");
  return 64;
}
