/* bartender.h: failure-atomic memory in NVRAM.
 *
 * A heap is a directory of arena files; this library maps them at the same address in every
 * process, so plain C pointers stay valid across restarts. What a call promises after a crash at
 * any instant is its contract: R  recoverable  the heap is consistent; what a root reaches is
 * intact, all else is reclaimed P  published    all of the call or none of it, durable when it
 * returns T  transaction  all of the transaction or none of it, durable when the outermost commit
 * returns
 *
 * Errors: calls that return a pointer return NULL, calls that return an int return -1; errno says
 * which error, and btd_strerror() gives a sentence for the last error of the calling thread.
 * Thread-safety: any call from any thread, unless it says otherwise. No call is async-signal-safe.
 * After fork() the child must not use the heap: calls fail with EOWNERDEAD; exec, or create anew.
 * Sizes and lengths are in bytes.
 */
#ifndef BARTENDER_H
#define BARTENDER_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BTD_API __attribute__((visibility("default")))
#define BTD_MALLOC __attribute__((malloc, warn_unused_result))
#define BTD_MUST_CHECK __attribute__((warn_unused_result))
#else
#define BTD_API
#define BTD_MALLOC
#define BTD_MUST_CHECK
#endif

struct btd_cluster; /* an open heap */

/* When memory of contract R that no root reaches is reclaimed after a crash. */
enum btd_gc {
  BTD_GC_AUTO = 0,   /* after an unclean stop, while the program starts; btd_root() waits for it */
  BTD_GC_MANUAL = 1, /* when btd_gc() is called; until then what is older cannot be freed: EBUSY */
};

/* What durable means. */
enum btd_durability {
  BTD_DURABLE = 0, /* what the medium offers: power loss on DAX, process crash on tmpfs */
  BTD_PROCESS = 1, /* survives the process, not the machine: nothing is flushed (caches, tests) */
};

struct btd_config {
  /* Not 0: no other field is read. The heap "default" of this user lies in $BTD_POOL if that is
   * set, else under /mnt/bartender if that is a mount, else in a directory of the user's own on
   * /dev/shm. */
  int single_node;
  const char* directory; /* where heaps lie: a mount or any directory that supports mmap */
  const char* heap;      /* name of 1..64 letters, digits, '.', '_', '-'; NULL: "default" */
  uint64_t max_bytes;    /* the heap grows to at most this; 0: as far as its window reaches */
  uint64_t arena_bytes;  /* of a new heap: what one of 64 may grow to; of 2 MiB; 0: 16 GiB */
  int durability;        /* enum btd_durability */
  int gc;                /* enum btd_gc */
  unsigned gc_threads;   /* 0: one for each processor */
  int create;            /* not 0: an absent heap is made; 0: ENOENT */
  int map_on_touch;      /* not 0: a handler of SIGSEGV maps what other nodes add: see btd_map() */
  int reader;            /* not 0: only loads, beside whoever uses the heap: see btd_acquire() */
};

/* Sets every field to its default: no single_node, create = 1, the rest 0. */
BTD_API void btd_config_init(struct btd_config* config);

/* Opens a heap, making it if need be. Contract R: opening again after any crash finds the heap
 * consistent. Opening a heap that this process has open returns the same handle, counted.
 * Several processes, 64 at most, may have one heap open: its blocks have the same addresses in all
 * and any may free them; see libbtd(7) for what holds when one of them dies.
 * Errors: EINVAL a field is wrong; EBUSY btd-heap(1) looks at it, or another process has yet to
 * recover it; EUSERS; EADDRINUSE the heap's address window is taken in this process; EACCES;
 * ENOENT; ENOSPC; EUCLEAN the heap is damaged: nothing was changed (see btd-heap(1)). */
BTD_API BTD_MUST_CHECK struct btd_cluster* btd_cluster_create(struct btd_config* config);

/* Closes the heap when called as often as btd_cluster_create(); the last process marks it clean. No
 * thread may use it meanwhile, no transaction may be open. NULL does nothing. At exit() open heaps
 * are closed. Errors: EIO the medium failed; EBUSY a transaction is open. */
