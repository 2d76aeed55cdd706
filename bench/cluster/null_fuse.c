/* The least that a FUSE daemon can do for a fault: one thread, one file, READs are answered from
 * memory. The baseline of faults on files of other nodes.
 *
 *   null_fuse DIRECTORY BYTES     mounts, serves DIRECTORY/file, until it is unmounted or ended
 */
#include <errno.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { kFile = 2, kLargestRead = 1 << 20 };

static size_t file_bytes;
static char memory[kLargestRead];

static struct stat attributes(fuse_ino_t id) {
  struct stat st = {.st_ino = id, .st_nlink = 1, .st_blksize = 4096};
  st.st_mode = id == kFile ? S_IFREG | 0644 : S_IFDIR | 0755;
  st.st_size = id == kFile ? (off_t)file_bytes : 4096;
  return st;
}

static void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  if (parent != FUSE_ROOT_ID || strcmp(name, "file") != 0) {
    fuse_reply_err(req, ENOENT);
    return;
  }
  const struct fuse_entry_param entry = {
      .ino = kFile, .attr = attributes(kFile), .attr_timeout = 3600, .entry_timeout = 3600};
  fuse_reply_entry(req, &entry);
}

static void getattr(fuse_req_t req, fuse_ino_t id, struct fuse_file_info* fi) {
  (void)fi;
  const struct stat st = attributes(id);
  fuse_reply_attr(req, &st, 3600);
}

static void open_file(fuse_req_t req, fuse_ino_t id, struct fuse_file_info* fi) {
  (void)id;
  fi->noflush = 1;
  fuse_reply_open(req, fi);
}

static void read_file(fuse_req_t req, fuse_ino_t id, size_t size, off_t offset,
                      struct fuse_file_info* fi) {
  (void)id;
  (void)fi;
  const size_t at = (size_t)offset;
  size_t count = at >= file_bytes ? 0 : file_bytes - at;
  if (count > size) count = size;
  fuse_reply_buf(req, memory, count > sizeof(memory) ? sizeof(memory) : count);
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: null_fuse DIRECTORY BYTES\n");
    return 64;
  }
  file_bytes = strtoull(argv[2], NULL, 10);
  memset(memory, 1, sizeof(memory));
  const struct fuse_lowlevel_ops ops = {
      .lookup = lookup, .getattr = getattr, .open = open_file, .read = read_file};
  struct fuse_args args = FUSE_ARGS_INIT(1, argv);
  struct fuse_session* session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
  if (session == NULL || fuse_session_mount(session, argv[1]) != 0) return 1;
  fuse_set_signal_handlers(session);
  const int result = fuse_session_loop(session);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return result != 0 && result != SIGTERM;
}
