/* memcheck_program CASE: uses a heap in $BTD_POOL well or, once, badly. memcheck_test.py runs it
 * under Memcheck and reads the report. */
#include <bartender.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct btd_cluster* heap;

/* Not inlined, so that a report names it. */
static __attribute__((noinline)) void* allocate_here(size_t bytes) {
  void* const block = btd_malloc(heap, bytes);
  if (block == NULL) {
    fprintf(stderr, "%s\n", btd_strerror());
    exit(3);
  }
  return block;
}
static __attribute__((noinline)) void free_here(void* block) { btd_free(block); }

static void must(int ok) {
  if (ok) return;
  fprintf(stderr, "%s\n", btd_strerror());
  exit(3);
}

/* A branch depends on the byte, so that reading it counts. */
static void look(const volatile char* at) {
  if (*at != 0) {
    puts("set");
  } else {
    putchar('\n');
  }
}

static int clean_visit(const struct btd_object* object, void* context) {
  (void)context;
  look((const char*)object->at + object->bytes - 1);
  return 0;
}

/* Each kind of call once: nothing of it is to be reported. */
static void clean(void) {
  char* text = btd_root(heap, "text");
  if (text != NULL) look(text + 99); /* of the run before, to the last byte */
  for (size_t bytes = 0; bytes < 200000; bytes += 1 + bytes / 3) {
    char* block = allocate_here(bytes);
    memset(block, 1, btd_usable_size(block));
    block = btd_realloc(heap, block, bytes + 40);
    must(block != NULL);
    memset(block, 1, bytes + 40);
    look(block + bytes);
    free_here(block);
    block = btd_calloc(heap, 1, bytes + 1);
    must(block != NULL);
    look(block + bytes);
    block = btd_realloc(heap, block, bytes / 2 + 1);
    must(block != NULL);
    look(block + bytes / 2);
    btd_free(block);
    block = btd_aligned_alloc(heap, 4096, bytes);
    must(block != NULL);
    memset(block, 1, bytes);
    btd_free(block);
  }
  text = btd_calloc(heap, 1, 100);
  must(btd_set_root(heap, "text", text) == 0);
  must(btd_memcpy(text, "it survives", 12) != NULL);
  must(btd_memset(text + 50, 1, 50) != NULL);

  /* Half of it was never stored to, which is nobody's business before somebody looks. */
  char* const half = allocate_here(200);
  memset(half, 2, 100);
  char* const copy = allocate_here(200);
  must(btd_memcpy(copy, half, 200) != NULL);
  look(copy + 99);
  memset(half, 2, 200);
  memset(copy, 2, 200);
  must(btd_memcpy_nodrain(copy, text, 100) != NULL && btd_persist(copy, 100) == 0);

  void** const link = btd_calloc(heap, 2, sizeof(void*));
  must(btd_malloc_to(link, 70) != NULL);
  memset(*link, 3, 70);
  must(btd_free_from(link) == 0);
  look((const char*)link);
  char* const reserved = btd_reserve(heap, 40);
  must(reserved != NULL);
  memset(reserved, 4, 40);
  const struct btd_action actions[] = {
      {.kind = BTD_ACTION_ALLOCATE, .at = reserved, .value = 0},
      {.kind = BTD_ACTION_SET, .at = link, .value = (uint64_t)(uintptr_t)reserved}};
  must(btd_publish(heap, actions, 2) == 0);
  look(*link);
  must(btd_cancel(btd_reserve(heap, 10)) == 0);

  must(btd_tx_begin(heap) == 0);
  char* const fresh = btd_tx_alloc(3000);
  must(fresh != NULL);
  char* const edit = btd_tx_add(fresh, 3000);
  must(edit != NULL);
  memset(edit + 10, 5, 10);
  const uint64_t word = 7;
  must(btd_tx_set(link + 1, &word, sizeof word) == 0);
  must(btd_tx_commit() == 0);
  look(fresh);
  look(fresh + 2999);
  look((const char*)(link + 1));
  must(btd_tx_begin(heap) == 0);
  must(btd_tx_free(fresh) == 0);
  must(btd_tx_alloc(10) != NULL);
  must(btd_tx_abort() == 0);
  look(fresh + 2999);

  /* Set to what happens to be there already: the journal has nothing to store. */
  char* const raw = allocate_here(5000);
  must(btd_tx_begin(heap) == 0);
  char* const same = btd_tx_add(raw, 64);
  must(same != NULL);
  memset(same, 0, 64);
  must(btd_tx_commit() == 0);
  look(raw + 63);
  btd_free(raw);

  must(btd_set_root(heap, "link", link) == 0);
  must(btd_checkpoint(heap) == 0);
  must(btd_foreach(heap, clean_visit, NULL) == 0);
  must(btd_check(heap, NULL, NULL) == 0);
  must(btd_gc(heap) == 0); /* takes `half` and `copy` */
  must(btd_foreach(heap, clean_visit, NULL) == 0);
  struct btd_statistics stats;
  must(btd_stats(heap, &stats) == 0);
  printf("%llu bytes\n", (unsigned long long)stats.allocated_bytes);
}

