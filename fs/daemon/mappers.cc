#include "fs/daemon/mappers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "alloc/unique_fd.h"
#include "fs/daemon/mounting.h"
#include "fs/namespace/layout.h"
#include "fs/pool/mount_table.h"
#include "fs/pool/text_file.h"

namespace btd {

namespace {

using nlohmann::json;
using std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(10);
constexpr auto kPause = std::chrono::milliseconds(10);
constexpr unsigned kUniqueMountId =
    0x4000;  // STATX_MNT_ID_UNIQUE, newer than the C library's header

rows::Key note_key() { return rows::Key('m').name("mount"); }

// Empty if it is not there, may not be read, or goes away meanwhile, as a process does.
std::string text_of(const std::string& path) { return read_file(path).value_or(std::string()); }

// Asks no file system: it might be one that does not answer. 0: the kernel does not tell.
Result<std::uint64_t> mount_of(const std::string& path) {
  struct statx found{};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, kUniqueMountId,
              &found) != 0)
    return fail(errno);
  return (found.stx_mask & kUniqueMountId) == 0 ? 0 : found.stx_mnt_id;
}

// Of a process whose first thread has ended, the others tell.
std::string maps_of(const std::string& process) {
  std::string text = text_of(process + "/maps");
  if (!text.empty()) return text;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(process + "/task", error))
    if (text = text_of(task.path() / "maps"); !text.empty()) break;
  return text;
}

// Programs of the noted mount.
class Mappers {
 public:
  Mappers(const MountNote& note, const std::string& source, const Namespace& names)
      : note_(note),
        source_(source),
        names_(names),
        is_listed_(lists_mount(text_of("/proc/self/mountinfo"), note.device, source)) {}

  // Ends all that it finds; the value is one of them, as a sentence names it. None: nullopt.
  Result<std::optional<std::string>> end_all() {
    std::optional<std::string> one;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
      const std::string name = entry.path().filename();
      pid_t pid = 0;
      const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), pid);
      if (wrong != std::errc{} || end != name.data() + name.size()) continue;
      BTD_ASSIGN(const bool found, end_one(pid));
      if (found) one = described(pid);
    }
    if (error) return fail(error.value(), "the processes of this machine cannot be looked at");
    return one;
  }

 private:
  // The descriptor comes first: by it no other process that got the number later can be met.
  Result<bool> end_one(pid_t pid) {
    const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process) return false;
    BTD_ASSIGN(const bool is_mapper, maps_some(pid));
    if (!is_mapper) return false;
    if (::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0) == 0) {
      if (told_.insert(pid).second)
        spdlog::warn("{} has coherent files of a mount mapped that has ended; it is killed",
                     described(pid));
      return true;
    }
    if (errno == ESRCH) return false;
    return fail(errno,
                fmt::format("{} has coherent files of a mount mapped that has ended, and may "
                            "not be ended by this user; end it",
                            described(pid)));
  }

  Result<bool> maps_some(pid_t pid) const {
    const std::string process = fmt::format("/proc/{}", pid);
    for (const MappedRange& range : ranges_of_device(maps_of(process), note_.device)) {
      const auto inode = names_.get(range.inode);
      // Who maps a file that is nobody's any more may go on.
      if (!inode && inode.error().code != ENOENT) return std::unexpected(inode.error());
      if (!inode || (inode->flags & kInodeCoherent) == 0) continue;
      BTD_ASSIGN(const bool is_mapper, is_of_mount(pid, range));
      if (is_mapper) return true;
    }
    return false;
  }

  // Or of another one that has the device's number now. One that was detached stands in no table,
  // one that was cloned into another namespace has another number there.
  Result<bool> is_of_mount(pid_t pid, const MappedRange& range) const {
    const std::string process = fmt::format("/proc/{}", pid);
    if (is_listed_ && lists_mount(text_of(process + "/mountinfo"), note_.device, source_))
      return true;
    if (note_.mount == 0) return false;
    const auto mount =
        mount_of(fmt::format("{}/map_files/{:x}-{:x}", process, range.begin, range.end));
    if (mount) return *mount == note_.mount;
    // It was unmapped meanwhile.
    if (mount.error().code == ENOENT || mount.error().code == ESRCH) return false;
    return fail(EPERM,
                fmt::format("{} maps a file that may be of a mount that has ended, which this "
                            "user may not find out; end it, or let root mount the pool",
                            described(pid)));
  }

  static std::string described(pid_t pid) {
    std::string name = text_of(fmt::format("/proc/{}/comm", pid));
    if (name.ends_with('\n')) name.pop_back();
    return fmt::format("process {} ({})", pid, name);
  }

  const MountNote& note_;
  const std::string& source_;
  const Namespace& names_;
  const bool is_listed_;  // here
  std::set<pid_t> told_;
};

}  // namespace

