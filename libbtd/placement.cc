#include "libbtd/placement.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "libbtd/heap_files.h"

namespace btd {
namespace {

constexpr const char* kMount = "/mnt/bartender";
constexpr std::size_t kMaxNameBytes = 64;

std::unexpected<Error> wrong(std::string message) { return fail(EINVAL, std::move(message)); }

// Whether a daemon of ours serves it: only then has it /.btd/status.
bool is_our_mount(const std::string& path) {
  struct statfs fs{};
  if (statfs(path.c_str(), &fs) != 0 || fs.f_type != FUSE_SUPER_MAGIC) return false;
  return access((path + "/.btd/status").c_str(), F_OK) == 0;
}

Settings place_of_user() {
  const std::string user = std::to_string(geteuid());
  Settings settings;
  const char* const pool = secure_getenv("BTD_POOL");
  if (pool != nullptr && *pool != '\0') {
    settings.directory = pool;
  } else if (is_our_mount(kMount)) {
    settings.directory = std::string(kMount) + "/.heaps-" + user;
    settings.own_directory = true;
  } else {
    settings.directory = "/dev/shm/bartender-" + user;
    settings.own_directory = true;
  }
  return settings;
}

Status check_name(std::string_view name) {
  const auto allowed = [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  if (name.empty() || name.size() > kMaxNameBytes || name.front() == '.' ||
      !std::all_of(name.begin(), name.end(), allowed)) {
    return wrong(
        "A heap's name has 1 to 64 letters, digits, '.', '_' or '-', and begins with no '.'.");
  }
  return {};
}

Status check_sizes(const btd_config& config) {
  const std::uint64_t step = HeapFiles::kStepBytes;
  if (config.arena_bytes % step != 0 || config.arena_bytes > kWindowBytes) {
    return wrong("arena_bytes is " + std::to_string(config.arena_bytes) +
                 " but must be a multiple of 2 MiB that fits the heap's window of " +
                 std::to_string(kWindowBytes) + " bytes; 0 takes the default.");
  }
  const std::uint64_t least = std::max(config.arena_bytes, step);
  if (config.max_bytes != 0 && config.max_bytes < least) {
    return wrong("max_bytes is " + std::to_string(config.max_bytes) +
                 " but one arena has at least " + std::to_string(least) + "; raise it.");
  }
  return {};
}

}  // namespace

Result<Settings> read_config(const btd_config& config) {
  if (config.single_node != 0) return place_of_user();
  if (config.directory == nullptr || *config.directory == '\0') {
    return wrong("No directory is set; set config.directory, or single_node for the default.");
  }
  Settings settings;
  settings.directory = config.directory;
  if (config.heap != nullptr) settings.heap = config.heap;
  BTD_TRY(check_name(settings.heap));
  BTD_TRY(check_sizes(config));
  if (config.durability != BTD_DURABLE && config.durability != BTD_PROCESS) {
    return wrong(
        "durability is neither BTD_DURABLE nor BTD_PROCESS; call btd_config_init() first.");
  }
  if (config.gc != BTD_GC_AUTO && config.gc != BTD_GC_MANUAL) {
    return wrong("gc is neither BTD_GC_AUTO nor BTD_GC_MANUAL; call btd_config_init() first.");
  }
  settings.max_bytes = config.max_bytes;
  settings.arena_bytes = config.arena_bytes;
  settings.flush = config.durability == BTD_DURABLE;
  settings.recover_at_open = config.gc == BTD_GC_AUTO;
  settings.gc_threads = config.gc_threads;
  settings.create = config.create != 0;
  settings.map_on_touch = config.map_on_touch != 0;
  settings.reader = config.reader != 0;
  return settings;
}

Result<UniqueFd> open_directory(const Settings& settings) {
  const char* const path = settings.directory.c_str();
  const int follow = settings.own_directory ? O_NOFOLLOW : 0;
  if (settings.own_directory && mkdir(path, 0700) != 0 && errno != EEXIST) {
    return fail(errno, settings.directory + " cannot be made (" + strerrordesc_np(errno) +
                           "); make it with mode 0700 and your user as its owner, or set BTD_POOL "
                           "to a directory of yours.");
  }
  UniqueFd dir(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | follow));
  if (!dir) {
    return fail(errno == ELOOP ? ENOTDIR : errno,
                "The directory " + settings.directory + " cannot be opened (" +
                    strerrordesc_np(errno) + "); make it, or name another.");
  }
  if (!settings.own_directory) return dir;
  struct stat status{};
  if (fstat(dir.get(), &status) != 0) return fail(errno, settings.directory + ": fstat failed.");
  if (status.st_uid != geteuid() || (status.st_mode & 077U) != 0) {
    return fail(EACCES, settings.directory +
                            " must belong to you alone (your user, mode 0700); remove it, or set "
                            "BTD_POOL to a directory of yours.");
  }
  return dir;
}

}  // namespace btd
