// SPDX-License-Identifier: BSD-3-Clause
// lmdb_counts FILE SECONDS NAME [writemap]: an LMDB database that others use at the same time, from
// other nodes. Each transaction adds one to NAME's count and to the count of all, in one database
// without LMDB's own locks: those are mutexes in shared memory, for one machine. A lock of the file
// "FILE.lock" (fcntl) is in their place. Every transaction sees that the counts of all names are
// the count of all, and that none went back. It prints the transactions it did and the last count
// of all; 1 and a line where something is wrong.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const uint64_t map_bytes = 8 << 20;
static const char* const all = "all";

static void must(int result, const char* what) {
  if (result == 0) return;
  fprintf(stderr, "%s: %s\n", what, mdb_strerror(result));
  exit(1);
}

static void wrong(const char* what, uint64_t one, uint64_t other) {
  fprintf(stderr, "%s: %" PRIu64 ", %" PRIu64 "\n", what, one, other);
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void lock(int fd, short type) {
  struct flock all_of_it = {.l_type = type, .l_whence = SEEK_SET};
  while (fcntl(fd, F_OFD_SETLKW, &all_of_it) != 0)
    if (errno != EINTR) must(errno, "the lock");
}

static uint64_t get(MDB_txn* txn, MDB_dbi db, const char* name) {
  MDB_val key = {strlen(name), (void*)name}, value;
  const int found = mdb_get(txn, db, &key, &value);
  if (found == MDB_NOTFOUND) return 0;
  must(found, "get");
  uint64_t count = 0;
  if (value.mv_size != sizeof count) wrong("a value's size", value.mv_size, sizeof count);
  memcpy(&count, value.mv_data, sizeof count);
  return count;
}

static void put(MDB_txn* txn, MDB_dbi db, const char* name, uint64_t count) {
  MDB_val key = {strlen(name), (void*)name}, value = {sizeof count, &count};
  must(mdb_put(txn, db, &key, &value, 0), "put");
}

/* Of all names but "all". */
static uint64_t sum(MDB_txn* txn, MDB_dbi db) {
  uint64_t found = 0, count = 0;
  MDB_cursor* cursor = NULL;
  MDB_val key, value;
  must(mdb_cursor_open(txn, db, &cursor), "cursor");
  while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
    if (key.mv_size == strlen(all) && memcmp(key.mv_data, all, key.mv_size) == 0) continue;
    memcpy(&count, value.mv_data, sizeof count);
    found += count;
  }
  mdb_cursor_close(cursor);
  return found;
}

/* The count of all after it. */
static uint64_t once(MDB_env* env, const char* name, uint64_t done) {
  MDB_txn* txn = NULL;
  MDB_dbi db = 0;
  must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
  must(mdb_dbi_open(txn, NULL, 0, &db), "open the database");
  const uint64_t before = get(txn, db, all), mine = get(txn, db, name), counted = sum(txn, db);
  if (counted != before) wrong("the counts of all names, the count of all", counted, before);
  if (mine != done) wrong("this program's count, its transactions", mine, done);
  put(txn, db, name, mine + 1);
  put(txn, db, all, before + 1);
  must(mdb_txn_commit(txn), "commit");
  return before + 1;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: lmdb_counts FILE SECONDS NAME [writemap]\n");
    return 2;
  }
  char path[4096];
  snprintf(path, sizeof path, "%s.lock", argv[1]);
  const int locks = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (locks < 0) must(errno, path);
  const unsigned flags = MDB_NOSUBDIR | MDB_NOLOCK | (argc > 4 ? MDB_WRITEMAP : 0U);
  MDB_env* env = NULL;
  lock(locks, F_WRLCK); /* who makes it is alone */
  must(mdb_env_create(&env), "make an environment");
  must(mdb_env_set_mapsize(env, map_bytes), "set the size");
  must(mdb_env_open(env, argv[1], flags, 0644), argv[1]);
  lock(locks, F_UNLCK);
  uint64_t done = 0, last = 0;
  for (const double end = now() + atof(argv[2]); now() < end;) {
    lock(locks, F_WRLCK);
    const uint64_t counted = once(env, argv[3], done);
    lock(locks, F_UNLCK);
    if (counted <= last) wrong("the count of all went back from", last, counted);
    last = counted;
    ++done;
  }
  mdb_env_close(env);
  printf("%" PRIu64 " %" PRIu64 "\n", done, last);
  return 0;
}
