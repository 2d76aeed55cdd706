/* A counter that programs on several nodes share: shared DIRECTORY TIMES
 *
 * DIRECTORY is on a mount of a cluster and coherent (setfattr -n user.btd.mode -v coherent), so the
 * heap in it may be open on all nodes. Run it on one first, which makes the counter. */
#include <bartender.h>
#include <err.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct counter {
  struct btd_mutex mutex;
  uint64_t value;
};

static struct counter* find_or_make(struct btd_cluster* heap) {
  struct counter* counter = btd_root(heap, "counter");
  if (counter != NULL || errno != ENOENT) return counter;
  counter = btd_calloc(heap, 1, sizeof *counter);
  if (counter == NULL || btd_persist(counter, sizeof *counter) != 0 ||
      btd_set_root(heap, "counter", counter) != 0)
    return NULL;
  return counter;
}

int main(int argc, char** argv) {
  if (argc != 3) errx(2, "usage: shared DIRECTORY TIMES");
  struct btd_config config;
  btd_config_init(&config);
  config.directory = argv[1];
  config.heap = "shared";
  struct btd_cluster* heap = btd_cluster_create(&config);
  if (heap == NULL) errx(1, "%s", btd_strerror());
  struct counter* counter = find_or_make(heap);
  /* The node that made it may have done so after this program opened the heap. */
  if (counter == NULL || btd_map(counter, sizeof *counter) != 0) errx(1, "%s", btd_strerror());
  for (long i = strtol(argv[2], NULL, 10); i > 0; --i) {
    /* One whose holder died is as good: the value is changed at once, or not at all. */
    if (btd_mutex_lock(&counter->mutex) < 0) errx(1, "%s", btd_strerror());
    const uint64_t next = counter->value + 1;
    if (btd_memcpy(&counter->value, &next, sizeof next) == NULL) errx(1, "%s", btd_strerror());
    if (btd_mutex_unlock(&counter->mutex) != 0) errx(1, "%s", btd_strerror());
  }
  printf("%" PRIu64 "\n", counter->value);
  if (btd_cluster_destroy(heap) != 0) errx(1, "%s", btd_strerror());
  return 0;
}