BTD_API int btd_cluster_destroy(struct btd_cluster* cluster);

/* The open heap whose address window holds `at`; NULL, and errno left alone, where there is none.
 */
BTD_API struct btd_cluster* btd_cluster_of(const void* at);
/* Where the heap's addresses begin: the same in every process, for the heap's life. So it names the
 * heap inside the heap, where a handle would be stale. NULL and EINVAL, or EOWNERDEAD. */
BTD_API void* btd_cluster_base(struct btd_cluster* cluster);

/* The sentence for the last error of the calling thread; valid until its next btd_ call. */
BTD_API const char* btd_strerror(void);

/* Version of the library, "0.1.0". */
BTD_API const char* btd_version(void);

/* ---- Contract R: recoverable memory ------------------------------------------------------------
 * As fast as malloc: nothing is persisted for a call, only one line for each fresh 64 KiB. Contents
 * are the caller's to persist: btd_memcpy(), or stores and btd_persist().
 * Method: free slots live in DRAM only, and marking from roots finds what was live (recoverable
 * allocation: Cai et al., ISMM 2020). Blocks are aligned to 16, from 64 bytes on to 64 where the
 * size is a multiple of 64. */

/* `bytes` of 0 gives a distinct block. Errors: ENOSPC (the heap or its file system is full). */
BTD_API BTD_MALLOC void* btd_malloc(struct btd_cluster* cluster, size_t bytes);
/* All zero. The zeros are not persisted. Errors: ENOSPC; EOVERFLOW. */
BTD_API BTD_MALLOC void* btd_calloc(struct btd_cluster* cluster, size_t count, size_t bytes);
/* As realloc(3); the old block stays when it fails. A moved block is copied, not persisted.
 * `block` NULL allocates, `bytes` 0 frees and returns NULL. Errors: ENOSPC; EINVAL as btd_free().
 */
BTD_API BTD_MUST_CHECK void* btd_realloc(struct btd_cluster* cluster, void* block, size_t bytes);
/* `alignment`: a power of two, at most 64 KiB. Errors: EINVAL; ENOSPC. */
BTD_API BTD_MALLOC void* btd_aligned_alloc(struct btd_cluster* cluster, size_t alignment,
                                           size_t bytes);
/* Frees a block of btd_malloc and its kin; of any heap, from any thread. NULL does nothing. What is
 * no such block (foreign, interior or freed before) changes nothing: errno is EINVAL,
 * btd_strerror() says what it is, and so does standard error, once for each kind, unless BTD_QUIET
 * is set. With BTD_GUARD (libbtd(7)), a block that was overrun is told of and stays: EUCLEAN. errno
 * is left alone otherwise. */
BTD_API void btd_free(void* block);
/* What may be used of a block of any contract. 0 and EINVAL for what is no block. */
BTD_API size_t btd_usable_size(const void* block);

/* Objects of a registered type: marking follows only their pointer slots. */
#define BTD_TYPE_UNTYPED 0U /* every aligned word may be a pointer (btd_malloc) */
#define BTD_TYPE_NO_POINTERS 1U
/* Registers type `type` (2..255) whose objects are arrays of `bytes` (a multiple of 8, at most
 * 4096) with a pointer in word i if bit i % 64 of pointers[i / 64] is set. Durable. Registering the
 * same again does nothing. Errors: EINVAL; EEXIST another layout is registered; ENOSPC. */
BTD_API int btd_register_type(struct btd_cluster* cluster, unsigned type, size_t bytes,
                              const uint64_t* pointers);
/* As btd_malloc(). Errors: EINVAL the type is not registered; ENOSPC. */
BTD_API BTD_MALLOC void* btd_malloc_typed(struct btd_cluster* cluster, size_t bytes, unsigned type);

/* ---- Durable stores (P) ------------------------------------------------------------------------
 */

/* As memcpy, memmove and memset; failure-atomic and durable on return, any length. The destination
 * lies in one block. Up to half a lane (128 KiB): one fence; longer: via a shadow copy. Return
 * `to`; NULL on error, nothing changed: EINVAL the range is not inside a block; ENOSPC no room for
 * the shadow. Two threads do not store to one range at once. */