static void copy_half(size_t bytes) {
  char* const from = allocate_here(bytes);
  char* const to = btd_calloc(heap, 1, bytes);
  memset(from, 1, bytes / 2);
  must(to != NULL && btd_memcpy(to, from, bytes) != NULL);
  look(to + bytes / 2 - 1);
  look(to + bytes / 2);
}

static void open_heap(void) {
  struct btd_config config;
  btd_config_init(&config);
  config.directory = getenv("BTD_POOL");
  config.heap = "h";
  config.arena_bytes = (uint64_t)64 << 20;
  config.gc_threads = 2;
  heap = btd_cluster_create(&config);
  must(heap != NULL);
}

/* Blocks of another process, which has the heap open too. */
static void shared(void) {
  int ready[2];
  int done[2];
  char byte = 0;
  if (pipe(ready) != 0 || pipe(done) != 0) exit(3);
  const pid_t other = fork();
  if (other == 0) {
    close(done[1]);
    open_heap();
    char** const blocks = btd_calloc(heap, 2, sizeof(char*));
    for (int i = 0; i < 2; ++i) memset(blocks[i] = allocate_here(100), 1, 100);
    must(btd_set_root(heap, "shared", blocks) == 0);
    if (write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) != 1) exit(3);
    exit(btd_cluster_destroy(heap));
  }
  if (read(ready[0], &byte, 1) != 1) exit(3);
  open_heap();
  char** const blocks = btd_root(heap, "shared");
  must(blocks != NULL);
  char* const own = allocate_here(100);
  memset(own, 1, 100);
  look(blocks[0] + 99);
  look(blocks[1] + 99);
  btd_free(blocks[0]);
  btd_free(own);
  look(blocks[1]);
  int ended = 0;
  if (write(done[1], &byte, 1) != 1 || waitpid(other, &ended, 0) != other || ended != 0) exit(3);
  look(blocks[1]);
}

int main(int count, char** arguments) {
  const char* const what = count == 2 ? arguments[1] : "";
  if (strcmp(what, "shared") == 0) {
    shared();
  } else {
    open_heap();
  }
  if (strcmp(what, "shared") == 0) {
    /* done */
  } else if (strcmp(what, "clean") == 0) {
    clean();
  } else if (strcmp(what, "killed") == 0) { /* leaves a heap that is to be recovered */
    clean();
    allocate_here(100);
    abort();
  } else if (strcmp(what, "use_after_free") == 0) {
    char* const block = allocate_here(100);
    memset(block, 1, 100);
    free_here(block);
    look(block + 10);
  } else if (strcmp(what, "published_after_free") == 0) {
    void** const link = btd_calloc(heap, 1, sizeof(void*));
    char* const block = btd_malloc_to(link, 100);
    must(block != NULL);
    memset(block, 1, 100);
    must(btd_free_from(link) == 0);
    look(block + 10);
  } else if (strcmp(what, "tx_after_free") == 0) {
    must(btd_tx_begin(heap) == 0);
    char* const block = btd_tx_alloc(100);
    must(block != NULL && btd_tx_add(block, 100) != NULL && btd_tx_commit() == 0);
    look(block + 10);
    must(btd_tx_begin(heap) == 0 && btd_tx_free(block) == 0 && btd_tx_commit() == 0);
    look(block + 20);
  } else if (strcmp(what, "overflow") == 0) { /* into what the slot of 112 bytes has behind it */
    char* const block = allocate_here(100);
    memset(block, 1, 100);
    ((volatile char*)block)[100] = 1;
  } else if (strcmp(what, "uninitialised") == 0) {
    char* const block = allocate_here(100);
    look(block + 10);
  } else if (strcmp(what, "copied_uninitialised") == 0) {
    copy_half(100);
  } else if (strcmp(what, "long_copied_uninitialised") == 0) {
    copy_half(300000);
  } else if (strcmp(what, "bad_source") == 0) {
    char* const to = allocate_here(100);
    char* const from = malloc(50);
    memset(from, 1, 50);
    must(btd_memcpy(to, from, 51) != NULL);
    free(from);
  } else if (strcmp(what, "metadata") == 0) { /* a wild store into the headers of the heap */
    *(volatile uint64_t*)btd_cluster_base(heap) = 0;
  } else {
    return 2;
  }
  must(btd_cluster_destroy(heap) == 0);
  return 0;
}
