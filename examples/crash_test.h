/* What the examples that are killed share: operations that follow from their number, and a record
 * of which were acknowledged.
 *
 * Operation i is a function of i alone. So whoever opens the heap after a kill can do the same
 * operations on a model in DRAM and compare: all that were acknowledged, and at most one more.
 */
#ifndef EXAMPLES_CRASH_TEST_H
#define EXAMPLES_CRASH_TEST_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bartender.h"

/* Says what failed, with the library's sentence, and ends the program. */
static inline void die(const char* what) {
  fprintf(stderr, "%s: %s\n", what, btd_strerror());
  exit(1);
}

/* A number that looks random and follows from i. (Steele et al., OOPSLA 2014: SplitMix64) */
static inline uint64_t random_of(uint64_t i) {
  uint64_t x = i * 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

/* How many operations had returned when the program was killed: a word of a file beside the heap,
 * which the kernel keeps when the process dies. */
static inline uint64_t* acknowledged_word(const char* directory) {
  char path[4096];
  snprintf(path, sizeof path, "%s/acknowledged", directory);
  const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void* at = MAP_FAILED;
  if (file >= 0 && ftruncate(file, sizeof(uint64_t)) == 0) {
    at = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  if (at == MAP_FAILED) {
    perror(path);
    exit(1);
  }
  close(file);
  return (uint64_t*)at;
}
static inline void acknowledge(uint64_t* word, uint64_t operations) {
  __atomic_store_n(word, operations, __ATOMIC_RELEASE);
}

/* Ends the program where the heap's operations are not the acknowledged ones, or one more. */
static inline void check_operations(const uint64_t* word, uint64_t operations) {
  const uint64_t acknowledged = __atomic_load_n(word, __ATOMIC_ACQUIRE);
  if (operations == acknowledged || operations == acknowledged + 1) return;
  fprintf(stderr, "the heap has %llu operations, but %llu were acknowledged\n",
          (unsigned long long)operations, (unsigned long long)acknowledged);
  exit(1);
}

/* Blocks of contracts P and T in the heap. What is in no structure has leaked. */
static inline int count_published(const struct btd_object* object, void* count) {
  if (object->contract == 'T') ++*(uint64_t*)count;
  return 0;
}
static inline void check_blocks(struct btd_cluster* heap, uint64_t expected) {
  uint64_t found = 0;
  if (btd_foreach(heap, count_published, &found) != 0) die("the blocks cannot be listed");
  if (btd_check(heap, NULL, NULL) != 0) die("the heap is damaged");
  if (found == expected) return;
  fprintf(stderr, "the heap has %llu blocks, but %llu are in use\n", (unsigned long long)found,
          (unsigned long long)expected);
  exit(1);
}

#endif