BTD_API void* btd_memcpy(void* to, const void* from, size_t bytes);
BTD_API void* btd_memmove(void* to, const void* from, size_t bytes);
BTD_API void* btd_memset(void* to, int byte, size_t bytes);
/* Not atomic, and durable only after btd_drain() of the same thread. `to` may be any memory of a
 * heap. Return `to`; NULL and EINVAL where that is no heap's. */
BTD_API void* btd_memcpy_nodrain(void* to, const void* from, size_t bytes);
BTD_API void* btd_memmove_nodrain(void* to, const void* from, size_t bytes);
BTD_API void* btd_memset_nodrain(void* to, int byte, size_t bytes);
/* Makes plain stores to [at, at + bytes) durable. Errors: EINVAL not in a heap; EIO. */
BTD_API int btd_persist(const void* at, size_t bytes);
/* Starts that; btd_drain() waits for all that this thread started. */
BTD_API int btd_flush(const void* at, size_t bytes);
BTD_API int btd_drain(struct btd_cluster* cluster);

/* ---- Roots (P) ---------------------------------------------------------------------------------
 * Named pointers: what they reach survives. Up to 65,536; names of 1..255 bytes. */

/* NULL takes the name away. Durable on return. Errors: EINVAL the name, or not a pointer into the
 * heap; ENOSPC. */
BTD_API int btd_set_root(struct btd_cluster* cluster, const char* name, const void* pointer);
/* NULL and ENOENT if there is none. After an unclean stop it waits until reclaiming is done. */
BTD_API void* btd_root(struct btd_cluster* cluster, const char* name);
/* Calls visit for each root, in the order of names, until it returns other than 0; returns that. */
BTD_API int btd_roots(struct btd_cluster* cluster,
                      int (*visit)(const char* name, void* pointer, void* context), void* context);

/* ---- Contract P: published memory --------------------------------------------------------------
 * Allocation and link are one durable step, so nothing can leak and no marking is needed: one line
 * and one fence a call. `dest` is a pointer variable in a block of the heap. Blocks of P and T are
 * freed by P and T calls only, and are never reclaimed by marking. */

/* Allocates and stores the block's address in *dest. Contents are undefined. Errors: EINVAL;
 * ENOSPC. */
BTD_API BTD_MUST_CHECK void* btd_malloc_to(void* dest, size_t bytes);
/* Frees the block *dest points to and sets *dest to NULL; does nothing if it is. Errors: EINVAL. */
BTD_API int btd_free_from(void* dest);

/* A block that is nobody's until published, and gone after a crash. Fill it with the _nodrain calls
 * or persist what you stored before publishing it. Errors: ENOSPC. */
BTD_API BTD_MUST_CHECK void* btd_reserve(struct btd_cluster* cluster, size_t bytes);
/* Gives a reserved block back. Errors: EINVAL it is not reserved. */
BTD_API int btd_cancel(void* reserved);

enum btd_action_kind {
  BTD_ACTION_ALLOCATE = 0, /* the reserved block `at` becomes allocated */
  BTD_ACTION_FREE = 1,     /* the block `at` of contract P or T is freed */
  BTD_ACTION_SET = 2,      /* the aligned word at `at` becomes `value` */
};
struct btd_action {
  enum btd_action_kind kind;
  void* at;
  uint64_t value;
};
/* All of the actions or none; durable on return, one fence. Errors, nothing changed and
 * reservations kept: EINVAL; E2BIG too many actions for one record (some thousand). */
BTD_API int btd_publish(struct btd_cluster* cluster, const struct btd_action* actions,
                        size_t count);

/* ---- Contract T: transactions ------------------------------------------------------------------
 * A transaction belongs to a thread. Changes are made to working copies and written to the heap at
 * commit, in one record and one fence; until then everybody, this thread included, sees the old
 * state through plain loads. Transactions nest: an inner commit only joins the outer one, an abort
 * at any depth aborts the outermost, whose commit then fails with ECANCELED. There is no isolation:
 * lock what threads share. */

