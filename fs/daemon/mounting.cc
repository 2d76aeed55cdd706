#include "fs/daemon/mounting.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include "fs/daemon/control.h"
#include "fs/daemon/protocol.h"
#include "fs/pool/call_within.h"
#include "fs/pool/mount_table.h"

namespace btd {

namespace {

constexpr std::size_t kInitBuffer = 8192;  // the smallest that the kernel takes
constexpr int kInitWaitMs = 10'000;
constexpr std::chrono::seconds kAnswerPatience{2};

struct Flag {
  const char* name;
  unsigned long set, clear;
};

constexpr Flag kFlags[] = {
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"noatime", MS_NOATIME, 0},
    {"atime", 0, MS_NOATIME},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"relatime", MS_RELATIME, 0},
    {"norelatime", 0, MS_RELATIME},
    {"strictatime", MS_STRICTATIME, 0},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
};
// What fstab(5) says to other programs.
constexpr const char* kIgnored[] = {
    "defaults", "auto",   "noauto",  "user",        "nouser",
    "users",    "nofail", "_netdev", "allow_other", "default_permissions"};

const Flag* find_flag(const std::string& name) {
  for (const Flag& flag : kFlags)
    if (name == flag.name) return &flag;
  return nullptr;
}

bool is_ignored(const std::string& name) {
  return name.starts_with("x-") || name.empty() ||
         std::ranges::any_of(kIgnored, [&](const char* known) { return name == known; });
}

unsigned long mount_flags(const MountRequest& request) {
  unsigned long flags = request.read_only ? MS_RDONLY : 0;
  for (const std::string& option : request.options)
    if (const Flag* flag = find_flag(option)) flags = (flags | flag->set) & ~flag->clear;
  return flags;
}

std::string describe(int error) { return strerrordesc_np(error); }

Status set_nonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return fail(errno);
  return {};
}

Result<UniqueFd> mount_as_root(const MountRequest& request, mode_t root_mode) {
  UniqueFd fd(open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd)
    return fail(errno, "cannot open /dev/fuse: " + describe(errno) +
                           "; load the kernel module fuse (modprobe fuse)");
  std::ostringstream data;
  data << "fd=" << fd.get() << ",rootmode=" << std::oct << (root_mode & S_IFMT) << std::dec
       << ",user_id=" << getuid() << ",group_id=" << getgid() << ",default_permissions";
  if (request.allow_other) data << ",allow_other";
  if (mount(request.source.c_str(), request.mountpoint.c_str(), "fuse.bartender",
            mount_flags(request), data.str().c_str()) != 0)
    return fail(errno, "cannot mount on " + request.mountpoint + ": " + describe(errno));
  return fd;
}

Status run_fusermount(const std::vector<std::string>& arguments, int inherited_fd) {
  std::vector<char*> argv;
  std::string program = "fusermount3";
  argv.push_back(program.data());
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // dup2 onto itself clears close-on-exec in the child only.
  if (inherited_fd >= 0) posix_spawn_file_actions_adddup2(&actions, inherited_fd, inherited_fd);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return fail(error, "cannot run fusermount3: " + describe(error) +
                           "; install the package fuse3, or mount as root");
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return fail(EPERM, "fusermount3 refused; its message is above");
  return {};
}

std::string joined_options(const MountRequest& request) {
  std::string text = "default_permissions,subtype=bartender,fsname=";
  for (char c : request.source) {
    if (c == ',' || c == '\\') text.push_back('\\');
    text.push_back(c);
  }
  if (request.allow_other) text += ",allow_other";
  if (request.read_only) text += ",ro";
  for (const std::string& option : request.options)
    if (find_flag(option) != nullptr) text += "," + option;
  return text;
}

Result<UniqueFd> mount_as_user(const MountRequest& request) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return fail(errno);
  UniqueFd ours(fds[0]), theirs(fds[1]);
  setenv("_FUSE_COMMFD", std::to_string(theirs.get()).c_str(), 1);
  const Status ran =
      run_fusermount({"-o", joined_options(request), "--", request.mountpoint}, theirs.get());
  unsetenv("_FUSE_COMMFD");
  if (!ran) return std::unexpected(ran.error());
  theirs.reset();
  char byte = 0;
  iovec part{&byte, 1};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  const cmsghdr* header = nullptr;
  if (recvmsg(ours.get(), &message, MSG_CMSG_CLOEXEC) > 0) header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS)
    return fail(EPROTO, "fusermount3 sent no connection; install fuse3 3.10 or newer");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
  UniqueFd result(fd);
  BTD_TRY(set_nonblocking(fd));
  return result;
}

// Of the pool by its path; but one that was mounted from there before another pool took that place
// is served, and answers. One that another mount hides cannot be asked, and is left alone.
bool is_dead(const MountEntry& mount, const std::string& pool) {
  if (!mount.is_of_pool(pool) || !is_uppermost(mount)) return false;
  const auto asked = call_within(kAnswerPatience, [where = mount.directory] {
    struct statx found{};
    return statx(AT_FDCWD, where.c_str(), AT_STATX_FORCE_SYNC | AT_NO_AUTOMOUNT, STATX_INO,
                 &found) == 0;
  });
  return !asked.value_or(false);
}

