// btd ls: the allocations of a mount, each with its home, mode, size and extents.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "alloc/unique_fd.h"
#include "fs/cli/command.h"
#include "fs/cli/exit_code.h"
#include "fs/cli/extents.h"
#include "fs/cli/mount_table.h"
#include "fs/cli/size.h"
#include "fs/cli/terminal.h"
#include "fs/pool/sentences.h"

namespace btd::cli {
namespace {

namespace stdfs = std::filesystem;

constexpr const char* kExamples = R"(Examples:
  btd ls                           the allocations at the top of the only mount
  btd ls -R /mnt/bartender/data
  btd ls --json /mnt/bartender/a.bin | jq '.[0].backing'

HOME is the node that serves the allocation, MODE how it is accessed (direct or coherent;
bartender.7 explains both), ALLOCATED what it takes of the pool, EXTENTS in how many pieces.
An allocation is a regular file: directories, links and devices are not listed.)";

constexpr const char* kOwnDirectory = ".btd";
constexpr std::uint64_t kStatBlock = 512;

struct Allocation {
  std::string path, id, home, mode, backing;
  std::uint64_t size = 0, allocated = 0;
  std::optional<std::uint64_t> extents;  // unset where the caller may not read the file
};

Result<std::string> attribute(const std::string& path, const char* name) {
  std::array<char, 4096> value{};
  const ssize_t size = ::lgetxattr(path.c_str(), name, value.data(), value.size());
  if (size < 0) return errno_of(path + ": " + name);
  return std::string(value.data(), static_cast<std::size_t>(size));
}

// Through the backing file where the caller may: the pool's file system knows its extents.
std::optional<std::uint64_t> extents_of(const std::string& path, const std::string& backing) {
  for (const std::string& candidate : {backing, path}) {
    const UniqueFd file(::open(candidate.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME));
    if (!file) continue;
    if (const auto count = count_extents(file.get())) return *count;
  }
  return std::nullopt;
}

class LsCommand : public Command {
 public:
  void declare(Arguments& take) override {
    take.options("PATH", paths_, "Files, or directories whose files to list; default: the mount");
    take.flag("-R,--recursive", recursive_, "Go into directories");
    take.flag("--json", json_, "As JSON, in bytes");
    take.examples(kExamples);
  }

  Result<int> run(const Globals&) override {
    if (paths_.empty()) {
      BTD_ASSIGN(const MountEntry mount, find_mount(std::nullopt));
      paths_.push_back(mount.directory);
    }
    for (const std::string& path : paths_) {
      BTD_ASSIGN(const MountEntry mount, find_mount(path));
      BTD_TRY(collect(path, mount));
    }
    show();
    return kExitOk;
  }

 private:
  Status collect(const std::string& path, const MountEntry& mount) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) {
      return errno_of(path);
    }
    if (S_ISREG(info.st_mode)) return add(path, mount.source);
    if (S_ISDIR(info.st_mode)) return collect_directory(path, mount);
    return fail(EINVAL, fmt::format("{} is no allocation: only regular files are", path));
  }

  Status collect_directory(const std::string& directory, const MountEntry& mount) {
    std::vector<std::string> files, directories;
    std::error_code error;
    for (stdfs::directory_iterator entry(directory, error), end; !error && entry != end;
         entry.increment(error)) {
      const stdfs::file_type type = entry->symlink_status(error).type();
      if (type == stdfs::file_type::regular) files.push_back(entry->path());
      if (type == stdfs::file_type::directory && entry->path().filename() != kOwnDirectory) {
        directories.push_back(entry->path());
      }
    }
    if (error) return fail(error.value(), fmt::format("{}: {}", directory, error.message()));
    std::sort(files.begin(), files.end());
    std::sort(directories.begin(), directories.end());
    for (const std::string& file : files) {
      // A file that was removed since is no error: nobody asked for it by name.
      if (const Status added = add(file, mount.source); !added && added.error().code != ENOENT) {
        return added;
      }
    }
    if (!recursive_) return {};
    for (const std::string& child : directories) BTD_TRY(collect_directory(child, mount));
    return {};
  }

  Status add(const std::string& path, const std::string& pool) {
    Allocation allocation;
    allocation.path = path;
    BTD_ASSIGN(allocation.id, attribute(path, "user.btd.id"));
    BTD_ASSIGN(allocation.home, attribute(path, "user.btd.home"));
    BTD_ASSIGN(allocation.mode, attribute(path, "user.btd.mode"));
    BTD_ASSIGN(allocation.backing, attribute(path, "user.btd.backing"));
    struct stat info{};
    if (::lstat(path.c_str(), &info) != 0) {
      return errno_of(path);
    }
    allocation.size = static_cast<std::uint64_t>(info.st_size);
    allocation.allocated = static_cast<std::uint64_t>(info.st_blocks) * kStatBlock;
    allocation.extents = extents_of(path, stdfs::path(pool) / allocation.backing);
    found_.push_back(std::move(allocation));
    return {};
  }

  void show() const {
    if (json_) {
      nlohmann::ordered_json rows = nlohmann::ordered_json::array();
      for (const Allocation& a : found_) {
        rows.push_back({{"path", a.path},
                        {"id", a.id},
                        {"home", a.home},
                        {"mode", a.mode},
                        {"backing", a.backing},
                        {"size", a.size},
                        {"allocated", a.allocated},
                        {"extents", a.extents ? nlohmann::ordered_json(*a.extents) : nullptr}});
      }
      // A name need not be UTF-8, but JSON must.
      fmt::print("{}\n", rows.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
      return;
    }
    std::vector<std::vector<std::string>> rows;
    rows.reserve(found_.size());
    for (const Allocation& a : found_) {
      rows.push_back({a.id, a.home, a.mode, format_size(a.size), format_size(a.allocated),
                      a.extents ? fmt::format("{}", *a.extents) : "-", a.path});
    }
    fmt::print("{}", format_table({{"ID", true},
                                   {"HOME", true},
                                   {"MODE"},
                                   {"SIZE", true},
                                   {"ALLOCATED", true},
                                   {"EXTENTS", true},
                                   {"PATH"}},
                                  rows));
  }

  std::vector<std::string> paths_;
  bool recursive_ = false, json_ = false;
  std::vector<Allocation> found_;
};

}  // namespace

std::unique_ptr<Command> make_ls_command() { return std::make_unique<LsCommand>(); }

}  // namespace btd::cli