/* Errors: EINVAL the thread has a transaction on another heap. */
BTD_API int btd_tx_begin(struct btd_cluster* cluster);
/* A working copy of [at, at + bytes), which lies in one block; what it holds at commit becomes the
 * range's contents. `at` is a multiple of 8. Asking again gives the same copy; ranges do not
 * overlap. Errors: EINVAL. */
BTD_API BTD_MUST_CHECK void* btd_tx_add(void* at, size_t bytes);
/* Sets [at, at + bytes) to a copy of `from`. An aligned word costs least. Errors: EINVAL. */
BTD_API int btd_tx_set(void* at, const void* from, size_t bytes);
/* The working copy that begins at `at`, or `at` where there is none. Words that btd_tx_set() set
 * are not seen through it. */
BTD_API const void* btd_tx_get(const void* at);
/* Copies [at, at + bytes) to `to` as this thread's transaction has it, with all that was added and
 * set; outside of one, and where it is no memory of its heap, as it is. Returns `to`. */
BTD_API void* btd_tx_read(void* to, const void* at, size_t bytes);
/* A block that is the heap's when the transaction commits. Fill it through btd_tx_add() (which
 * gives zeros) or btd_tx_set(). Errors: ENOSPC; EINVAL no transaction. */
BTD_API BTD_MUST_CHECK void* btd_tx_alloc(size_t bytes);
/* Frees a block of contract P or T at commit. Errors: EINVAL. */
BTD_API int btd_tx_free(void* block);
/* Errors: ECANCELED it was aborted inside; EINVAL none is open, or ranges overlap; E2BIG it needs
 * more log than a lane has (256 KiB); EIO in doubt. Nothing changed, but for EIO. */
BTD_API int btd_tx_commit(void);
BTD_API int btd_tx_abort(void);
/* How many are open in this thread, one inside the other. */
BTD_API unsigned btd_tx_depth(void);
/* 0 if this thread's last outermost transaction committed, else its errno. */
BTD_API int btd_tx_result(void);

#if defined(__GNUC__)
/* BTD_TX(cluster) { ... } commits at the closing brace; break, return and goto out of it abort.
 * btd_tx_result() says afterwards how it went. */
struct btd_tx_scope {
  int state; /* 0 not begun, 1 running, 2 over */
};
BTD_API void btd_tx_scope_end(struct btd_tx_scope* scope);
BTD_API int btd_tx_scope_next(struct btd_tx_scope* scope, struct btd_cluster* cluster);
/* The name has the line in it, so that blocks inside one another do not shadow. */
#define BTD_TX(cluster) BTD_TX_AT_(cluster, __LINE__)
#define BTD_TX_AT_(cluster, line) BTD_TX_PASTE_(cluster, line)
#define BTD_TX_PASTE_(cluster, line) BTD_TX_NAMED_(cluster, btd_tx_scope_##line)
#define BTD_TX_NAMED_(cluster, scope)                                              \
  for (struct btd_tx_scope scope __attribute__((cleanup(btd_tx_scope_end))) = {0}; \
       btd_tx_scope_next(&scope, (cluster));)
#endif

/* ---- Several nodes -----------------------------------------------------------------------------
 * A heap in a directory of a cluster's mount whose user.btd.mode is "coherent" may be open on all
 * nodes: pointers, frees, roots and atomics mean the same on each. What a node allocates lies
 * there, as long as its pool has room. */

/* Has [at, at + bytes), which any node may have allocated, mapped. Arenas that others add after
 * this process opened the heap are mapped when a btd_ call meets them; a program that follows a
 * pointer by itself calls this first, or sets map_on_touch. Errors: EINVAL not in a heap; ETIMEDOUT
 * or EHOSTUNREACH the node is away. */
BTD_API int btd_map(const void* at, size_t bytes);

