// Emulated pools: a file system of exactly the pool's capacity, mounted at POOL, so that capacity
// is enforced by the one who sees every write.
//
//   RAM   a tmpfs, named "bartender" in the mount table
//   disk  an ext4 labelled "bartender" in the image POOL.img, through a loop device. The device
//         keeps the image's open file description, and with it the image's flock: one device an
//         image, for as long as it is mounted, with nothing left behind by a crash.
//
// May touch the mount table, POOL.img and loop devices; never what is inside a mounted pool.
#pragma once

#include <cstdint>
#include <string>

#include "alloc/result.h"
#include "fs/pool/pool.h"

namespace btd::emulation {

// What is mounted at `path`, the uppermost if several are.
struct Mount {
  bool any = false;
  Emulation kind = Emulation::kNone;  // kNone: not one of ours
};
Result<Mount> mount_at(const std::string& path);

[[nodiscard]] std::string image_of(const std::string& path);

// Mounts POOL.img again if it is there, is ours, and POOL has no pool; else does nothing.
Status attach(const std::string& path);

// Both need an empty directory at `path`. make_disk fails with EEXIST if there is an image.
Status mount_ram(const std::string& path, std::uint64_t capacity);
Status make_disk(const std::string& path, std::uint64_t capacity);

// EINVAL where nothing of ours is mounted; EBUSY.
Status detach(const std::string& path);

}  // namespace btd::emulation
