/* Makes a heap of known content for heap_test.py: heap_maker DIRECTORY clean|leaks|churn|many|grow.
 *
 * Reachable: the list "list" of 10 nodes of 64 bytes, of R; "table", a block of 1,000 bytes of R
 * that points to one of P of 48. Type 7 is registered, and "typed" is an object of it.
 * Leaked, but for `clean`: 100 x 100 and 3 x 100 KiB of R; 5 x 48 of P; one of P of 200 that alone
 * points to 200 bytes of R. All but `clean` and `grow` then wait to be killed; `churn` changes the
 * heap meanwhile; `many` leaks 5,000 blocks more. */
#include <bartender.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct node {
  struct node* next;
  char text[56];
};

static struct btd_cluster* heap;

static void* must(void* block) {
  if (block != NULL) return block;
  fprintf(stderr, "heap_maker: %s\n", btd_strerror());
  exit(1);
}

static void must_do(int result) {
  if (result != 0) must(NULL);
}

static void make_reachable(void) {
  struct node* first = NULL;
  for (int i = 0; i < 10; ++i) {
    struct node* node = must(btd_malloc(heap, sizeof *node));
    memset(node, 0, sizeof *node);
    snprintf(node->text, sizeof node->text, "node %d", i);
    node->next = first;
    must_do(btd_persist(node, sizeof *node));
    first = node;
  }
  must_do(btd_set_root(heap, "list", first));
  void** table = must(btd_calloc(heap, 1, 1000));
  must(btd_malloc_to(&table[1], 48));
  must_do(btd_set_root(heap, "table", table));
  const uint64_t pointers = 1;
  must_do(btd_register_type(heap, 7, 32, &pointers));
  void* typed = must(btd_malloc_typed(heap, 32, 7));
  memset(typed, 0, 32);
  must_do(btd_set_root(heap, "typed", typed));
}

/* A block of P that nothing points to. */
static void publish_alone(size_t bytes, void* content) {
  void** block = must(btd_reserve(heap, bytes));
  btd_memset_nodrain(block, 0, bytes);
  btd_memcpy_nodrain(block, &content, sizeof content);
  const struct btd_action action = {BTD_ACTION_ALLOCATE, block, 0};
  must_do(btd_publish(heap, &action, 1));
}

__attribute__((noinline)) static void leak_small(void) {
  for (int i = 0; i < 100; ++i) memset(must(btd_malloc(heap, 100)), 0, 100);
}

__attribute__((noinline)) static void leak_large(void) {
  for (int i = 0; i < 3; ++i) memset(must(btd_malloc(heap, 100 << 10)), 0, 100 << 10);
}

static void make_leaks(void) {
  leak_small();
  leak_large();
  for (int i = 0; i < 5; ++i) publish_alone(48, NULL);
  void* held = must(btd_calloc(heap, 1, 200));
  publish_alone(200, held);
}

static void* churn(void* unused) {
  static void* blocks[2];
  for (unsigned i = 1;; i = i * 1103515245 + 12345) {
    const unsigned which = i >> 16 & 1;
    void* fresh = must(btd_malloc(heap, 16 + (i >> 8 & 4095)));
    must_do(btd_set_root(heap, which ? "a" : "b", fresh));
    btd_free(blocks[which]);
    blocks[which] = fresh;
  }
  return unused;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  struct btd_config config;
  btd_config_init(&config);
  config.directory = argv[1];
  config.heap = "h";
  config.arena_bytes = 16 << 20;
  heap = must(btd_cluster_create(&config));
  make_reachable();
  if (strcmp(argv[2], "grow") == 0) {
    for (int i = 0; i < 6; ++i) must(btd_malloc(heap, 4 << 20));
  }
  if (strcmp(argv[2], "clean") == 0 || strcmp(argv[2], "grow") == 0) {
    must_do(btd_cluster_destroy(heap));
    return 0;
  }
  make_leaks();
  if (strcmp(argv[2], "many") == 0) {
    for (int i = 0; i < 5000; ++i) must(btd_malloc(heap, 16));
  }
  pthread_t thread;
  if (strcmp(argv[2], "churn") == 0 && pthread_create(&thread, NULL, churn, NULL) != 0) return 1;
  puts("ready");
  fflush(stdout);
  for (;;) pause();
}