/* Any other heap on a mount is direct, and used on one node at a time: EBUSY elsewhere, but for
 * readers. A handle that was opened with config.reader serves btd_map(), btd_acquire() and
 * btd_cluster_base(); all else says EROFS. Pointers come from the user of the heap, by a file, a
 * message or a coherent heap.
 *
 * After btd_acquire() loads of [at, at + bytes) see what was stored there before btd_release() of
 * the same returned, on whichever node; what is stored later may be seen, or not. Both may cost a
 * message to the node the heap lies on, and do nothing where pages are coherent. Errors: EINVAL not
 * in a heap, or nothing is there yet; ETIMEDOUT or EHOSTUNREACH the node is away; EIO. */
BTD_API int btd_acquire(const void* at, size_t bytes);
BTD_API int btd_release(const void* at, size_t bytes);

/* A mutex in memory of a heap, between threads of all processes that have it open, on all nodes if
 * it is coherent. All zero is unlocked: btd_calloc() makes one. It outlives its processes: nothing
 * a transaction changes. Not recursive. */
struct btd_mutex {
  uint64_t word;
};
#define BTD_MUTEX_OWNER_DIED 1
/* 0: it is locked. BTD_MUTEX_OWNER_DIED: the same, but who held it died: what it guards may be half
 * changed. Waits as long as the holder lives. Errors: EDEADLK this thread holds it; EINVAL not in a
 * heap; EOWNERDEAD after a fork. */
BTD_API BTD_MUST_CHECK int btd_mutex_lock(struct btd_mutex* mutex);
/* The same without waiting. Errors: EBUSY too. */
BTD_API BTD_MUST_CHECK int btd_mutex_trylock(struct btd_mutex* mutex);
/* Waits so long at most. Errors: ETIMEDOUT too. */
BTD_API BTD_MUST_CHECK int btd_mutex_timedlock(struct btd_mutex* mutex, unsigned milliseconds);
/* Errors: EPERM this thread does not hold it; EINVAL. */
BTD_API int btd_mutex_unlock(struct btd_mutex* mutex);

/* ---- Inspection --------------------------------------------------------------------------------
 */

struct btd_object {
  void* at;
  size_t bytes;  /* usable */
  unsigned type; /* of btd_malloc_typed() */
  char contract; /* 'R', or 'T' for P and T */
};
/* Calls visit for each allocated block, by address, until it returns other than 0; returns that. No
 * other thread may allocate or free meanwhile. Waits as btd_root() does. */
BTD_API int btd_foreach(struct btd_cluster* cluster,
                        int (*visit)(const struct btd_object* object, void* context),
                        void* context);

struct btd_statistics {
  uint64_t mapped_bytes;    /* of segments, used or free */
  uint64_t allocated_bytes; /* of blocks, as rounded up to their class */
  uint64_t free_bytes;      /* of wholly free segments */
  uint64_t waiting_bytes;   /* freed, reusable after the next checkpoint */
  uint64_t arenas;
  uint64_t lines;           /* flushed since open */
  uint64_t fences;          /* since open */
  uint64_t commits;         /* journal records since open */
  uint64_t replayed;        /* records that open replayed */
  uint64_t reclaimed_bytes; /* of R that marking found unreachable since open */
  uint64_t generation;      /* opens of the heap */
  int was_clean;            /* the last user closed it */
  int recovering;           /* marking is under way */
};
BTD_API int btd_stats(struct btd_cluster* cluster, struct btd_statistics* stats);

/* Verifies headers, bitmaps, roots and journal of an open heap; calls report (which may be NULL)
 * with a sentence for each problem. Returns how many there are, -1 on error. No other thread may
 * use the heap meanwhile. */
BTD_API long btd_check(struct btd_cluster* cluster,
                       void (*report)(const char* sentence, void* context), void* context);

/* Reclaims now what no root reaches. No other thread may use the heap meanwhile, and pointers held
 * only in DRAM do not count. Errors: EBUSY other processes have the heap open; EIO. */
BTD_API int btd_gc(struct btd_cluster* cluster);

/* Brings all journal records home, so that freed memory may be reused. Errors: EIO. */
BTD_API int btd_checkpoint(struct btd_cluster* cluster);

#ifdef __cplusplus
}
#endif
#endif /* BARTENDER_H */
