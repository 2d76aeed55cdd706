#include "fs/pool/file_system.h"

#include <linux/magic.h>

#include <cstdio>

namespace btd {

namespace {

constexpr std::uint64_t kZfs = 0x2fc12fc1;

struct Known {
  std::uint64_t type;
  const char* name;
  EntrySync sync;
};

constexpr Known kKnown[] = {
    {TMPFS_MAGIC, "tmpfs", EntrySync::kVolatile},
    {RAMFS_MAGIC, "ramfs", EntrySync::kVolatile},
    {EXT4_SUPER_MAGIC, "ext4", EntrySync::kWithFile},
    {XFS_SUPER_MAGIC, "xfs", EntrySync::kWithFile},
    {BTRFS_SUPER_MAGIC, "btrfs", EntrySync::kWithFile},
    {F2FS_SUPER_MAGIC, "f2fs", EntrySync::kWithDirectory},
    {OVERLAYFS_SUPER_MAGIC, "overlayfs", EntrySync::kWithDirectory},
    {NFS_SUPER_MAGIC, "nfs", EntrySync::kWithDirectory},
    {FUSE_SUPER_MAGIC, "fuse", EntrySync::kWithDirectory},
    {kZfs, "zfs", EntrySync::kWithDirectory},
};

const Known* find(std::uint64_t type) {
  for (const Known& known : kKnown)
    if (known.type == type) return &known;
  return nullptr;
}

}  // namespace

EntrySync needs_entry_sync(std::uint64_t type) {
  const Known* known = find(type);
  return known != nullptr ? known->sync : EntrySync::kWithDirectory;
}

std::string file_system_name(std::uint64_t type) {
  if (const Known* known = find(type)) return known->name;
  char text[32];
  std::snprintf(text, sizeof text, "type 0x%llx", static_cast<unsigned long long>(type));
  return text;
}

bool total_varies(std::uint64_t type) { return type == kZfs; }

}  // namespace btd
