#include "fs/pool/emulate.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "fs/pool/mount_table.h"
#include "fs/pool/run_program.h"
#include "fs/pool/sentences.h"

namespace btd::emulation {

namespace {

constexpr char kLabel[] = "bartender";
constexpr char kDiskOptions[] = "minixdf";  // the total is the capacity, not what ext4 leaves of it
constexpr unsigned long kMountFlags = MS_NODEV | MS_NOSUID;

Result<std::string> canonical(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return cannot("look at " + path, errno);
  std::string text = resolved;
  ::free(resolved);
  return text;
}

// Whether the device shows this image.
bool shows_image(const std::string& device, const std::string& image) {
  const UniqueFd fd(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  loop_info64 info{};
  struct stat file{};
  return fd && ::ioctl(fd.get(), LOOP_GET_STATUS64, &info) == 0 &&
         ::stat(image.c_str(), &file) == 0 && info.lo_inode == file.st_ino &&
         info.lo_device == file.st_dev;
}

// Ours by its label: a file that merely has the right name is not to be mounted.
bool is_ours(int image) {
  constexpr off_t kLabelAt = 1024 + 120;  // s_volume_name of ext4's superblock
  char label[16] = {};
  return ::pread(image, label, sizeof label, kLabelAt) == sizeof label &&
         std::strncmp(label, kLabel, sizeof label) == 0;
}

std::unexpected<Error> mount_failed(const std::string& path, int code) {
  if (code == EPERM || code == EACCES)
    return fail(EPERM, "an emulated pool is a file system of its own at " + path +
                           ", and mounting one needs root; run btd as root");
  return cannot("mount an emulated pool at " + path, code);
}

// A free loop device that shows the image until it is unmounted.
Result<UniqueFd> bind_loop(int image, std::string& device) {
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control && (errno == ENOENT || errno == ENXIO || errno == ENODEV))
    return fail(ENODEV,
                "a pool emulated on disk needs a loop device, and this machine has no "
                "/dev/loop-control; load the module loop, or use btd format --emulate ram");
  if (!control) return mount_failed("a loop device", errno);
  constexpr int kTries = 64;  // others may take the device that was free a moment ago
  for (int i = 0; i < kTries; ++i) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return cannot("find a free loop device", errno);
    device = "/dev/loop" + std::to_string(number);
    UniqueFd fd(::open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) return cannot("open the loop device " + device, errno);
    loop_config config{};
    config.fd = static_cast<__u32>(image);
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    std::strncpy(reinterpret_cast<char*>(config.info.lo_file_name), kLabel, LO_NAME_SIZE - 1);
    if (::ioctl(fd.get(), LOOP_CONFIGURE, &config) == 0) return fd;
    if (errno != EBUSY) return cannot("show the image through " + device, errno);
  }
  return fail(EBUSY, "every free loop device was taken by others at once; try again");
}

bool has_superblock(const std::string& path) {
  return ::access((path + "/superblock").c_str(), F_OK) == 0;
}

// True: locked. False: another process mounted it meanwhile, or has it mounted elsewhere. A device
// lets go of its image shortly after the unmount, so it is asked for a while.
Result<bool> lock_image(int image, const std::string& path) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (::flock(image, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return cannot("lock " + image_of(path), errno);
    if (has_superblock(path)) return false;
    if (std::chrono::steady_clock::now() > deadline)
      return fail(EBUSY, image_of(path) + " is in use by another process or mounted elsewhere; " +
                             "unmount it there first");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

Status mount_image(const std::string& path, int image) {
  std::string device;
  BTD_ASSIGN(const UniqueFd loop, bind_loop(image, device));
  if (::mount(device.c_str(), path.c_str(), "ext4", kMountFlags, kDiskOptions) != 0) {
    const int code = errno;
    if (code == EPERM || code == EACCES) return mount_failed(path, code);
    return fail(code, "cannot mount " + image_of(path) + " at " + path + ": " + errno_text(code) +
                          "; if it was cut off or damaged, e2fsck -f " + image_of(path) +
                          " may repair it");
  }
  return {};
}

Status check_disk_capacity(const std::string& image, std::uint64_t capacity) {
  const std::string parent = image.substr(0, image.rfind('/') + 1);
  struct statvfs host{};
  if (::statvfs(parent.c_str(), &host) != 0) return cannot("look at " + parent, errno);
  if (capacity > host.f_bavail * host.f_frsize)
    return fail(EINVAL, "a pool of " + std::to_string(capacity) + " bytes is too large: " + parent +
                            " has " + std::to_string(host.f_bavail * host.f_frsize) +
                            " bytes free; choose a smaller --capacity");
  return {};
}

// An ext4 that gives what it can to files: no blocks kept for root, none to grow the file system
// by. Nothing is left to be initialised in the background: a new sparse file reads as zeros.
Status make_file_system(const std::string& image) {
  const RunResult made = run_program(
      {"mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-i", "8192", "-L", kLabel, "-O",
       "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=1,root_owner=0:0", image});
  if (made.code == 0) return {};
  if (!made.started)
    return fail(ENOENT, "a pool emulated on disk needs mkfs.ext4; install e2fsprogs");
  return fail(EIO, "mkfs.ext4 could not make a file system in " + image + ": " + made.errors);
}

}  // namespace

std::string image_of(const std::string& path) { return path + ".img"; }

Result<Mount> mount_at(const std::string& path) {
  BTD_ASSIGN(const std::string point, canonical(path));
  const auto row = uppermost_mount(point);
  if (!row) return Mount{};
  if (row->type == "tmpfs" && row->source == kLabel) return Mount{true, Emulation::kRam};
  if (row->source.starts_with("/dev/loop") && shows_image(row->source, image_of(point)))
    return Mount{true, Emulation::kDisk};
  return Mount{true, Emulation::kNone};
}

Status attach(const std::string& path) {
  if (has_superblock(path)) return {};
  // What cannot be resolved is for the caller to judge.
  const auto point = canonical(path);
  if (!point) return {};
  const std::string image = image_of(*point);
  const UniqueFd fd(::open(image.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd && errno == ENOENT) return {};
  if (!fd) return cannot("open the pool's image " + image, errno);
  if (!is_ours(fd.get())) return {};
  BTD_ASSIGN(const Mount before, mount_at(*point));
  if (before.any) return {};
  BTD_ASSIGN(const bool locked, lock_image(fd.get(), *point));
  if (!locked) return {};
  BTD_ASSIGN(const Mount now, mount_at(*point));
  if (now.any) return {};
  return mount_image(*point, fd.get());
}

Status mount_ram(const std::string& path, std::uint64_t capacity) {
  struct sysinfo machine{};
  if (::sysinfo(&machine) != 0) return cannot("ask for the machine's memory", errno);
  const std::uint64_t memory = std::uint64_t{machine.totalram} * machine.mem_unit;
  if (capacity > memory)
    return fail(EINVAL, "a pool of " + std::to_string(capacity) +
                            " bytes in RAM is too large: this machine has " +
                            std::to_string(memory) + " bytes; choose a smaller --capacity");
  // tmpfs would allow one file for every two pages of RAM, which small files of a small pool
  // exceed.
  const std::uint64_t files = std::max<std::uint64_t>(capacity / 1024, 65536);
  const std::string options =
      "mode=0700,size=" + std::to_string(capacity) + ",nr_inodes=" + std::to_string(files);
  if (::mount(kLabel, path.c_str(), "tmpfs", kMountFlags, options.c_str()) != 0)
    return mount_failed(path, errno);
  return {};
}

Status make_disk(const std::string& path, std::uint64_t capacity) {
  BTD_ASSIGN(const std::string point, canonical(path));
  const std::string image = image_of(point), fresh = image + ".new";
  BTD_TRY(check_disk_capacity(image, capacity));
  if (::access(image.c_str(), F_OK) == 0) return fail(EEXIST, image + " exists");
  const UniqueFd fd(::open(fresh.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return cannot("create the image " + fresh, errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(EBUSY, fresh + " is being made by another process; try again when that is done");
  Status made = [&]() -> Status {
    if (::ftruncate(fd.get(), 0) != 0 || ::ftruncate(fd.get(), static_cast<off_t>(capacity)) != 0)
      return cannot("give the image " + fresh + " its size", errno);
    BTD_TRY(make_file_system(fresh));
    if (::fsync(fd.get()) != 0) return cannot("sync the image " + fresh, errno);
    if (::rename(fresh.c_str(), image.c_str()) != 0)
      return cannot("name the image " + image, errno);
    return mount_image(point, fd.get());
  }();
  if (!made) {
    ::unlink(fresh.c_str());
    ::unlink(image.c_str());
    return made;
  }
  if (::chmod(point.c_str(), 0700) != 0) return cannot("set the permissions of " + point, errno);
  return {};
}

Status detach(const std::string& path) {
  BTD_ASSIGN(const std::string point, canonical(path));
  BTD_ASSIGN(const Mount mount, mount_at(point));
  if (mount.kind == Emulation::kNone)
    return fail(EINVAL,
                "no emulated pool is mounted at " + point + "; there is nothing to unmount");
  if (::umount2(point.c_str(), UMOUNT_NOFOLLOW) == 0) return {};
  if (errno == EBUSY)
    return fail(EBUSY,
                "the pool " + point + " is in use; stop its mount and close its files first");
  if (errno == EPERM) return fail(EPERM, "unmounting the pool " + point + " needs root");
  return cannot("unmount the pool " + point, errno);
}

}  // namespace btd::emulation
