// Mounting and unmounting, for root by mount(2) and for others through fusermount3.
// The supervisor alone uses it. No descriptor made here survives an exec.
#pragma once

#include <string>
#include <vector>

#include "alloc/result.h"
#include "alloc/unique_fd.h"

namespace btd {

struct MountRequest {
  std::string source;      // what mount(8) and df show: the pool
  std::string mountpoint;  // absolute
  bool allow_other = true;
  bool read_only = false;
  std::vector<std::string> options;  // as of mount(8)
};

// Checks the options. Errors: EINVAL with the option that is not known.
Status check_mount_options(const std::vector<std::string>& options);

// Mounts; the value is the connection, non-blocking.
Result<UniqueFd> mount_fuse(const MountRequest& request);

// The kernel's INIT request, as bytes. Waits for it: it is sent by the mount itself.
Result<std::string> read_init(int fuse_fd);

// Errors: EBUSY somebody uses it. `lazy`: detach now, end when the last user has gone.
Status unmount_fuse(const std::string& mountpoint, bool lazy);

// What is left of earlier mounts of a pool whose lock the caller has: nobody serves them, unless
// they were mounted from another pool that was at that path. Those are left alone, and what another
// mount hides. The first ends their connections: who waits for an answer gets an error. The second
// detaches them too; the value: where they were.
void end_dead_connections(const std::string& pool);
std::vector<std::string> detach_dead_mounts(const std::string& pool);

// The number of a mount's connection in /sys/fs/fuse/connections; 0 if it cannot be told.
unsigned connection_number(const std::string& mountpoint);

// How far the kernel reads ahead at most in files that go through its page cache. Where it does not
// let itself be told, it stays at its own.
void set_read_ahead(unsigned number, unsigned kib);

// Ends it by fusectl. False: this user may not, or there is no such connection.
bool abort_connection(unsigned number);
// Ends the connection: by fusectl, or where that may not be used by an unmount by force. What waits
// in the kernel fails then, also where somebody has a descriptor of it.
void end_connection(unsigned number, const std::string& mountpoint);

}  // namespace btd
