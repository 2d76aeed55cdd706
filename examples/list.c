/* A linked list that survives kill -9.
 *
 *   list DIRECTORY push NUMBER | pop | reverse | show
 *   list DIRECTORY work        changes it at random until killed
 *   list DIRECTORY verify      compares it with a model, and looks for leaks
 *
 * Pushing is one published step (contract P): allocation and links together, one fence. Popping and
 * reversing are transactions (contract T). So no node can leak and no link can dangle, wherever the
 * program dies. `work` and `verify` are for a list that nothing else changed.
 */
#include "crash_test.h"

struct node {
  struct node* next;
  uint64_t number;
};

/* The root: it lies in memory of contract R, which a root keeps alive. */
struct list {
  struct node* first;
  uint64_t length;
  uint64_t operations;
};

enum { LONGEST = 64 };

static struct list* open_list(struct btd_cluster* heap) {
  struct list* list = btd_root(heap, "list");
  if (list != NULL) return list;
  if (errno != ENOENT) die("the root cannot be read");
  /* Until it is a root, a crash reclaims it. */
  list = btd_calloc(heap, 1, sizeof *list);
  if (list == NULL || btd_persist(list, sizeof *list) != 0 ||
      btd_set_root(heap, "list", list) != 0) {
    die("the list cannot be made");
  }
  return list;
}

static int push(struct btd_cluster* heap, struct list* list, uint64_t number) {
  struct node* const node = btd_reserve(heap, sizeof *node);
  if (node == NULL) return -1;
  const struct node contents = {.next = list->first, .number = number};
  btd_memcpy_nodrain(node, &contents, sizeof contents);
  if (btd_drain(heap) != 0) return -1;
  const struct btd_action actions[] = {
      {.kind = BTD_ACTION_ALLOCATE, .at = node},
      {.kind = BTD_ACTION_SET, .at = &list->first, .value = (uintptr_t)node},
      {.kind = BTD_ACTION_SET, .at = &list->length, .value = list->length + 1},
      {.kind = BTD_ACTION_SET, .at = &list->operations, .value = list->operations + 1},
  };
  return btd_publish(heap, actions, sizeof actions / sizeof actions[0]);
}

static void set_word(uint64_t* at, uint64_t value) { btd_tx_set(at, &value, sizeof value); }
static void set_link(struct node** at, struct node* to) { btd_tx_set(at, &to, sizeof(void*)); }

static int pop(struct btd_cluster* heap, struct list* list) {
  struct node* const node = list->first;
  BTD_TX(heap) {
    if (node != NULL) {
      set_link(&list->first, node->next);
      set_word(&list->length, list->length - 1);
      btd_tx_free(node);
    }
    set_word(&list->operations, list->operations + 1);
  }
  return btd_tx_result();
}

static int reverse(struct btd_cluster* heap, struct list* list) {
  BTD_TX(heap) {
    struct node* before = NULL;
    /* Plain loads see the list as it was: the links change when the block ends. */
    for (struct node* node = list->first; node != NULL; node = node->next) {
      set_link(&node->next, before);
      before = node;
    }
    set_link(&list->first, before);
    set_word(&list->operations, list->operations + 1);
  }
  return btd_tx_result();
}

/* Operation i: 0 push, 1 pop, 2 reverse. */
static int choose(uint64_t i, uint64_t length) {
  const uint64_t dice = random_of(i) % 16;
  if (dice == 0) return 2;
  return length < LONGEST && dice < 9 ? 0 : 1;
}

static void work(struct btd_cluster* heap, struct list* list, uint64_t* acknowledged) {
  for (;;) {
    const uint64_t i = list->operations;
    int failed = 0;
    switch (choose(i, list->length)) {
      case 0:
        failed = push(heap, list, i);
        break;
      case 1:
        failed = pop(heap, list);
        break;
      default:
        failed = reverse(heap, list);
    }
    if (failed != 0) die("an operation failed");
    acknowledge(acknowledged, i + 1);
  }
}

static void verify(struct btd_cluster* heap, struct list* list, uint64_t* acknowledged) {
  uint64_t model[LONGEST]; /* the last one is the list's first */
  uint64_t length = 0;
  for (uint64_t i = 0; i < list->operations; ++i) {
    const int operation = choose(i, length);
    if (operation == 0) {
      model[length++] = i;
    } else if (operation == 1) {
      length -= length > 0;
    } else {
      for (uint64_t a = 0, b = length; a + 1 < b; ++a) {
        const uint64_t number = model[a];
        model[a] = model[--b];
        model[b] = number;
      }
    }
  }
  check_operations(acknowledged, list->operations);
  const struct node* node = list->first;
  for (uint64_t i = length; i > 0; --i, node = node->next) {
    if (node != NULL && node->number == model[i - 1]) continue;
    fprintf(stderr, "node %llu is not as it should be\n", (unsigned long long)(length - i));
    exit(1);
  }
  if (node != NULL || list->length != length) {
    fprintf(stderr, "the list is longer than its %llu nodes\n", (unsigned long long)length);
    exit(1);
  }
  check_blocks(heap, length);
  acknowledge(acknowledged, list->operations);
  printf("intact after %llu operations: %llu nodes, no leak\n",
         (unsigned long long)list->operations, (unsigned long long)length);
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: list DIRECTORY push NUMBER | pop | reverse | show | work | verify\n");
    return 2;
  }
  struct btd_config config;
  btd_config_init(&config);
  config.directory = argv[1];
  config.heap = "list";
  struct btd_cluster* const heap = btd_cluster_create(&config);
  if (heap == NULL) die("the heap cannot be opened");
  struct list* const list = open_list(heap);

  const char* const command = argv[2];
  int failed = 0;
  if (strcmp(command, "push") == 0 && argc == 4) {
    failed = push(heap, list, strtoull(argv[3], NULL, 10));
  } else if (strcmp(command, "pop") == 0) {
    failed = pop(heap, list);
  } else if (strcmp(command, "reverse") == 0) {
    failed = reverse(heap, list);
  } else if (strcmp(command, "show") == 0) {
    for (const struct node* node = list->first; node != NULL; node = node->next) {
      printf("%llu\n", (unsigned long long)node->number);
    }
  } else if (strcmp(command, "work") == 0) {
    work(heap, list, acknowledged_word(argv[1]));
  } else if (strcmp(command, "verify") == 0) {
    verify(heap, list, acknowledged_word(argv[1]));
  } else {
    fprintf(stderr, "list knows no %s\n", command);
    return 2;
  }
  if (failed != 0) die(command);
  if (btd_cluster_destroy(heap) != 0) die("the heap cannot be closed");
  return 0;
}
