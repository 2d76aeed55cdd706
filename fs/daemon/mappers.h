// Programs that have coherent files of an earlier mount mapped.
//
// When all processes of a mount are killed, the kernel keeps the pages that programs have mapped,
// and these go on loading and storing: coherent only as long as no other node gets the pages. Home
// gives them away when the node is mounted anew. So before it enters the cluster again, a mount
// ends the programs that are left of the one before it.
//
// What tells them is noted in the pool while it is mounted. A device number alone would not do: it
// is given away again when the last user of that mount has gone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "alloc/metastore.h"
#include "alloc/result.h"
#include "fs/namespace/namespace.h"

namespace btd {

struct MountNote {
  std::string boot;         // of the machine: its boot_id
  unsigned device = 0;      // minor number, in the maps of programs
  std::uint64_t mount = 0;  // never used twice in a boot; 0: this kernel does not tell (before 6.8)

  [[nodiscard]] std::string to_row() const;
  static std::optional<MountNote> from_row(std::string_view row);
};

// One that maps a file, as a line of /proc/PID/maps says.
struct MappedRange {
  std::uint64_t begin = 0, end = 0;
  InodeId inode = 0;
};
[[nodiscard]] std::vector<MappedRange> ranges_of_device(std::string_view maps, unsigned device);

// Whether such a text (/proc/PID/mountinfo) has the mount of the pool `source` under that device.
[[nodiscard]] bool lists_mount(std::string_view mountinfo, unsigned device,
                               std::string_view source);

// Notes the mount in the pool, before it serves anything; forgets it when nothing can be left of
// it. Errors: the store's; ENODEV the mount is not to be found.
Status note_mount(MetaStore& pool, const std::string& mountpoint);
Status forget_mount(MetaStore& pool);
// The one that is noted, if it is of this boot.
Result<std::optional<MountNote>> noted_mount(const MetaStore& pool);

// Ends (SIGKILL) the programs that map a coherent file of the noted mount, and waits until none is
// left, 10 s at most. `source`: the pool's path. Those in other mount namespaces are found as long
// as the mount is still in the table here. Those that this user may not look at are not found.
// Errors: EBUSY one does not end; EPERM one may not be ended, or it cannot be told whether it is
// one; those of Namespace::get().
Status end_mappers(const MetaStore& pool, const std::string& source, const Namespace& names);

}  // namespace btd