// Where it is not mounted, a mount of it that stands in no table; that takes root.
UniqueFd open_fusectl() {
  constexpr std::uint32_t kMagic = 0x65735543;  // FUSE_CTL_SUPER_MAGIC
  UniqueFd there(open("/sys/fs/fuse/connections", O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct statfs facts{};
  if (there && fstatfs(there.get(), &facts) == 0 &&
      static_cast<std::uint32_t>(facts.f_type) == kMagic)
    return there;
  const UniqueFd context(fsopen("fusectl", FSOPEN_CLOEXEC));
  if (!context || fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return {};
  return UniqueFd(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

}  // namespace

Status check_mount_options(const std::vector<std::string>& options) {
  for (const std::string& option : options)
    if (find_flag(option) == nullptr && !is_ignored(option))
      return fail(EINVAL, "unknown mount option '" + option +
                              "'; mount.bartender(8) lists those that there are");
  return {};
}

Result<UniqueFd> mount_fuse(const MountRequest& request) {
  struct stat st{};
  if (stat(request.mountpoint.c_str(), &st) != 0)
    return fail(errno, "the mount point " + request.mountpoint + " cannot be used: " +
                           describe(errno) + (errno == ENOENT ? "; create it (mkdir -p)" : ""));
  if (!S_ISDIR(st.st_mode))
    return fail(ENOTDIR, "the mount point " + request.mountpoint + " is not a directory");
  if (geteuid() == 0) return mount_as_root(request, st.st_mode);
  return mount_as_user(request);
}

Result<std::string> read_init(int fuse_fd) {
  pollfd wait{fuse_fd, POLLIN, 0};
  if (poll(&wait, 1, kInitWaitMs) != 1)
    return fail(ETIMEDOUT, "the kernel did not begin the conversation over /dev/fuse");
  std::string bytes(kInitBuffer, '\0');
  const ssize_t n = read(fuse_fd, bytes.data(), bytes.size());
  if (n < 0) return fail(errno, "cannot read from /dev/fuse: " + describe(errno));
  bytes.resize(static_cast<std::size_t>(n));
  proto::InHeader header{};
  if (bytes.size() < sizeof header) return fail(EPROTO, "a short request came over /dev/fuse");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.opcode != proto::kInit)
    return fail(EPROTO, "the kernel's first request is not INIT; is this a fresh mount?");
  return bytes;
}

Status unmount_fuse(const std::string& mountpoint, bool lazy) {
  if (geteuid() != 0) {
    std::vector<std::string> arguments = {"-u", "-q"};
    if (lazy) arguments.emplace_back("-z");
    arguments.insert(arguments.end(), {"--", mountpoint});
    if (!run_fusermount(arguments, -1)) return fail(EBUSY);
    return {};
  }
  if (umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) != 0)
    return fail(errno);
  return {};
}

// Without fusectl, by an unmount that only ends the connection where somebody uses the mount.
void end_dead_connections(const std::string& pool) {
  const auto mounts = mounts_now();
  if (!mounts) return;
  for (const MountEntry& mount : *mounts)
    if (is_dead(mount, pool) && !abort_connection(mount.device) && is_uppermost(mount))
      (void)umount2(mount.directory.c_str(), UMOUNT_NOFOLLOW | MNT_FORCE);
}

// Of several at one directory the last is the uppermost. What lies under another's is its user's to
// deal with.
std::vector<std::string> detach_dead_mounts(const std::string& pool) {
  std::vector<std::string> detached;
  auto mounts = mounts_now();
  if (!mounts) return detached;
  std::ranges::reverse(*mounts);
  for (const MountEntry& mount : *mounts) {
    if (!is_dead(mount, pool)) continue;
    end_connection(mount.device, mount.directory);
    if (is_uppermost(mount)) (void)unmount_fuse(mount.directory, true);
    if (!is_uppermost(mount)) detached.push_back(mount.directory);
  }
  return detached;
}

unsigned connection_number(const std::string& mountpoint) {
  // The table is asked, since asking the mount itself would be a request to it.
  const auto mounts = mounts_now();
  unsigned number = 0;
  if (!mounts) return number;
  for (const MountEntry& mount : *mounts)
    if (mount.directory == mountpoint && mount.type.starts_with("fuse")) number = mount.device;
  return number;
}

void set_read_ahead(unsigned number, unsigned kib) {
  std::ofstream("/sys/class/bdi/0:" + std::to_string(number) + "/read_ahead_kb") << kib;
}

bool abort_connection(unsigned number) {
  if (number == 0) return false;
  const UniqueFd control = open_fusectl();
  const UniqueFd fd(
      openat(control.get(), (std::to_string(number) + "/abort").c_str(), O_WRONLY | O_CLOEXEC));
  return fd && write(fd.get(), "1", 1) == 1;
}

void end_connection(unsigned number, const std::string& mountpoint) {
  if (abort_connection(number)) return;
  // Not whatever is mounted there now: only that connection.
  const auto uppermost = number == 0 ? std::nullopt : uppermost_mount(mountpoint);
  if (uppermost && uppermost->device == number && uppermost->type.starts_with("fuse"))
    (void)umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | MNT_FORCE | MNT_DETACH);
}

}  // namespace btd