std::string MountNote::to_row() const {
  return json{{"boot", boot}, {"device", device}, {"mount", mount}}.dump();
}

std::optional<MountNote> MountNote::from_row(std::string_view row) {
  const auto parsed = json::parse(row, nullptr, false);
  if (!parsed.is_object()) return std::nullopt;
  const auto boot = parsed.find("boot"), device = parsed.find("device"),
             mount = parsed.find("mount");
  if (boot == parsed.end() || device == parsed.end() || mount == parsed.end() ||
      !boot->is_string() || !device->is_number_unsigned() || !mount->is_number_unsigned())
    return std::nullopt;
  return MountNote{boot->get<std::string>(), device->get<unsigned>(), mount->get<std::uint64_t>()};
}

std::vector<MappedRange> ranges_of_device(std::string_view maps, unsigned device) {
  std::vector<MappedRange> ranges;
  const std::string wanted = fmt::format("00:{:02x}", device);
  std::istringstream lines{std::string(maps)};
  for (std::string line; std::getline(lines, line);) {
    // begin-end rights offset major:minor inode path
    std::istringstream fields(line);
    MappedRange range;
    char dash = 0;
    std::string rights, offset, where;
    fields >> std::hex >> range.begin >> dash >> range.end >> rights >> offset >> where >>
        std::dec >> range.inode;
    if (fields && where == wanted) ranges.push_back(range);
  }
  return ranges;
}

bool lists_mount(std::string_view mountinfo, unsigned device, std::string_view source) {
  return std::ranges::any_of(parse_mountinfo(mountinfo), [&](const MountEntry& mount) {
    return mount.device == device && mount.is_of_pool(source);
  });
}

Status note_mount(MetaStore& pool, const std::string& mountpoint) {
  BTD_ASSIGN(std::string boot, boot_id());
  const MountNote note{std::move(boot), connection_number(mountpoint),
                       mount_of(mountpoint).value_or(0)};
  if (note.device == 0) return fail(ENODEV, mountpoint + " is not among the mounts");
  BTD_ASSIGN(const auto before, pool.get(note_key()));
  if (before == note.to_row()) return {};
  Batch batch;
  batch.put(note_key(), note.to_row());
  return pool.commit(batch);
}

Status forget_mount(MetaStore& pool) {
  BTD_ASSIGN(const auto before, pool.get(note_key()));
  if (!before) return {};
  Batch batch;
  batch.erase(note_key());
  return pool.commit(batch);
}

Result<std::optional<MountNote>> noted_mount(const MetaStore& pool) {
  BTD_ASSIGN(const auto row, pool.get(note_key()));
  auto note = row ? MountNote::from_row(*row) : std::nullopt;
  BTD_ASSIGN(const std::string boot, boot_id());
  if (note && note->boot != boot) note.reset();
  return note;
}

Status end_mappers(const MetaStore& pool, const std::string& source, const Namespace& names) {
  BTD_ASSIGN(const auto note, noted_mount(pool));
  if (!note) return {};
  Mappers mappers(*note, source, names);
  for (const auto until = steady_clock::now() + kPatience;;) {
    BTD_ASSIGN(const auto one, mappers.end_all());
    if (!one) return {};
    if (steady_clock::now() >= until)
      return fail(EBUSY, *one +
                             " has coherent files of the mount mapped that ended before, and "
                             "does not end; see what it waits for, and mount again");
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace btd
